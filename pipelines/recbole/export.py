"""Export a split and features to RecBole (docs/recbole.md): atomic files, and settings that use the same split.

- Leave-one-out goes into one NAME.inter, which RecBole splits itself, to the same targets.
- Any other split is written out, a file per part: plain rows for models of users and items, and rows with their
  histories for sequential models. RecBole reads one or the other, as NAME.yaml or NAME-sequential.yaml says.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from features.atomic import whole_folder
from features.errors import ConfigError, StoreError
from features.paths import refused_by_windows
from features.store import FeatureFile
from pipelines.data.joining import refuse_foreign, refuse_occupied
from pipelines.data.split import EvalPart, Split
from pipelines.recbole.atomic_check import check_recbole_folder, sequence_names
from pipelines.recbole.atomic_files import (
    HISTORY,
    ITEM,
    PARTS,
    TIME,
    TITLE,
    USER,
    VECTOR,
    VECTOR_ID,
    safe,
    words,
    write_atomic_file,
)

RECORD = "freezeframe.json"
BUNDLED = ("ml-100k",)  # RecBole reads its own copy under this name, wherever data_path points


@dataclass(frozen=True)
class RecBoleReport:
    """What an export wrote."""

    folder: Path
    """The folder OUT/NAME."""
    users: int
    """Number of users with a row."""
    items: int
    """Number of items in NAME.item: the candidates. RecBole counts one more, its padding."""
    rows: tuple[int, int, int]
    """Numbers of train, valid and test interactions."""
    settings: tuple[str, ...]
    """Names of the settings files."""
    vectors: Mapping[str, tuple[str, int]]
    """Suffix of each file of vectors -> the feature file's name, and how many items have no vector (zeros in RecBole).
    """
    numbered: bool
    """Whether ids are numbers, with user_ids.tsv and item_ids.tsv beside them, because RecBole cannot hold one."""


def export_recbole(
    out: Path,
    name: str,
    split: Split,
    *,
    max_length: int,
    titles: Mapping[str, str] | None = None,
    features: Sequence[FeatureFile] = (),
    overwrite: bool = False,
) -> RecBoleReport:
    """Write `OUT/NAME/`, whole or not at all, and check it.

    Args:
        out: RecBole's `data_path`.
        name: the dataset's name in RecBole.
        split: train, valid and test interactions; all its candidates go into NAME.item.
        max_length: L, the longest history that sequential models see.
        titles: item id -> title, for NAME.item.
        features: feature files of vectors (I, F), for models that use RecBole's `preload_weight`.
        overwrite: replace a folder that holds something else than an export of the same dataset.

    Raises:
        ConfigError: a name or a split that RecBole cannot hold.
        StoreError: features of other items or not one vector per item, or an occupied folder.
    """
    _check_arguments(name, split, features)
    folder = out / name
    if folder.exists() and not overwrite:
        refuse_occupied(folder / RECORD, split.dataset)
    numbered = not all(map(safe, [*split.users.ids, *split.items.ids]))
    users, items = (
        [str(number) for number in range(len(ids))] if numbered else list(ids)
        for ids in (split.users.ids, split.items.ids)
    )
    with whole_folder(folder) as fresh:
        settings = _write_interactions(fresh, name, split, (users, items), max_length)
        _write_items(fresh / f"{name}.item", items, split.items.ids, titles or {})
        vectors = {suffix: _write_vectors(fresh, name, suffix, file, split, items) for suffix, file in _named(features)}
        report = RecBoleReport(
            folder=folder,
            users=len(np.unique(np.concatenate([split.train_edges[0], split.valid.users, split.test.users]))),
            items=len(items),
            rows=(split.train_edges.shape[1], len(split.valid.targets), len(split.test.targets)),
            settings=tuple(settings),
            vectors=vectors,
            numbered=numbered,
        )
        for file, options in settings.items():
            (fresh / file).write_text(_yaml(name, split, options, vectors, max_length), encoding="utf-8", newline="\n")
        if numbered:
            _write_ids(fresh / "user_ids.tsv", split.users.ids)
            _write_ids(fresh / "item_ids.tsv", split.items.ids)
        (fresh / RECORD).write_text(
            json.dumps(_record(report, split, features), indent=1), encoding="utf-8", newline="\n"
        )
        problems = check_recbole_folder(fresh, name)
        if problems:
            raise ConfigError(f"this split and these features cannot go to RecBole: {'; '.join(problems)}")
    return report


def _check_arguments(name: str, split: Split, features: Sequence[FeatureFile]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in BUNDLED:
        why = "RecBole reads its own copy of that one" if name in BUNDLED else "use letters, digits, '_' and '-'"
        raise ConfigError(f"RecBole dataset name {name!r} becomes a folder and the names of its files; {why}")
    if sys.platform == "win32" and refused_by_windows(name):
        raise ConfigError(f"RecBole dataset name {name!r} becomes a folder, which Windows refuses; choose another")
    for file in features:
        refuse_foreign(file, split.items.ids, split.dataset)
        if len(file.shape) != 2:
            raise StoreError(f"{file.path} holds activations or pixels {file.shape}; RecBole takes one vector per item")


def _named(features: Sequence[FeatureFile]) -> list[tuple[str, FeatureFile]]:
    """Return each feature file with its suffix: itememb, itememb2, itememb3."""
    return [(f"itememb{number if number > 1 else ''}", file) for number, file in enumerate(features, start=1)]


def _write_interactions(
    folder: Path, name: str, split: Split, ids: tuple[list[str], list[str]], max_length: int
) -> dict[str, dict[str, Any]]:
    """Write the interactions; return the settings that differ, by name of the settings file."""
    plain = {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
    sequential: dict[str, Any] = {"train_neg_sample_args": None, "MAX_ITEM_LIST_LENGTH": max_length}
    header = (USER, ITEM, TIME)
    if split.protocol == "leave-one-out":
        write_atomic_file(folder / f"{name}.inter", header, _sorted(_rows(split, ids)))
        return {f"{name}.yaml": plain, f"{name}-sequential.yaml": sequential}
    found = {}
    if not split.strangers:
        rows = list(_rows(split, ids))
        for number, part in enumerate(PARTS):
            own = (row for place, row in rows if place == number)
            write_atomic_file(folder / f"{name}.{part}.inter", header, own)
        found[f"{name}.yaml"] = plain | {"benchmark_filename": list(PARTS)}
    sequences = (_windows(split, ids), _histories(split.valid, ids), _histories(split.test, ids))
    for part, with_history in zip(sequence_names(), sequences, strict=True):
        write_atomic_file(folder / f"{name}.{part}.inter", (USER, HISTORY, ITEM), with_history)
    return found | {
        f"{name}-sequential.yaml": sequential
        | {"benchmark_filename": sequence_names(), "alias_of_item_id": ["item_id_list"]}
    }


def _rows(split: Split, ids: tuple[list[str], list[str]]) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Yield (part, (user, item, place)) of all interactions; the place counts a user's rows, part after part."""
    places = np.zeros(len(split.users), np.int64)
    for number, pairs in enumerate((split.train_edges, split.valid.pairs, split.test.pairs)):
        for user, item in pairs.T.tolist():
            yield number, (ids[0][user], ids[1][item], str(places[user]))
            places[user] += 1


def _sorted(rows: Iterator[tuple[int, tuple[str, str, str]]]) -> list[tuple[str, str, str]]:
    """Return the rows of all parts, user after user, in each user's order."""
    return sorted((row for _, row in rows), key=lambda row: (row[0], int(row[2])))


def _windows(split: Split, ids: tuple[list[str], list[str]]) -> Iterator[tuple[str, str, str]]:
    """Yield (user, history, item) for every training position but a user's first: the last L items before it."""
    length = split.train.items.shape[1] - 1
    bounds = np.searchsorted(split.train_edges[0], np.arange(len(split.users) + 1)).tolist()  # edges go user by user
    for user, (start, end) in enumerate(pairwise(bounds)):
        own = [ids[1][item] for item in split.train_edges[1][start:end].tolist()]
        for place in range(1, len(own)):
            yield ids[0][user], " ".join(own[max(0, place - length) : place]), own[place]


def _histories(part: EvalPart, ids: tuple[list[str], list[str]]) -> Iterator[tuple[str, str, str]]:
    """Yield (user, history, item) for every target of a part."""
    for number, user in enumerate(part.users.tolist()):
        history = " ".join(ids[1][item] for item in part.items[number][part.mask[number]].tolist())
        for item in part.targets[part.bounds[number] : part.bounds[number + 1]].tolist():
            yield ids[0][user], history, ids[1][item]


def _write_items(path: Path, items: Sequence[str], raw: Sequence[str], titles: Mapping[str, str]) -> None:
    shown = [words(titles.get(one, "")) for one in raw]
    if any(shown):
        write_atomic_file(path, (ITEM, TITLE), zip(items, shown, strict=True))
    else:
        write_atomic_file(path, (ITEM,), ([item] for item in items))


def _write_vectors(
    folder: Path, name: str, suffix: str, file: FeatureFile, split: Split, items: Sequence[str]
) -> tuple[str, int]:
    """Write the vectors of the items that have one; return the feature file's name, and how many items have none."""
    done = file.done(split.items.ids)
    which = np.flatnonzero(done).tolist()
    if not which:
        raise StoreError(f"{file.path} has no vector of an item of {split.dataset!r}; extract them again")
    vectors = file.read([split.items.ids[row] for row in which])
    number = suffix.removeprefix("itememb")
    header = (f"{VECTOR_ID}{number}:token", f"{VECTOR}{number}:float_seq")
    cells = ((items[row], " ".join(f"{one:.9g}" for one in vector)) for row, vector in zip(which, vectors, strict=True))
    write_atomic_file(folder / f"{name}.{suffix}", header, cells)
    return file.path.name, len(items) - len(which)


def _write_ids(path: Path, ids: Sequence[str]) -> None:
    text = "".join(f"{number}\t{json.dumps(one)}\n" for number, one in enumerate(ids))
    path.write_text(text, encoding="utf-8", newline="\n")


def _yaml(
    name: str, split: Split, options: Mapping[str, Any], vectors: Mapping[str, tuple[str, int]], max_length: int
) -> str:
    """Return a settings file; JSON is YAML, and says what is text and what is not."""
    columns = ["user_id", "item_id", "timestamp"]
    if "alias_of_item_id" in options:
        columns = ["user_id", "item_id_list", "item_id"]
    numbers = {suffix: suffix.removeprefix("itememb") for suffix in vectors}
    load: dict[str, Any] = {"inter": columns, "item": ["item_id"]}
    load |= {suffix: [f"{VECTOR_ID}{number}", f"{VECTOR}{number}"] for suffix, number in numbers.items()}
    settings: dict[str, Any] = {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "field_separator": "\t",
        "seq_separator": " ",
        "load_col": load,
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": "full",
        },
        "metrics": ["Hit", "NDCG"],
        "topk": [10, 20],
        "valid_metric": "NDCG@10",
        **options,
    }
    if vectors:
        settings["additional_feat_suffix"] = list(vectors)
        aliases = [f"{VECTOR_ID}{number}" for number in numbers.values()]
        settings["alias_of_item_id"] = [*settings.get("alias_of_item_id", []), *aliases]
        settings["preload_weight"] = {f"{VECTOR_ID}{number}": f"{VECTOR}{number}" for number in numbers.values()}
    lines = [
        f"# {name}: written by freezeframe from dataset {' '.join(split.dataset.split())}.",
        f"# Split: {' '.join((split.told or split.protocol).split())}.",
        f"# Histories of sequential models: the last {max_length} items.",
        *(f"# NAME.{suffix} holds {told}; {absent} items have none." for suffix, (told, absent) in vectors.items()),
        "# Give RecBole the folder above this one as data_path.",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()),
    ]
    return "\n".join(lines) + "\n"


def _record(report: RecBoleReport, split: Split, features: Sequence[FeatureFile]) -> dict[str, Any]:
    made = [json.loads(file.provenance.to_json()) for file in features]
    told = {name: value for name, value in asdict(report).items() if name != "folder"}
    return {"dataset": split.dataset, "split": split.fingerprint, "protocol": split.protocol, "features": made, **told}
