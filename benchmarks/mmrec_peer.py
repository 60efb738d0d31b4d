"""MMRec's side of a comparison, in its own process: seconds and peak memory of training epochs.

`benchmarks/train_graph.py` starts this in MMRec's `src` folder. None of MMRec's files is changed. For current libraries
it gets back `dok_matrix._update`, which scipy removed. Its MMGCN projects features to a width that is fixed in its code
(256); here that becomes the model's width, as on our side. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from typing import Any

import torch


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description="MMRec's side of a comparison.")
    parser.add_argument("--model", required=True, choices=["LightGCN", "MMGCN"])
    parser.add_argument("--settings", required=True, help="JSON of MMRec settings, data_path and dataset among them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="epochs timed, after one to warm up")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sys.path.insert(0, ".")
    make_it_start()
    trainer, data = build(arguments.model, json.loads(arguments.settings))
    seconds = []
    for epoch in range(arguments.rounds + 1):
        began = time.perf_counter()
        trainer._train_epoch(data, epoch)
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write("\n" + json.dumps({"epoch_s": seconds[1:], "peak_mb": peak}) + "\n")


def make_it_start() -> None:
    """Give MMRec the name that scipy removed."""
    from scipy.sparse import dok_matrix

    def update(self: Any, entries: dict[Any, Any]) -> None:
        self._dict.update(entries)

    dok_matrix._update = update


def build(name: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """Return MMRec's trainer and training data."""
    from utils.configurator import Config  # type: ignore[import-not-found]
    from utils.dataloader import TrainDataLoader  # type: ignore[import-not-found]
    from utils.dataset import RecDataset  # type: ignore[import-not-found]
    from utils.utils import get_model, get_trainer, init_seed  # type: ignore[import-not-found]

    config = Config(name, settings.pop("dataset"), settings, False)
    for key in ("n_layers", "reg_weight", "learning_rate", "seed"):  # lists of a grid search
        config[key] = config[key][0] if isinstance(config[key], list) else config[key]
    init_seed(config["seed"])
    part = RecDataset(config).split()[0]
    str(part)  # MMRec counts when it logs
    data = TrainDataLoader(config, part, batch_size=config["train_batch_size"], shuffle=True)
    data.pretrain_setup()
    kind = get_model(name)
    if name == "MMGCN":
        branch, width = sys.modules[kind.__module__].GCN, config["embedding_size"]
        begin = branch.__init__
        branch.__init__ = lambda *args, **options: begin(*args, **options | {"dim_latent": width})
    model = kind(config, data).to(config["device"])
    return get_trainer()(config, model, False), data


if __name__ == "__main__":
    main()
