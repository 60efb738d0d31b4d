"""What a run keeps of its data, to be of use from any folder and after new interactions: ids and training edges.

`users.json` and `items.json` name the rows of every table, index and list of the run; `training.npy` holds the (2, E)
training edges as dense numbers, from which models of graphs and of popularity are built again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from features.atomic import write_atomic
from features.errors import ConfigError, StoreError
from features.paths import write_advice
from pipelines.data.dataset import Dataset
from pipelines.data.split import EvalPart, Split, TrainWindows
from pipelines.data.vocabulary import Vocabulary
from pipelines.recipe.recipe import Recipe
from pipelines.runs.run_files import read_array, read_object, read_text

USERS, ITEMS, EDGES = "users.json", "items.json", "training.npy"


def keep(folder: Path, split: Split) -> None:
    """Write what a run keeps of its split; StoreError where it cannot."""
    for name, vocabulary in ((USERS, split.users), (ITEMS, split.items)):
        write_atomic(folder / name, json.dumps(vocabulary.ids, indent=0))
    try:
        np.save(folder / EDGES, split.train_edges)
    except OSError as error:
        raise StoreError(f"cannot write {folder / EDGES} ({error}); {write_advice(error)}") from error


def kept_split(folder: Path, dataset: Dataset) -> Split | None:
    """Return the split that a run was trained on, without its windows and targets; None where it kept none.

    Raises:
        ConfigError: a file of the run is damaged.
    """
    if not all((folder / name).is_file() for name in (USERS, ITEMS, EDGES)):
        return None  # a run of an earlier version
    users, items = (_vocabulary(folder / name, what) for name, what in ((USERS, "user"), (ITEMS, "item")))
    edges = read_array(folder / EDGES).astype(np.int64)
    facts = read_object(folder / "record.json")["dataset"]
    none = np.zeros(0, np.int64)
    nobody = np.zeros((0, 1), np.int64)
    part = EvalPart(none, nobody, nobody.astype(bool), none, none, np.zeros(1, np.int64))
    return Split(
        dataset=dataset.name,
        users=users,
        items=items,
        train=TrainWindows(none, nobody, nobody.astype(bool)),
        valid=part,
        test=part,
        train_counts=np.bincount(edges[1], minlength=len(items)),
        train_edges=edges,
        fingerprint=facts["fingerprint"],
        dropped_users=facts["dropped_users"],
        dropped_items=facts.get("dropped_items", 0),
        protocol=facts.get("split", "leave-one-out"),
    )


def _vocabulary(path: Path, what: str) -> Vocabulary:
    try:
        ids = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is damaged ({error}); delete the run folder and train again") from error
    return Vocabulary(tuple(ids), what)


def placed(recipe: Recipe, folder: Path, data: Path | None) -> Recipe:
    """Return a run's recipe with paths that lead somewhere from here.

    Args:
        recipe: as it was run.
        folder: the run folder.
        data: the dataset folder to use instead of the recipe's.

    A relative path that leads nowhere from here is replaced by where it led when the run was trained.
    """
    there, files = _recorded(folder / "record.json")
    if data is not None:
        recipe = replace(recipe, data=replace(recipe.data, folder=str(data)))
    elif there is not None and not Path(recipe.data.folder).is_dir() and there.is_dir():
        recipe = replace(recipe, data=replace(recipe.data, folder=str(there)))
    found = []
    for number, feature in enumerate(recipe.features):
        moved = not feature.matches() and number in files and Path(files[number]).is_file()
        found.append(replace(feature, path=files[number]) if moved else feature)
    return replace(recipe, features=tuple(found))


def _recorded(path: Path) -> tuple[Path | None, dict[int, str]]:
    """Return where a run's dataset was, and its feature files by their place in the recipe; nothing where not told."""
    record = read_object(path) if path.is_file() else {}
    dataset, features = record.get("dataset"), record.get("features")
    folder = dataset.get("folder") if isinstance(dataset, dict) else None
    listed = [entry for entry in features if "listed" in entry] if isinstance(features, list) else []
    return Path(folder) if folder else None, {entry["listed"]: entry["file"] for entry in listed}
