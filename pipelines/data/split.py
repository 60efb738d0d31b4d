"""Leave-one-out split into arrays: training windows, and one target per user for validation and for test.

Letters: U users, I items, W windows, N users of a part, L history length. All arrays are numpy; times do not occur,
sequences are already in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.data.vocabulary import Vocabulary

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


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
