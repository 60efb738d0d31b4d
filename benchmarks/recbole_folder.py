"""RecBole reads what `export recbole` wrote: the same users, items, interactions and targets, and an epoch trains.

    python benchmarks/recbole_folder.py --data DIR --recbole RECBOLE [--features F.h5] [--out FILE.md]

RECBOLE is a folder with the package `recbole` and what it needs, such as the site-packages of an environment of its
own. For each split of a dataset the export is written into a temporary folder. RecBole then reads it in a process of
its own, as the settings beside it say, and trains one epoch of BPR and of SASRec. The script fails if a count, a target
or a vector differs. benchmarks/recbole_peer.py says what RecBole 1.2.1 needs to start.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
NAME = "exported"
MODELS = {"BPR": f"{NAME}.yaml", "SASRec": f"{NAME}-sequential.yaml"}
SPLITS = {
    "leave-one-out": {"keep_last": None},
    "time": {"split": "time", "min_interactions": 1},
    "ratio": {"split": "ratio"},
    "ratio, random": {"split": "ratio", "order": "random"},
    "user-folds": {"split": "user-folds"},
}


def main() -> None:
    """Compare every split, or, in the process of its own, load one folder."""
    parser = argparse.ArgumentParser(description="RecBole reads what `export recbole` wrote.")
    parser.add_argument("--data", type=Path, help="dataset folder")
    parser.add_argument("--recbole", type=Path, help="folder that holds the package recbole")
    parser.add_argument("--features", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, help="write the table into this file, too")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        sys.stdout.write("\n" + json.dumps(loaded(arguments.load, arguments.model)) + "\n")
        return
    header = ["split", "model", "RecBole", "users", "items", "interactions", "valid / test targets", "loss", "NDCG@10"]
    rows = chain.from_iterable(compared(arguments, title, options) for title, options in SPLITS.items())
    table = ""
    for line in chain([header, ["---"] * len(header)], rows):
        table += f"| {' | '.join(line)} |\n"
        sys.stdout.write(f"| {' | '.join(line)} |\n")
        sys.stdout.flush()
    if arguments.out:
        arguments.out.write_text(table, encoding="utf-8")


def compared(arguments: argparse.Namespace, title: str, options: dict[str, Any]) -> Iterator[list[str]]:
    """Export one split, let RecBole read it with each model, and yield a row of the table for each."""
    from features.store import FeatureFile
    from pipelines.data.data_config import DataConfig
    from pipelines.data.detection import read_dataset
    from pipelines.data.load import make_split
    from pipelines.recbole.export import export_recbole

    config = DataConfig(str(arguments.data), **options)
    dataset = read_dataset(arguments.data)
    split = make_split(dataset, config)
    files = [FeatureFile(path) for path in arguments.features]
    with tempfile.TemporaryDirectory() as place:
        report = export_recbole(
            Path(place), NAME, split, max_length=config.max_length, titles=dataset.titles, features=files
        )
        assert not report.numbered, "give a dataset whose ids RecBole can hold as they are"
        for model, settings in MODELS.items():
            if settings not in report.settings:
                continue
            found = in_its_process(arguments.recbole, report.folder, model)
            check(found, split, report, files, with_histories=split.protocol != "leave-one-out" and model == "SASRec")
            counts = [str(found[what]) for what in ("users", "items", "interactions")]
            targets = f"{found['valid']['count']} / {found['test']['count']}"
            yield [title, model, found["version"], *counts, targets, f"{found['loss']:.4f}", f"{found['ndcg']:.4f}"]


def in_its_process(recbole: Path, folder: Path, model: str) -> dict[str, Any]:
    """Return what RecBole found in a folder."""
    command = [sys.executable, __file__, "--load", str(folder), "--model", model]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(recbole), "PYTHONWARNINGS": "ignore"},
        cwd=folder.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def check(found: dict[str, Any], split: Any, report: Any, files: list[Any], *, with_histories: bool) -> None:
    """Fail where RecBole found something else than the split holds."""
    first = np.unique(split.train_edges[0]).size if with_histories else 0  # without a history, hence without a row
    wanted = {
        "users": report.users,
        "items": report.items,
        "interactions": sum(report.rows) - first,
        "valid": pairs(split, split.valid),
        "test": pairs(split, split.test),
    }
    for name, value in wanted.items():
        assert found[name] == value, f"{name}: RecBole has {found[name]}, the split {value}"
    for file, total in zip(files, found["vectors"], strict=True):
        ids = [item for item, done in zip(split.items.ids, file.done(split.items.ids), strict=True) if done]
        np.testing.assert_allclose(total, file.read(ids).astype(np.float64).sum(0), rtol=1e-6, atol=1e-6)


def pairs(split: Any, part: Any) -> dict[str, Any]:
    """Return number and digest of a part's users and targets, as raw ids."""
    return digest((split.users.ids[user], split.items.ids[item]) for user, item in part.pairs.T.tolist())


def digest(found: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return how many pairs there are, and a hash of them in sorted order."""
    ordered = sorted([user, item] for user, item in found)
    return {"count": len(ordered), "sha256": hashlib.sha256(json.dumps(ordered).encode()).hexdigest()}


def loaded(folder: Path, model: str) -> dict[str, Any]:
    """Return what RecBole reads in a folder, and the loss and validation of one epoch."""
    from benchmarks.recbole_peer import make_it_start

    make_it_start()
    import recbole
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]  # RecBole reads the command line, too
    own = {
        "data_path": str(folder.parent),
        "use_gpu": False,
        "show_progress": False,
        "epochs": 1,
        "checkpoint_dir": str(folder.parent / "saved"),
        "state": "ERROR",
        "eval_batch_size": 1_000_000 if model == "BPR" else 4096,
    }
    config = Config(model=model, dataset=NAME, config_file_list=[str(folder / MODELS[model])], config_dict=own)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    found = {
        "version": recbole.__version__,
        "users": dataset.user_num - 1,  # without the padding
        "items": dataset.item_num - 1,
        "interactions": dataset.inter_num,
    }
    parts = data_preparation(config, dataset)
    for name, part in zip(("valid", "test"), parts[1:], strict=True):
        rows = part._dataset.inter_feat
        tokens = [dataset.id2token(field, rows[field].numpy()) for field in ("user_id", "item_id")]
        found[name] = digest(zip(*(column.tolist() for column in tokens), strict=True))
    fields = list(config["preload_weight"] or {})
    found["vectors"] = [dataset.get_preload_weight(field).sum(0).tolist() for field in fields]
    network = get_model(config["model"])(config, parts[0]._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
    logging.disable(logging.CRITICAL)
    found["loss"] = float(trainer._train_epoch(parts[0], 0))
    found["ndcg"] = float(trainer.evaluate(parts[1], load_best_model=False)["ndcg@10"])
    return found


if __name__ == "__main__":
    main()
