"""Splits as arrays: training windows, and each user's targets for validation and test.

leave_one_out.py makes them, given_split.py if the dataset came with a split, or a module of splits/.

Letters: U users, I items, E interactions, W windows, N users of a part, R targets of a part, S seen items of a part, L
history length. All arrays are numpy. There are no times: sequences are already in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from features.provenance import canonical_json
from pipelines.data.vocabulary import Vocabulary

if TYPE_CHECKING:  # training and ranking need arrays alone, also where polars is not installed
    import polars as pl

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class TrainWindows:
    """Training sequences cut into windows. Every position but a user's first is a target exactly once."""

    users: Ints
    """(W,) dense user indices."""
    items: Ints
    """(W, L + 1) dense item indices, oldest first, padded on the left with 0."""
    mask: Bools
    """(W, L + 1), True where a slot holds an item, False where it is padding."""


@dataclass(frozen=True)
class EvalPart:
    """The users of validation or test, with one target each; `ManyTargets` has several."""

    users: Ints
    """(N,) dense user indices."""
    items: Ints
    """(N, L) histories: the last L items before the target, oldest first, padded on the left with 0."""
    mask: Bools
    """(N, L), True where a slot holds an item, False where it is padding."""
    targets: Ints
    """(R,) dense item indices of the targets, user after user; R = N if each user has one."""
    seen: Ints
    """(S,) dense item indices of all kept items before the target, user after user."""
    seen_offsets: Ints
    """(N + 1,) positions in `seen` where each user's items start."""

    @property
    def bounds(self) -> Ints:
        """Return (N + 1,) positions in `targets` where each user's targets start."""
        return np.arange(len(self.users) + 1)

    @property
    def pairs(self) -> Ints:
        """Return the user and item of every target, (2, R)."""
        return np.stack([np.repeat(self.users, np.diff(self.bounds)), self.targets])


@dataclass(frozen=True)
class ManyTargets(EvalPart):
    """The users of validation or test, with one or more targets each: different items, in no order."""

    target_offsets: Ints
    """(N + 1,) positions in `targets` where each user's targets start."""

    @property
    def bounds(self) -> Ints:
        """Return (N + 1,) positions in `targets` where each user's targets start."""
        return self.target_offsets


@dataclass(frozen=True)
class Split:
    """A dataset ready for training and evaluation."""

    dataset: str
    """Name of the dataset."""
    users: Vocabulary
    """The users that are kept."""
    items: Vocabulary
    """The items that are ranked: the candidates of every ranking."""
    train: TrainWindows
    """Training part, as windows."""
    valid: EvalPart
    """Validation part. In leave-one-out the target is the item before a user's last."""
    test: EvalPart
    """Test part. In leave-one-out the target is a user's last item, and the history includes the validation target."""
    train_counts: Ints
    """(I,) how often each item occurs in training; 0 = cold item."""
    train_edges: Ints
    """(2, E) user and item of every training interaction, in order."""
    fingerprint: str
    """The split's sha256, over its ids, sequences, targets, history length and filter of items."""
    dropped_users: int
    """How many users were left out: those with too few interactions or, in a given split, without training rows."""
    dropped_items: int = 0
    """How many items were left out because of too few interactions (`min_item_interactions`)."""
    protocol: str = "leave-one-out"
    """How the split was made: 'leave-one-out', 'given', 'column', 'time', 'ratio' or 'user-folds'."""
    read: Mapping[str, int] = field(default_factory=dict)
    """Counts of the dataset as it was read, before any filter: 'users', 'items', 'interactions'. {} if not known."""
    told: str = ""
    """How the split was made, in words with its numbers; '' for leave-one-out, and for a split given by MMRec."""
    strangers: bool = False
    """Whether the users of validation and test have no training rows, so that only their histories tell about them."""

    def sizes(self) -> dict[str, int]:
        """Return counts of kept users, kept items, items in training, candidates and kept interactions."""
        given = [self.valid.seen, self.test.seen] if self.strangers else []  # no other part holds these rows
        met = np.concatenate([self.train_edges[1], self.valid.targets, self.test.targets, *given])
        return {
            "users": len(self.users),
            "items": len(np.unique(met)),
            "trained_items": int((self.train_counts > 0).sum()),
            "candidates": len(self.items),
            "interactions": len(met),
        }

    def tested_on(self) -> str:
        """Return a sha256 of the test users, their targets, what they have seen, and the candidates.

        Runs that agree in it can be compared user by user. Seen items count because masks remove them from a ranking.
        """
        digest = hashlib.sha256(canonical_json([[self.users.ids[u] for u in self.test.users], self.items.ids]).encode())
        for array in (self.test.targets, self.test.bounds, self.test.seen, self.test.seen_offsets):
            digest.update(array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Sequences:
    """The sequences of all users, oldest item first."""

    flat: Ints
    """(E,) dense item indices, user after user."""
    offsets: Ints
    """(U + 1,) positions in `flat` where each user's sequence starts."""


def encode(ids: pl.Series, vocabulary: Vocabulary) -> Ints:
    """Return the dense indices of raw ids, all of which the vocabulary must know."""
    import polars as pl

    rows = ids.cast(pl.Enum(list(vocabulary.ids))).to_physical()
    return rows.to_numpy().astype(np.int64)


def windows(sequences: Sequences, ends: Ints, length: int) -> TrainWindows:
    """Cut each user's training part, which ends before `ends` (U,), into windows of L + 1 slots that overlap by one."""
    starts = sequences.offsets[:-1]
    per_user = np.maximum(-(-(ends - starts - 1) // length), 0)
    users = np.repeat(np.arange(len(starts)), per_user)
    number = np.arange(len(users)) - np.repeat(np.cumsum(per_user) - per_user, per_user)
    last = ends[users] - 1 - number * length
    items, mask = _slots(sequences.flat, starts[users], last, length + 1)
    return TrainWindows(users, items, mask)


def histories(sequences: Sequences, users: Ints, ends: Ints, length: int) -> tuple[Ints, Bools, Ints, Ints]:
    """Return what `users` (N,) had met before position `ends` (N,) of their sequences.

    Returns:
        Histories (N, L), their mask (N, L), all seen items (S,) and the offsets (N + 1,) of each user's seen items.
    """
    starts = sequences.offsets[users]
    items, mask = _slots(sequences.flat, starts, ends - 1, length)
    return items, mask, *pieces(sequences.flat, starts, ends)


def pieces(flat: Ints, starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """Return the pieces of `flat` from `starts` (N,) to `ends` (N,), in a row (S,), and their offsets (N + 1,).

    >>> pieces(np.array([5, 6, 7, 8]), np.array([2, 0]), np.array([4, 1]))
    (array([7, 8, 5]), array([0, 2, 3]))
    """
    sizes = ends - starts
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    return flat[np.repeat(starts, sizes) + within], offsets


def _slots(flat: Ints, start: Ints, last: Ints, width: int) -> tuple[Ints, Bools]:
    """Return each row's last `width` items from `start` to `last`, padded on the left with 0, and the mask."""
    position = last[:, None] - np.arange(width - 1, -1, -1)
    mask = position >= start[:, None]
    if not len(flat):
        return np.zeros_like(position), mask
    return np.where(mask, flat[np.maximum(position, 0)], 0), mask
