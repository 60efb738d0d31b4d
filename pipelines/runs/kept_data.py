"""What a run keeps of its data: raw ids and training edges.

With them a run can be used from any folder, and after new interactions have come.

- `users.json` and `items.json`: JSON lists of the ids that the model was trained on. Position n belongs to number n.
- `training.npy`: the (2, E) training edges as such numbers. Models of graphs and of popularity are built from them.
- `users.txt` and `items.txt`: the ids behind the rows of the arrays that are made from the run, one id per line.
  Line r of `users.txt` (from 0) is the test user of row r of `lists.npy`, and of `ranks.npy` where each user has one
  target. Line n of `items.txt` is item n in `lists.npy` and row n of `index.faiss`. They are UTF-8 with line feeds.
  Inside an id, a backslash, a line feed and a carriage return are written as `\\\\`, `\\n` and `\\r`. metrics.json and
  index.json hold the sha256 of these files, as they do for what the files describe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from features.atomic import write_atomic
from features.errors import ConfigError, StoreError
from features.paths import here, write_advice
from pipelines.data.dataset import Dataset
from pipelines.data.split import EvalPart, Split, TrainWindows
from pipelines.data.vocabulary import Vocabulary
from pipelines.recipe.recipe import Recipe
from pipelines.runs.run_files import read_array, read_object, read_text

USERS, ITEMS, EDGES = "users.json", "items.json", "training.npy"
USER_ROWS, ITEM_ROWS = "users.txt", "items.txt"
ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r"})


def keep(folder: Path, split: Split) -> None:
    """Write users.json, items.json and training.npy of a split; StoreError if one cannot be written."""
    for name, vocabulary in ((USERS, split.users), (ITEMS, split.items)):
        write_atomic(folder / name, json.dumps(vocabulary.ids, indent=0))
    try:
        np.save(folder / EDGES, split.train_edges)
    except OSError as error:
        raise StoreError(f"cannot write {folder / EDGES} ({error}); {write_advice(error)}") from error


def write_row_ids(folder: Path, split: Split) -> dict[str, str]:
    """Write users.txt and items.txt beside a run's ranks and lists.

    Returns:
        File name -> sha256, for metrics.json.

    Raises:
        StoreError: a file cannot be written.
    """
    users = [split.users.ids[user] for user in split.test.users.tolist()]
    texts = {USER_ROWS: id_lines(users), ITEM_ROWS: id_lines(split.items.ids)}
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def id_lines(ids: Sequence[str]) -> str:
    r"""Return ids one per line, escaped so that each stays on its line.

    >>> id_lines(["u1", "two\nlines"])
    'u1\ntwo\\nlines\n'
    """
    text = "".join(f"{one.translate(ESCAPES)}\n" for one in ids)
    # readers take a first byte-order mark for the encoding's, so an id that begins with one gets another in front
    return f"\ufeff{text}" if text.startswith("\ufeff") else text


def kept_split(folder: Path, dataset: Dataset) -> Split | None:
    """Return the split that a run was trained on, without its windows and targets; None if the run kept none.

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
        told=facts.get("split_told", ""),
    )


def _vocabulary(path: Path, what: str) -> Vocabulary:
    try:
        ids = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is damaged ({error}); delete the run folder and train again") from error
    return Vocabulary(tuple(ids), what)


def placed(recipe: Recipe, folder: Path, data: Path | None) -> Recipe:
    """Return a run's recipe with paths that exist as seen from the current folder.

    A relative path that leads nowhere is replaced by where it led when the run was trained.

    Args:
        recipe: the recipe as it was run.
        folder: the run folder.
        data: the dataset folder to use instead of the recipe's.
    """
    there, files = _recorded(folder / "record.json")
    if data is not None:
        recipe = replace(recipe, data=replace(recipe.data, folder=str(data)))
    elif there is not None and not here(recipe.data.folder).is_dir() and there.is_dir():
        recipe = replace(recipe, data=replace(recipe.data, folder=str(there)))
    found = []
    for number, feature in enumerate(recipe.features):
        moved = not feature.matches() and number in files and Path(files[number]).is_file()
        found.append(replace(feature, path=files[number]) if moved else feature)
    return replace(recipe, features=tuple(found))


def _recorded(path: Path) -> tuple[Path | None, dict[int, str]]:
    """Return where a run's dataset was, and its feature files by place in the recipe; None and {} if not recorded."""
    record = read_object(path) if path.is_file() else {}
    dataset, features = record.get("dataset"), record.get("features")
    folder = dataset.get("folder") if isinstance(dataset, dict) else None
    listed = [entry for entry in features if "listed" in entry] if isinstance(features, list) else []
    return Path(folder) if folder else None, {entry["listed"]: entry["file"] for entry in listed}
