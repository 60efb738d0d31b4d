"""What a run keeps of its data: raw ids and training edges.

With them a run can be used from any folder, and after new interactions have come.

- `users.json` and `items.json`: JSON lists of the ids that the model was trained on. Position n belongs to number n.
- `training.npy`: the (2, E) training edges as such numbers. Models of graphs and of popularity are built from them.
- `interactions.parquet` and `titles.parquet`: the dataset's rows, user after user, and its titles, so that `recommend`
  reads the rows of one user. `dataset.json`: the size, date and hash of each file they were read from. Where one of
  these files has changed, the dataset is read again.
- `users.txt` and `items.txt`: the ids behind the rows of the arrays that are made from the run, one id per line.
  Line r of `users.txt` (from 0) is the test user of row r of `lists.npy`, and of `ranks.npy` where each user has one
  target. Line n of `items.txt` is item n in `lists.npy` and row n of `index.faiss`. They are UTF-8 with line feeds.
  Inside an id, a backslash, a line feed and a carriage return are written as `\\\\`, `\\n` and `\\r`. metrics.json and
  index.json hold the sha256 of these files, as they do for what the files describe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from extract.media.file_marks import file_digest
from features.atomic import write_atomic
from features.errors import ConfigError, StoreError
from features.paths import here, write_advice
from features.shards.marks import without_time
from pipelines.console import note
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset
from pipelines.data.load import Data, file_marks
from pipelines.data.split import EvalPart, Split, TrainWindows
from pipelines.data.vocabulary import Vocabulary
from pipelines.recipe.recipe import Recipe
from pipelines.runs.run_files import read_array, read_object, read_text

USERS, ITEMS, EDGES = "users.json", "items.json", "training.npy"
ROWS, TITLES, SOURCE = "interactions.parquet", "titles.parquet", "dataset.json"
GROUP_ROWS = 2**16  # rows of interactions.parquet that are read together
USER_ROWS, ITEM_ROWS = "users.txt", "items.txt"
ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r"})


def keep(folder: Path, data: Data, config: DataConfig) -> None:
    """Write what a run keeps of its data; StoreError if a file cannot be written."""
    split = data.split
    for name, vocabulary in ((USERS, split.users), (ITEMS, split.items)):
        write_atomic(folder / name, json.dumps(vocabulary.ids, indent=0))
    try:
        np.save(folder / EDGES, split.train_edges)
    except OSError as error:
        raise StoreError(f"cannot write {folder / EDGES} ({error}); {write_advice(error)}") from error
    _keep_rows(folder, data, config)


def _keep_rows(folder: Path, data: Data, config: DataConfig) -> None:
    """Write the dataset's rows and titles, and what they were read from; nothing if that is not known for certain."""
    source, there, dataset = folder / SOURCE, here(config.folder), data.dataset
    for path in (source, folder / ROWS, folder / TITLES):  # dataset.json never stands beside rows of another dataset
        path.unlink(missing_ok=True)
    if not data.files or config.candidates == "catalog":  # a catalog also depends on the folders of media
        return
    titles = pl.DataFrame(list(dataset.titles.items()), schema={"item": pl.String, "title": pl.String}, orient="row")
    try:
        # small groups of rows: a user's rows are in one or two of them, and only those are read
        by_user(dataset.interactions).write_parquet(folder / ROWS, row_group_size=GROUP_ROWS)
        titles.write_parquet(folder / TITLES)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"cannot write {folder / ROWS} ({error}); free some space, or check the folder") from error
    files = {name: {"mark": mark, "digest": file_digest(there / name)} for name, mark in data.files.items()}
    told = {"name": dataset.name, "layout": dataset.layout, "ordered": dataset.ordered, "files": files, "by_user": True}
    if file_marks(there) == data.files:  # nothing changed between reading the files and hashing them
        write_atomic(source, json.dumps(told, indent=2))


def kept_user(folder: Path, config: DataConfig, user: str | None) -> Data | None:
    """Return the data of a run with one user's interactions alone, as the run keeps them.

    Args:
        folder: the run folder.
        config: the run's section `data`, with the dataset folder as it is found now.
        user: the user's raw id; None reads no interactions.

    Returns:
        The dataset, whose interactions are that user's, and the split without windows and targets. None where the
        dataset has to be read: the run keeps too little, or a file of the dataset has changed.
    """
    told = _kept_source(folder, config)
    if told is None:
        return None
    if not here(config.folder).exists():
        note(f"dataset folder {config.folder} does not exist any more; the interactions that {folder} keeps are used")
    try:
        rows = (
            pl.scan_parquet(folder / ROWS).filter(pl.lit(False) if user is None else pl.col("user") == user).collect()
        )
        titles = dict(pl.read_parquet(folder / TITLES).iter_rows())
        dataset = Dataset(told["name"], told["layout"], rows, titles, None, None, ordered=told["ordered"])
    except (KeyError, OSError, pl.exceptions.PolarsError):  # damaged: the dataset has it all, too
        return None
    split = kept_split(folder, dataset)
    return None if split is None else Data(dataset, split)


def kept_rows(folder: Path, config: DataConfig, at_a_time: int) -> Iterator[pl.DataFrame] | None:
    """Return users and items of the interactions that a run keeps, user after user, in parts; None as in `kept_user`.

    A run of an earlier version keeps them in the order of the dataset; they come in one part.
    """
    told = _kept_source(folder, config)
    if told is None:
        return None
    kept = pl.scan_parquet(folder / ROWS).select("user", "item")
    if not told.get("by_user"):
        return iter([by_user(kept.collect())])
    total = kept.select(pl.len()).collect().item()
    return (kept.slice(start, at_a_time).collect() for start in range(0, total, at_a_time))


def by_user(rows: pl.DataFrame) -> pl.DataFrame:
    """Return interactions with the rows of each user together, in their order."""
    return rows if rows["user"].is_sorted() else rows.sort("user", maintain_order=True)


def _kept_source(folder: Path, config: DataConfig) -> dict[str, Any] | None:
    """Return what dataset.json says if the rows beside it are those of the dataset now, or there is no dataset now."""
    if not all((folder / name).is_file() for name in (SOURCE, ROWS, TITLES)):
        return None
    there = here(config.folder)
    try:
        told = read_object(folder / SOURCE)
        if there.exists() and not _same_files(there, told["files"]):
            return None
    except (ConfigError, KeyError):
        return None
    return told


def kept_titles(folder: Path) -> dict[str, str]:
    """Return the titles that a run keeps of its dataset; none where it keeps none that can be read."""
    try:
        return dict(pl.read_parquet(folder / TITLES).iter_rows())
    except (OSError, pl.exceptions.PolarsError):
        return {}


def _same_files(folder: Path, then: Mapping[str, Mapping[str, str]]) -> bool:
    """Return whether a dataset folder holds the files that were read; bytes decide where only a date differs."""
    now = file_marks(folder)
    if now.keys() != then.keys():
        return False
    for name, mark in now.items():
        if mark == then[name]["mark"]:
            continue
        if without_time(mark) != without_time(then[name]["mark"]) or file_digest(folder / name) != then[name]["digest"]:
            return False
    return True


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
