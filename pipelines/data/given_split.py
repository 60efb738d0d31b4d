"""A split that came with the dataset, used by the rules of MMRec (github.com/enoche/MMRec): several targets per user.

- Users without training rows are left out. Users without validation or test rows are left out of that part.
- Every item of the catalog is ranked, whether it occurs in training or not.
- A user has seen only the training rows, at test as well: validation rows are not part of the history and not hidden.

Letters: as in split.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields

import numpy as np
import polars as pl

from features.errors import ConfigError
from features.provenance import canonical_json
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset
from pipelines.data.split import ManyTargets, Sequences, Split, encode, histories, windows
from pipelines.data.vocabulary import Vocabulary

PARTS = ("training", "validation", "test")


def given_split(dataset: Dataset, config: DataConfig) -> Split:
    """Return the dataset's own split as arrays; only `max_length` of `config` applies.

    Raises:
        ConfigError: the dataset has no split of its own, one of its parts is empty or has only users without training
            rows, or `config` asks to filter items.
    """
    if not dataset.given_split:
        raise ConfigError(f"data.split is 'given', but {config.folder} ({dataset.layout}) has none; use leave-one-out")
    if config.min_item_interactions:
        raise ConfigError(
            f"data.min_item_interactions is {config.min_item_interactions}, but {config.folder} comes with a split, "
            "which is not filtered; set data.split=leave-one-out, or data.min_item_interactions=0"
        )
    everything = dataset.interactions.sort("user", maintain_order=True)
    train = everything.filter(pl.col("part") == 0)
    known = everything.join(train.select("user").unique(), on="user", how="semi", maintain_order="left")
    _refuse_empty(everything, known, dataset)
    users = Vocabulary(tuple(train["user"].unique().sort().to_list()), "user")
    items = Vocabulary(dataset.catalog or tuple(everything["item"].unique().sort().to_list()), "item")
    edges = np.stack([encode(train["user"], users), encode(train["item"], items)])  # user after user
    offsets = np.concatenate([[0], np.cumsum(np.bincount(edges[0], minlength=len(users)))]).astype(np.int64)
    sequences = Sequences(edges[1], offsets)
    parts = [_part(known.filter(pl.col("part") == n), users, items, sequences, config.max_length) for n in (1, 2)]
    return Split(
        dataset=dataset.name,
        users=users,
        items=items,
        train=windows(sequences, offsets[1:], config.max_length),
        valid=parts[0],
        test=parts[1],
        train_counts=np.bincount(edges[1], minlength=len(items)),
        train_edges=edges,
        fingerprint=_fingerprint(users, items, config.max_length, sequences, parts),
        dropped_users=everything["user"].n_unique() - len(users),
        protocol="given",
    )


def _refuse_empty(everything: pl.DataFrame, known: pl.DataFrame, dataset: Dataset) -> None:
    for number, name in enumerate(PARTS):
        if not (everything["part"] == number).any():
            raise ConfigError(
                f"the {name} part of {dataset.name!r} is empty: no row has x_label {number}; "
                "add some, or set data.split=leave-one-out"
            )
        if not (known["part"] == number).any():
            raise ConfigError(
                f"the {name} part of {dataset.name!r} is empty: none of its users has a training row (x_label 0); "
                "add some, or set data.split=leave-one-out"
            )


def _part(table: pl.DataFrame, users: Vocabulary, items: Vocabulary, before: Sequences, length: int) -> ManyTargets:
    pairs = table.select("user", "item").unique(maintain_order=True)
    user = encode(pairs["user"], users)
    who, counts = np.unique(user, return_counts=True)
    history, mask, seen, seen_offsets = histories(before, who, before.offsets[who + 1], length)
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ManyTargets(who, history, mask, encode(pairs["item"], items), seen, seen_offsets, bounds)


def _fingerprint(
    users: Vocabulary, items: Vocabulary, length: int, sequences: Sequences, parts: list[ManyTargets]
) -> str:
    digest = hashlib.sha256(canonical_json(["given", users.ids, items.ids, length]).encode())
    for column in fields(sequences):
        digest.update(getattr(sequences, column.name).tobytes())
    for part in parts:
        digest.update(part.users.tobytes() + part.targets.tobytes() + part.target_offsets.tobytes())
    return digest.hexdigest()
