"""Small tabular datasets, feature files and recipes, made in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.provenance import Provenance
from features.store import FeatureRows, State, write_features
from pipelines.recipe.recipe import Recipe, build_recipe

USERS, ITEMS, WIDTH, LAYERS = 40, 30, 8, 3


def write(path: Path, text: str) -> Path:
    """Write UTF-8 text, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_interactions(folder: Path, rows: Sequence[tuple[object, object, object]]) -> Path:
    """Write a plain folder's interactions.tsv from (user, item, timestamp) rows."""
    lines = ["user\titem\ttimestamp", *("\t".join(map(str, row)) for row in rows)]
    write(folder / "interactions.tsv", "\n".join(lines) + "\n")
    return folder


def small_dataset(folder: Path, *, seed: int = 0) -> Path:
    """Write 40 users of 4 to 17 interactions with 30 items, and titles for all items but the last."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[object, object, object]] = []
    for user in range(USERS):
        items = rng.integers(0, ITEMS, int(rng.integers(4, 18)))
        rows += [(f"u{user:02}", f"{item:03}", time) for time, item in enumerate(items)]
    write_interactions(folder, rows)
    write(folder / "items.csv", "item,title\n" + "".join(f'{i:03},"title, {i}"\n' for i in range(ITEMS - 1)))
    return folder


def write_vectors(
    path: Path,
    dataset: str,
    ids: Sequence[str],
    *,
    seed: int = 0,
    missing: Sequence[str] = (),
    made: Mapping[str, Any] | None = None,
) -> Path:
    """Write a feature file of normal vectors; `made` are further entries of its recipe."""
    vectors: NDArray[Any] = np.random.default_rng(seed).normal(size=(len(ids), WIDTH)).astype(np.float32)
    return _write(path, dataset, ids, vectors, missing, {"encoder": "noise", "seed": seed, **(made or {})})


def write_layers(
    path: Path, dataset: str, ids: Sequence[str], *, missing: Sequence[str] = (), made: Mapping[str, Any] | None = None
) -> Path:
    """Write what `extract --layers` does, or, by another recipe `made`, what has its shape."""
    layers: NDArray[Any] = np.random.default_rng(0).normal(size=(len(ids), LAYERS, WIDTH)).astype(np.float32)
    return _write(path, dataset, ids, layers, missing, made or {"encoder": "noise", "layers": [1, 3, 5]})


def _write(
    path: Path, dataset: str, ids: Sequence[str], values: NDArray[Any], missing: Sequence[str], made: Mapping[str, Any]
) -> Path:
    states = np.array([State.MISSING if item in missing else State.DONE for item in ids], dtype=np.uint8)
    reasons = ["no cover" if item in missing else "" for item in ids]
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = FeatureRows(list(ids), values, states, reasons, [""] * len(ids), [""] * len(ids))
    write_features(path, rows, Provenance(dataset, dict(made)))
    return path


def item_ids() -> list[str]:
    """Return the ids of `small_dataset`."""
    return [f"{item:03}" for item in range(ITEMS)]


def plain_recipe(folder: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a quick SASRec recipe on ids as plain data; `changes` replaces whole sections."""
    return {
        "name": "small",
        "data": {"folder": str(folder)},
        "model": {"name": "sasrec", "dropout": 0.1},
        "items": {"kind": "id", "dim": 8},
        "train": {"epochs": 3, "batch_size": 16, "patience": 9},
        **(changes or {}),
    }


def recipe(folder: Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return the same as a Recipe."""
    return build_recipe(plain_recipe(folder, changes))
