"""Splits as arrays: training windows, and the targets of each user for validation and for test.

They are made in leave_one_out.py, or in given_split.py where a split came with the dataset.

Letters: U users, I items, W windows, N users of a part, R targets of a part, L history length. All arrays are numpy;
times do not occur, sequences are already in order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.provenance import canonical_json
from pipelines.data.vocabulary import Vocabulary

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class TrainWindows:
    """Training sequences cut into windows; every position but a user's first is a target exactly once."""

    users: Ints
    """(W,) dense user indices."""
    items: Ints
    """(W, L + 1) dense item indices, oldest first, padded on the left with 0."""
    mask: Bools
    """(W, L + 1), True where a slot is real."""


@dataclass(frozen=True)
class EvalPart:
    """One target per user; `ManyTargets` has several."""

    users: Ints
    """(N,) dense user indices."""
    items: Ints
    """(N, L) the last L items before the target, oldest first, padded on the left with 0."""
    mask: Bools
    """(N, L), True where a slot is real."""
    targets: Ints
    """(R,) dense item indices, user after user; R = N where each has one."""
    seen: Ints
    """(S,) all kept items before each target, user after user."""
    seen_offsets: Ints
    """(N + 1,) where each user's part of `seen` starts."""

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
    """At least one target per user, each item once; no order among them."""

    target_offsets: Ints
    """(N + 1,) where each user's part of `targets` starts."""

    @property
    def bounds(self) -> Ints:
        """Return (N + 1,) where each user's part of `targets` starts."""
        return self.target_offsets


@dataclass(frozen=True)
class Split:
    """A dataset ready for training and evaluation."""

    dataset: str
    """Its name."""
    users: Vocabulary
    """User vocabulary (only users that are kept)."""
    items: Vocabulary
    """Item vocabulary = the candidates of every ranking."""
    train: TrainWindows
    """Training windows."""
    valid: EvalPart
    """Validation part; in leave-one-out the target is the item before a user's last."""
    test: EvalPart
    """Test part; in leave-one-out the target is a user's last item, the validation item part of the history."""
    train_counts: Ints
    """(I,) occurrences in the training part; 0 = cold item."""
    train_edges: Ints
    """(2, E) user and item of every training interaction, in order."""
    fingerprint: str
    """sha256 over all of the above."""
    dropped_users: int
    """Users left out because of too few interactions."""
    dropped_items: int = 0
    """Items left out because of too few interactions (`min_item_interactions`)."""
    protocol: str = "leave-one-out"
    """'leave-one-out' or 'given'."""

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


def _slots(flat: Ints, start: Ints, last: Ints, width: int) -> tuple[Ints, Bools]:
    """Return the `width` items up to position `last` of each row, not before `start`; padded on the left with 0."""
    position = last[:, None] - np.arange(width - 1, -1, -1)
    mask = position >= start[:, None]
    if not len(flat):
        return np.zeros_like(position), mask
    return np.where(mask, flat[np.maximum(position, 0)], 0), mask
