"""Leave-one-out split into arrays: training windows, and one target per user for validation and for test.

Letters: U users, I items, W windows, N users of a part, L history length. All arrays are numpy; times do not occur,
sequences are already in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import ConfigError
from features.provenance import canonical_json
from pipelines.data.dataset import Dataset
from pipelines.data.vocabulary import Vocabulary

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class DataConfig:
    """How a dataset folder becomes a split. The defaults are MicroLens's protocol (arXiv 2309.15379, section 3).

    Attributes:
        folder: the dataset folder.
        keep_last: interactions kept per user, the newest ones; null keeps all. MicroLens keeps 13.
        max_length: L, the longest history a model sees. MicroLens: 10.
        min_interactions: users with fewer are short (at least 3: one each to train, validate and test on).
        short_users: 'drop' leaves short users out and counts them, 'error' stops.
        candidates: what is ranked: 'interactions' every item of the interactions file, 'kept' only items left after
            `keep_last` (MicroLens's code), 'catalog' also items that only have a title or media.
    """

    folder: str
    keep_last: int | None = 13
    max_length: int = 10
    min_interactions: int = 3
    short_users: Literal["drop", "error"] = "drop"
    candidates: Literal["interactions", "kept", "catalog"] = "interactions"

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse lengths that leave nothing to train or test on."""
        if self.min_interactions < 3:
            raise ConfigError(f"data.min_interactions is {self.min_interactions}; leave-one-out needs at least 3")
        if self.max_length < 1:
            raise ConfigError(f"data.max_length is {self.max_length}; a model needs at least 1 item of history")
        if self.keep_last is not None and self.keep_last < 3:
            raise ConfigError(f"data.keep_last is {self.keep_last}; keep at least 3 interactions per user, or null")


@dataclass(frozen=True)
class TrainWindows:
    """Training sequences cut into windows; every position but a user's first is a target exactly once.

    Attributes:
        users: (W,) dense user indices.
        items: (W, L + 1) dense item indices, oldest first, padded on the left with 0.
        mask: (W, L + 1), True where a slot is real.
    """

    users: Ints
    items: Ints
    mask: Bools


@dataclass(frozen=True)
class EvalPart:
    """One target per user.

    Attributes:
        users: (N,) dense user indices.
        items: (N, L) the last L items before the target, oldest first, padded on the left with 0.
        mask: (N, L), True where a slot is real.
        targets: (N,) dense item indices.
        seen: (S,) all kept items before each target, user after user.
        seen_offsets: (N + 1,) where each user's part of `seen` starts.
    """

    users: Ints
    items: Ints
    mask: Bools
    targets: Ints
    seen: Ints
    seen_offsets: Ints


@dataclass(frozen=True)
class Split:
    """A dataset ready for training and evaluation.

    Attributes:
        dataset: its name.
        users: user vocabulary (only users that are kept).
        items: item vocabulary = the candidates of every ranking.
        train: training windows.
        valid: validation part; the target is the item before a user's last.
        test: test part; the target is a user's last item, the validation item is part of the history.
        train_counts: (I,) occurrences in the training part; 0 = cold item.
        train_edges: (2, E) user and item of every training interaction, in order.
        fingerprint: sha256 over all of the above.
        dropped_users: users left out because of too few interactions.
    """

    dataset: str
    users: Vocabulary
    items: Vocabulary
    train: TrainWindows
    valid: EvalPart
    test: EvalPart
    train_counts: Ints
    train_edges: Ints
    fingerprint: str
    dropped_users: int


def make_split(dataset: Dataset, config: DataConfig, *, catalog_ids: Iterable[str] = ()) -> Split:
    """Split a dataset leave-one-out; `catalog_ids` are further candidates for `candidates: catalog`.

    Raises:
        ConfigError: no interactions, no user with enough of them, or a short user under `short_users: error`.
    """
    table = dataset.interactions
    if table.is_empty():
        raise ConfigError(f"{config.folder} holds no interactions ({dataset.layout}); training needs a table of them")
    kept, dropped = _without_short_users(table, config)
    tail = kept if config.keep_last is None else kept.group_by("user", maintain_order=True).tail(config.keep_last)
    users = Vocabulary(tuple(tail["user"].unique().sort().to_list()), "user")
    items = Vocabulary(tuple(_candidates(dataset, tail, config, catalog_ids)), "item")
    sizes = tail.group_by("user", maintain_order=True).len()["len"].to_numpy().astype(np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    sequences = _Sequences(_encode(tail["item"], items), offsets)
    owner = np.repeat(np.arange(len(users)), sizes)
    in_training = np.arange(len(owner)) < offsets[owner + 1] - 2
    edges = np.stack([owner[in_training], sequences.flat[in_training]])
    return Split(
        dataset=dataset.name,
        users=users,
        items=items,
        train=_windows(sequences, config.max_length),
        valid=_eval_part(sequences, offsets[1:] - 2, config.max_length),
        test=_eval_part(sequences, offsets[1:] - 1, config.max_length),
        train_counts=np.bincount(edges[1], minlength=len(items)),
        train_edges=edges,
        fingerprint=_fingerprint(users, items, sequences, config),
        dropped_users=dropped,
    )


@dataclass(frozen=True)
class _Sequences:
    flat: Ints  # (E,) items of all users, user after user, oldest first
    offsets: Ints  # (U + 1,)


def _without_short_users(table: pl.DataFrame, config: DataConfig) -> tuple[pl.DataFrame, int]:
    sizes = table.group_by("user", maintain_order=True).len()
    short = sizes.filter(pl.col("len") < config.min_interactions)
    if len(short) and config.short_users == "error":
        raise ConfigError(
            f"user {short.row(0)[0]!r} has {short.row(0)[1]} interactions, {len(short)} users have fewer than "
            f"data.min_interactions={config.min_interactions}; remove them or set data.short_users=drop"
        )
    if len(short) == len(sizes):
        raise ConfigError(
            f"all {len(sizes)} users have fewer than data.min_interactions={config.min_interactions} interactions "
            f"(most: {max(sizes['len'].to_list())}); nothing is left to train on"
        )
    return table.join(short.select("user"), on="user", how="anti", maintain_order="left"), len(short)


def _candidates(dataset: Dataset, tail: pl.DataFrame, config: DataConfig, catalog_ids: Iterable[str]) -> list[str]:
    if config.candidates == "kept":
        return tail["item"].unique().sort().to_list()
    items = set(dataset.interactions["item"].unique().to_list())
    if config.candidates == "catalog":
        items |= set(dataset.titles) | set(catalog_ids)
    return sorted(items)


def _encode(items: pl.Series, vocabulary: Vocabulary) -> Ints:
    rows = items.cast(pl.Enum(list(vocabulary.ids))).to_physical()
    return rows.to_numpy().astype(np.int64)


def _windows(sequences: _Sequences, length: int) -> TrainWindows:
    """Cut each user's training part, from its end, into windows of L + 1 slots that overlap in one."""
    starts, ends = sequences.offsets[:-1], sequences.offsets[1:] - 2
    per_user = np.maximum(-(-(ends - starts - 1) // length), 0)
    users = np.repeat(np.arange(len(starts)), per_user)
    number = np.arange(len(users)) - np.repeat(np.cumsum(per_user) - per_user, per_user)
    last = ends[users] - 1 - number * length
    items, mask = _slots(sequences.flat, starts[users], last, length + 1)
    return TrainWindows(users, items, mask)


def _eval_part(sequences: _Sequences, target: Ints, length: int) -> EvalPart:
    starts = sequences.offsets[:-1]
    items, mask = _slots(sequences.flat, starts, target - 1, length)
    sizes = target - starts
    seen_offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    within = np.arange(seen_offsets[-1]) - np.repeat(seen_offsets[:-1], sizes)
    seen = sequences.flat[np.repeat(starts, sizes) + within]
    return EvalPart(np.arange(len(starts)), items, mask, sequences.flat[target], seen, seen_offsets)


def _slots(flat: Ints, start: Ints, last: Ints, width: int) -> tuple[Ints, Bools]:
    """Return the `width` items up to position `last` of each row, not before `start`; padded on the left with 0."""
    position = last[:, None] - np.arange(width - 1, -1, -1)
    mask = position >= start[:, None]
    return np.where(mask, flat[np.maximum(position, 0)], 0), mask


def _fingerprint(users: Vocabulary, items: Vocabulary, sequences: _Sequences, config: DataConfig) -> str:
    digest = hashlib.sha256(canonical_json([users.ids, items.ids, config.max_length]).encode())
    for column in fields(sequences):
        digest.update(getattr(sequences, column.name).tobytes())
    return digest.hexdigest()
