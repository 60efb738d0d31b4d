"""RecBole's side of a comparison, in its own process: seconds and memory of epochs, or the accuracy of a training.

`benchmarks/train.py` and `benchmarks/accuracy.py` start this with RecBole's folder on PYTHONPATH. RecBole 1.2.1 does
not start with current libraries. What it lacks is added here from outside; none of its files is changed:

- ray: an empty stand-in, because only tuning uses it, and its newest allowed release needs a module that setuptools has
  dropped;
- names that numpy 2 removed, and `dok_matrix._update`, which scipy removed;
- `torch.load` with `weights_only` off, because its checkpoints hold a Python object.

Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description="RecBole's side of a comparison.")
    parser.add_argument("--inter", type=Path, required=True, help="folder NAME with NAME.inter in RecBole's format")
    parser.add_argument("--model", required=True, help="a model of RecBole")
    parser.add_argument("--settings", default="{}", help="JSON of RecBole settings")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="epochs timed, after one to warm up; 0: train to the end")
    parser.add_argument("--checkpoint", help="with --rounds 0: test this checkpoint of RecBole instead of training")
    parser.add_argument("--anomaly", choices=["shipped", "off"], default="shipped", help="autograd's anomaly mode")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make_it_start()
    trainer, parts = build(arguments.inter, arguments.model, json.loads(arguments.settings))
    if arguments.anomaly == "off":
        torch.autograd.set_detect_anomaly(False)
    logging.disable(logging.CRITICAL)
    if arguments.rounds:
        result = timed(trainer, parts, arguments.rounds)
    else:
        result = trained(trainer, parts, arguments.checkpoint)
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps(result) + "\n")


def make_it_start() -> None:
    """Give RecBole the names that current libraries lack."""
    for name in ("ray", "ray.tune"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["ray"].tune = sys.modules["ray.tune"]  # type: ignore[attr-defined]
    for old, new in (("bool8", np.bool_), ("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        setattr(np, old, new)
    from scipy.sparse import dok_matrix

    def update(self: Any, entries: dict[Any, Any]) -> None:
        for place, value in entries.items():
            self[place] = value

    dok_matrix._update = update
    load = torch.load
    torch.load = lambda *args, **kwargs: load(*args, **{"weights_only": False} | kwargs)  # type: ignore[assignment]


def build(inter: Path, model: str, settings: dict[str, Any]) -> tuple[Any, tuple[Any, Any, Any]]:
    """Return RecBole's trainer and its train, validation and test data."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    given = {
        "data_path": str(inter.parent),
        "use_gpu": False,
        "show_progress": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": ["Hit", "NDCG"],
        "topk": [10, 20],
        "valid_metric": "NDCG@10",
        "checkpoint_dir": str(inter.parent / "saved"),
        "state": "ERROR",
    } | settings
    sys.argv = sys.argv[:1]  # RecBole reads the command line, too
    config = Config(model=model, dataset=inter.name, config_dict=given)
    init_seed(config["seed"], config["reproducibility"])
    parts = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    network = get_model(config["model"])(config, parts[0]._dataset).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, network), parts


def timed(trainer: Any, parts: tuple[Any, Any, Any], rounds: int) -> dict[str, Any]:
    """Return seconds of each epoch of training and of each full-ranking evaluation; the first of each is left out."""
    epochs, evaluations = [], []
    for epoch in range(rounds + 1):
        began = time.perf_counter()
        trainer._train_epoch(parts[0], epoch)
        epochs.append(time.perf_counter() - began)
        began = time.perf_counter()
        trainer.evaluate(parts[2], load_best_model=False)
        evaluations.append(time.perf_counter() - began)
    return {"epoch_s": epochs[1:], "evaluation_s": evaluations[1:], "median_s": statistics.median(epochs[1:])}


def trained(trainer: Any, parts: tuple[Any, Any, Any], checkpoint: str | None) -> dict[str, Any]:
    """Train with RecBole's early stopping, or use a checkpoint; return test metrics of the best epoch.

    'test' is ranked as RecBole does. 'hide', for sequential models only, hides all of a user's items but the target.
    """
    began = time.perf_counter()
    if checkpoint is None:
        trainer.fit(parts[0], parts[1], verbose=False, saved=True, show_progress=False)
    seconds = time.perf_counter() - began
    found: dict[str, Any] = {"train_s": seconds}
    options = {"load_best_model": True, "model_file": checkpoint}
    found["test"] = {name: float(value) for name, value in trainer.evaluate(parts[2], **options).items()}
    if hasattr(trainer.model, "ITEM_SEQ"):
        hide_seen(trainer, parts)
        found["hide"] = {name: float(value) for name, value in trainer.evaluate(parts[2], **options).items()}
    return found


def hide_seen(trainer: Any, parts: tuple[Any, Any, Any]) -> None:
    """Make RecBole's ranking of a sequential model hide what the user has had, but never the target."""
    model, ranking = trainer.model, trainer._full_sort_batch_eval
    users, items = [], []
    for part in parts:
        table = part._dataset.inter_feat
        length = table[model.ITEM_SEQ].shape[1]
        users += [table[model.USER_ID], table[model.USER_ID].repeat_interleave(length)]
        items += [table[model.ITEM_ID], table[model.ITEM_SEQ].flatten()]
    pairs = torch.unique(torch.stack([torch.cat(users), torch.cat(items)]), dim=1)
    starts = torch.searchsorted(pairs[0].contiguous(), torch.arange(int(pairs[0].max()) + 2))

    def hidden(batched_data: Any) -> Any:
        interaction, scores, positive_u, positive_i = ranking(batched_data)
        kept = scores[positive_u, positive_i].clone()
        for row, user in enumerate(interaction[model.USER_ID].tolist()):
            scores[row, pairs[1, starts[user] : starts[user + 1]]] = -torch.inf
        scores[positive_u, positive_i] = kept
        return interaction, scores, positive_u, positive_i

    trainer._full_sort_batch_eval = hidden


if __name__ == "__main__":
    main()
