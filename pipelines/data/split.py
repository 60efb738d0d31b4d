"""Splits as arrays: training windows, and the targets of each user for validation and for test.

Leave-one-out is made here; a split that came with the dataset in pipelines/data/given_split.py.

Letters: U users, I items, W windows, N users of a part, R targets of a part, L history length. All arrays are numpy;
times do not occur, sequences are already in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import ConfigError
from features.provenance import canonical_json
from pipelines.data.dataset import Dataset
from pipelines.data.tables import Columns
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
        min_item_interactions: k of the warm-k subsets (MicroLens, Table 8): items with fewer interactions in the whole
            file, before `keep_last`, are removed, then users who are short without them; 0 = no such filter.
        item_filter: 'once' removes items and then users; 'iterate' goes on until both bounds hold for what is left.
        repeats: what becomes of rows that pair a user with an item again: 'keep' keeps all, 'first' and 'last' keep one
            of them; before all else, and not for a given split.
        columns: which columns of the folder's tables mean what, where their names do not say so.
        split: 'given' takes the split that came with the dataset (MMRec's x_label), where only `max_length` of the
            options above has a meaning; 'auto' takes it where there is one, and makes leave-one-out elsewhere.
    """

    folder: str
    keep_last: int | None = 13
    max_length: int = 10
    min_interactions: int = 3
    short_users: Literal["drop", "error"] = "drop"
    candidates: Literal["interactions", "kept", "catalog"] = "interactions"
    min_item_interactions: int = 0
    item_filter: Literal["once", "iterate"] = "once"
    split: Literal["auto", "leave-one-out", "given"] = "auto"
    repeats: Literal["keep", "first", "last"] = "keep"
    columns: Columns = field(default_factory=Columns)

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse lengths that leave nothing to train or test on."""
        if self.min_interactions < 3:
            raise ConfigError(f"data.min_interactions is {self.min_interactions}; leave-one-out needs at least 3")
        if self.max_length < 1:
            raise ConfigError(f"data.max_length is {self.max_length}; a model needs at least 1 item of history")
        if self.keep_last is not None and self.keep_last < 3:
            raise ConfigError(f"data.keep_last is {self.keep_last}; keep at least 3 interactions per user, or null")
        if self.min_item_interactions < 0:
            raise ConfigError(f"data.min_item_interactions is {self.min_item_interactions}; it must be at least 0")
        if self.min_item_interactions and self.candidates == "catalog":
            raise ConfigError(
                f"data.candidates is 'catalog', but items without interactions have fewer than "
                f"data.min_item_interactions={self.min_item_interactions}; use 'interactions' or 'kept'"
            )


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
    """One target per user; `ManyTargets` has several.

    Attributes:
        users: (N,) dense user indices.
        items: (N, L) the last L items before the target, oldest first, padded on the left with 0.
        mask: (N, L), True where a slot is real.
        targets: (R,) dense item indices, user after user; R = N where each has one.
        seen: (S,) all kept items before each target, user after user.
        seen_offsets: (N + 1,) where each user's part of `seen` starts.
    """

    users: Ints
    items: Ints
    mask: Bools
    targets: Ints
    seen: Ints
    seen_offsets: Ints

    @property
    def bounds(self) -> Ints:
        """Return (N + 1,) where each user's part of `targets` starts."""
        return np.arange(len(self.users) + 1)

    @property
    def pairs(self) -> Ints:
        """Return (2, R) user and item of every target."""
        return np.stack([np.repeat(self.users, np.diff(self.bounds)), self.targets])


@dataclass(frozen=True)
class ManyTargets(EvalPart):
    """At least one target per user, each item once; no order among them.

    Attributes:
        target_offsets: (N + 1,) where each user's part of `targets` starts.
    """

    target_offsets: Ints

    @property
    def bounds(self) -> Ints:
        """Return (N + 1,) where each user's part of `targets` starts."""
        return self.target_offsets


@dataclass(frozen=True)
class Split:
    """A dataset ready for training and evaluation.

    Attributes:
        dataset: its name.
        users: user vocabulary (only users that are kept).
        items: item vocabulary = the candidates of every ranking.
        train: training windows.
        valid: validation part; in leave-one-out the target is the item before a user's last.
        test: test part; in leave-one-out the target is a user's last item, the validation item part of the history.
        train_counts: (I,) occurrences in the training part; 0 = cold item.
        train_edges: (2, E) user and item of every training interaction, in order.
        fingerprint: sha256 over all of the above.
        dropped_users: users left out because of too few interactions.
        dropped_items: items left out because of too few interactions (`min_item_interactions`).
        protocol: 'leave-one-out' or 'given'.
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
    dropped_items: int = 0
    protocol: str = "leave-one-out"

    def sizes(self) -> dict[str, int]:
        """Return counts of users, items in what is kept, of these in training, candidates, and kept interactions."""
        met = np.concatenate([self.train_edges[1], self.valid.targets, self.test.targets])
        return {
            "users": len(self.users),
            "items": len(np.unique(met)),
            "trained_items": int((self.train_counts > 0).sum()),
            "candidates": len(self.items),
            "interactions": len(met),
        }

    def tested_on(self) -> str:
        """Return a sha256 of the test users, their targets, what they have seen, and the candidates.

        Runs with equal ones can be compared user by user. What is seen belongs to it: masks take it off the candidates.
        """
        digest = hashlib.sha256(canonical_json([[self.users.ids[u] for u in self.test.users], self.items.ids]).encode())
        for array in (self.test.targets, self.test.bounds, self.test.seen, self.test.seen_offsets):
            digest.update(array.tobytes())
        return digest.hexdigest()


def make_split(dataset: Dataset, config: DataConfig, *, catalog_ids: Iterable[str] = ()) -> Split:
    """Split a dataset; `catalog_ids` are further candidates for `candidates: catalog`.

    Raises:
        ConfigError: no interactions, no user or item with enough of them, a short user under `short_users: error`, no
            given split where the config asks for it, or one with an empty part.
    """
    if dataset.interactions.is_empty():
        raise ConfigError(f"{config.folder} holds no interactions ({dataset.layout}); training needs a table of them")
    if config.split == "given" or (config.split == "auto" and dataset.given_split):
        from pipelines.data.given_split import given_split

        return given_split(dataset, config)
    return _leave_one_out(dataset, config, catalog_ids)


def _leave_one_out(dataset: Dataset, config: DataConfig, catalog_ids: Iterable[str]) -> Split:
    from pipelines.data.filters import candidates, frequent_items, without_repeats, without_short_users

    if not dataset.ordered:
        raise ConfigError(
            f"{config.folder} has no timestamps ({dataset.layout}); leave-one-out needs an order: set data.split=given"
        )
    # by user as the vocabulary sorts them: MMRec's come in the order of their numbers, 10 behind 9
    frequent = frequent_items(without_repeats(dataset.interactions, config).sort("user", maintain_order=True), config)
    kept = without_short_users(frequent, config)
    tail = kept if config.keep_last is None else kept.group_by("user", maintain_order=True).tail(config.keep_last)
    users = Vocabulary(tuple(tail["user"].unique().sort().to_list()), "user")
    items = Vocabulary(tuple(candidates(dataset, frequent, tail, config, catalog_ids)), "item")
    sizes = tail.group_by("user", maintain_order=True).len()["len"].to_numpy().astype(np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    sequences = Sequences(encode(tail["item"], items), offsets)
    owner = np.repeat(np.arange(len(users)), sizes)
    in_training = np.arange(len(owner)) < offsets[owner + 1] - 2
    edges = np.stack([owner[in_training], sequences.flat[in_training]])
    return Split(
        dataset=dataset.name,
        users=users,
        items=items,
        train=windows(sequences, offsets[1:] - 2, config.max_length),
        valid=_eval_part(sequences, offsets[1:] - 2, config.max_length),
        test=_eval_part(sequences, offsets[1:] - 1, config.max_length),
        train_counts=np.bincount(edges[1], minlength=len(items)),
        train_edges=edges,
        fingerprint=_fingerprint(users, items, sequences, config),
        dropped_users=dataset.interactions["user"].n_unique() - len(users),
        dropped_items=dataset.interactions["item"].n_unique() - frequent["item"].n_unique(),
    )


@dataclass(frozen=True)
class Sequences:
    """What users have met, oldest first: flat (E,) items, user after user, and offsets (U + 1,) where each starts."""

    flat: Ints
    offsets: Ints


def encode(ids: pl.Series, vocabulary: Vocabulary) -> Ints:
    """Return dense indices of raw ids, all of which the vocabulary knows."""
    rows = ids.cast(pl.Enum(list(vocabulary.ids))).to_physical()
    return rows.to_numpy().astype(np.int64)


def windows(sequences: Sequences, ends: Ints, length: int) -> TrainWindows:
    """Cut each user's training part, which ends before `ends` (U,), into windows of L + 1 slots that overlap in one."""
    starts = sequences.offsets[:-1]
    per_user = np.maximum(-(-(ends - starts - 1) // length), 0)
    users = np.repeat(np.arange(len(starts)), per_user)
    number = np.arange(len(users)) - np.repeat(np.cumsum(per_user) - per_user, per_user)
    last = ends[users] - 1 - number * length
    items, mask = _slots(sequences.flat, starts[users], last, length + 1)
    return TrainWindows(users, items, mask)


def histories(sequences: Sequences, users: Ints, ends: Ints, length: int) -> tuple[Ints, Bools, Ints, Ints]:
    """Return items (N, L), mask (N, L), seen (S,) and its offsets (N + 1,) of `users` (N,) before `ends` (N,)."""
    starts = sequences.offsets[users]
    items, mask = _slots(sequences.flat, starts, ends - 1, length)
    sizes = ends - starts
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    return items, mask, sequences.flat[np.repeat(starts, sizes) + within], offsets


def _eval_part(sequences: Sequences, target: Ints, length: int) -> EvalPart:
    users = np.arange(len(target))
    items, mask, seen, offsets = histories(sequences, users, target, length)
    return EvalPart(users, items, mask, sequences.flat[target], seen, offsets)


def _slots(flat: Ints, start: Ints, last: Ints, width: int) -> tuple[Ints, Bools]:
    """Return the `width` items up to position `last` of each row, not before `start`; padded on the left with 0."""
    position = last[:, None] - np.arange(width - 1, -1, -1)
    mask = position >= start[:, None]
    return np.where(mask, flat[np.maximum(position, 0)], 0), mask


def _fingerprint(users: Vocabulary, items: Vocabulary, sequences: Sequences, config: DataConfig) -> str:
    told = [users.ids, items.ids, config.max_length]
    if config.min_item_interactions:
        told.append([config.min_item_interactions, config.item_filter])
    digest = hashlib.sha256(canonical_json(told).encode())
    for column in fields(sequences):
        digest.update(getattr(sequences, column.name).tobytes())
    return digest.hexdigest()
