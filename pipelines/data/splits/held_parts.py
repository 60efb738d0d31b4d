"""The way from tables of rows to a `Split`: what trains, and each part's histories and targets.

What a model learns from (windows, edges, counts) comes from the training rows alone. Letters: as in split.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from features.errors import ConfigError
from features.provenance import canonical_json
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset
from pipelines.data.split import Ints, ManyTargets, Sequences, Split, encode, histories, windows
from pipelines.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Held:
    """The rows of validation or test, in columns user and item; users are sorted by id, each in time order."""

    history: pl.DataFrame
    """What a user is known by. Users without any such row are left out of the part."""
    targets: pl.DataFrame
    """What is to be found. An item that stands twice for a user counts once."""


@dataclass(frozen=True)
class Parts:
    """A dataset's rows by what they are for; the tables are sorted as those of `Held`."""

    protocol: str
    """The split's name, as in `data.split`."""
    train: pl.DataFrame
    """The training rows, in columns user and item."""
    valid: Held
    """The rows of validation."""
    test: Held
    """The rows of test."""
    items: Sequence[str]
    """The ids of the candidates, sorted."""
    told: str
    """How the split was made, in words with its numbers."""
    dropped_items: int = 0
    """How many items were left out because of too few interactions."""
    strangers: bool = False
    """Whether the users of validation and test have no training rows."""


def assemble(dataset: Dataset, parts: Parts, config: DataConfig) -> Split:
    """Return the split that these rows make.

    Raises:
        ConfigError: a part has no row, or validation or test has no user with a history.
    """
    tables = [parts.train, parts.valid.history, parts.test.history]
    users = Vocabulary(tuple(pl.concat([table["user"] for table in tables]).unique().sort().to_list()), "user")
    items = Vocabulary(tuple(parts.items), "item")
    sequences = _sequences(parts.train, users, items)
    edges = np.stack([np.repeat(np.arange(len(users)), np.diff(sequences.offsets)), sequences.flat])
    valid, test = (_part(held, users, items, config.max_length) for held in (parts.valid, parts.test))
    for name, count in (("training", edges.shape[1]), ("validation", len(valid.users)), ("test", len(test.users))):
        if not count:
            raise ConfigError(
                f"the {name} part of {dataset.name!r} is empty ({parts.told}); change what data.split={parts.protocol} "
                "goes by, or set data.split=leave-one-out"
            )
    return Split(
        dataset=dataset.name,
        users=users,
        items=items,
        train=windows(sequences, sequences.offsets[1:], config.max_length),
        valid=valid,
        test=test,
        train_counts=np.bincount(edges[1], minlength=len(items)),
        train_edges=edges,
        fingerprint=_fingerprint(parts.protocol, users, items, config.max_length, sequences, (valid, test)),
        dropped_users=dataset.interactions["user"].n_unique() - len(users),
        dropped_items=parts.dropped_items,
        protocol=parts.protocol,
        told=parts.told,
        strangers=parts.strangers,
    )


def by_part(table: pl.DataFrame, parts: Sequence[int]) -> pl.DataFrame:
    """Return the rows of some parts of a table with the column `part`, in their order."""
    return table.filter(pl.col("part").is_in(list(parts)))


def later_parts(table: pl.DataFrame) -> tuple[Held, Held]:
    """Return validation and test of a table with the column `part`: validation rows are in the history at test."""
    valid = Held(by_part(table, [0]), by_part(table, [1]))
    return valid, Held(by_part(table, [0, 1]), by_part(table, [2]))


def row_counts(table: pl.DataFrame) -> str:
    """Return how many rows each part of a table has, as '80 training, 10 validation and 10 test rows'."""
    counts = [int((table["part"] == part).sum()) for part in range(3)]
    return f"{counts[0]} training, {counts[1]} validation and {counts[2]} test rows"


def _sequences(table: pl.DataFrame, users: Vocabulary, items: Vocabulary) -> Sequences:
    """Return the sequences of all U users; one who has no row has an empty one."""
    sizes = np.bincount(encode(table["user"], users), minlength=len(users))
    return Sequences(encode(table["item"], items), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def _part(held: Held, users: Vocabulary, items: Vocabulary, length: int) -> ManyTargets:
    known = held.targets.join(held.history.select("user").unique(), on="user", how="semi", maintain_order="left")
    pairs = known.select("user", "item").unique(maintain_order=True)
    who, counts = np.unique(encode(pairs["user"], users), return_counts=True)
    before = _sequences(held.history, users, items)
    history, mask, seen, seen_offsets = histories(before, who, before.offsets[who + 1], length)
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ManyTargets(who, history, mask, encode(pairs["item"], items), seen, seen_offsets, bounds)


def _fingerprint(
    protocol: str,
    users: Vocabulary,
    items: Vocabulary,
    length: int,
    sequences: Sequences,
    parts: tuple[ManyTargets, ManyTargets],
) -> str:
    digest = hashlib.sha256(canonical_json([protocol, users.ids, items.ids, length]).encode())
    arrays: list[Ints] = [sequences.flat, sequences.offsets]
    for part in parts:
        arrays += [part.users, part.targets, part.target_offsets, part.seen, part.seen_offsets]
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()
