"""What becomes of items that occur in no training row, with and without drawing them as negatives.

    python benchmarks/never_met.py [--models mmgcn,vbpr] [--seeds 2] [--lr 1e-3]

The graph is planted. Users like two of twelve clusters, and content shows the cluster with noise. 6 % of the items
appear only among users' last two interactions, 8 % of the catalogue in no interaction. Every model is trained twice per
seed, with `cold_negatives` false and true. The corpus is synthetic: the table shows what training does, not how often
it happens.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from features.provenance import Provenance
from features.store import FeatureRows, State, write_features
from pipelines.recipe.recipe import build_recipe
from pipelines.runs.experiment import run_recipe

USERS, ITEMS, NOWHERE, CLUSTERS, WIDTH = 900, 800, 70, 12, 32


def main() -> None:
    """Print one row per model, seed and setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mmgcn,grcn,lightgcn,vbpr,bprmf")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | seed | cold_negatives | HR@20 | warm | cold | offered | targets |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as place:
        for seed in range(arguments.seeds):
            folder = plant(Path(place) / f"planted{seed}", seed)
            for model in arguments.models.split(","):
                for drawn in (False, True):
                    print(row(folder, model, seed, drawn, arguments.lr), flush=True)


def plant(folder: Path, seed: int) -> Path:
    """Write the corpus and its features."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    cluster = rng.integers(0, CLUSTERS, ITEMS + NOWHERE)
    centres = rng.normal(size=(CLUSTERS, WIDTH))
    vectors = (0.7 * centres[cluster] + rng.normal(size=(ITEMS + NOWHERE, WIDTH))).astype(np.float32)
    popularity = 1 / np.arange(1, ITEMS + 1) ** 0.7
    rng.shuffle(popularity)
    new = rng.random(ITEMS) < 0.06
    lines = ["user\titem\ttimestamp"]
    for user in range(USERS):
        liked = popularity * np.where(np.isin(cluster[:ITEMS], rng.choice(CLUSTERS, 2, replace=False)), 12, 1)
        early = liked * ~new
        items = list(rng.choice(ITEMS, rng.integers(4, 14), replace=False, p=early / early.sum()))
        items += list(rng.choice(ITEMS, 2, replace=False, p=liked / liked.sum()))
        lines += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(items)]
    (folder / "interactions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ids = [f"i{item}" for item in range(ITEMS + NOWHERE)]
    (folder / "items.csv").write_text("item,title\n" + "".join(f"{item},t\n" for item in ids), encoding="utf-8")
    blank = [""] * len(ids)
    rows = FeatureRows(ids, vectors, np.full(len(ids), State.DONE, np.uint8), blank, blank, blank)
    write_features(folder / "content.h5", rows, Provenance(folder.name, {"encoder": "planted"}), dtype="float32")
    return folder


def row(folder: Path, model: str, seed: int, drawn: bool, lr: float) -> str:
    """Train and test one setting; return its line of the table."""
    fuse = "sum" if model in ("bprmf", "lightgcn") else "concat"
    recipe: dict[str, Any] = {
        "name": model,
        "seed": seed,
        "data": {"folder": str(folder), "keep_last": None, "candidates": "catalog"},
        "items": {"kind": "id+v", "dim": 64, "fuse": fuse},
        "features": [{"path": str(folder / "content.h5")}],
        "model": {"name": model, "loss": "bpr", "cold_negatives": drawn},
        "train": {"epochs": 30, "batch_size": 512, "lr": lr, "patience": 6, "monitor": "HR@20"},
        "evaluate": {"at": [20], "metrics": ["HR"]},
    }
    out = folder / f"{model}-{drawn}"
    test = run_recipe(build_recipe(recipe), out, device="cpu")["test"]
    values = [test[group]["HR@20"] for group in ("all", "warm", "cold")]
    shares = [test["never_met"][name] for name in ("offered", "targets")]
    told = json.dumps(drawn)
    return f"| {model} | {seed} | {told} | " + " | ".join(f"{value:.4f}" for value in [*values, *shares]) + " |"


if __name__ == "__main__":
    main()
