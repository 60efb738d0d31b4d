"""Metrics of one target per user, from ranks. One metric, one function; all per user, so that tests can pair them.

Letters: N users, I items, K list length.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ranks(scores: torch.Tensor, target_scores: torch.Tensor) -> torch.Tensor:
    """Return (N,) float64 ranks of targets: 1 + items scored higher + half of the other items scored equal.

    Half a tie is the mean over all orders of the tied items: no order of rows or sorting routine changes a result.

    Args:
        scores: (N, I) float32, -inf where an item is hidden; overwritten (a copy would cost more than the counting).
        target_scores: (N, 1) finite, each the target's entry in `scores`.
    """
    # The sum of signs is higher - lower = 2 higher + equal - I; exact in float32 up to 2^24 items.
    signs = scores.sub_(target_scores).sign_().sum(1, dtype=torch.float32)
    return (signs.double() + scores.shape[1] + 1) / 2


def hit_rate(user_ranks: Floats, k: int) -> Floats:
    """Return (N,) HR@K: 1 where the rank is at most K, else 0."""
    return (user_ranks <= k).astype(np.float64)


def ndcg(user_ranks: Floats, k: int) -> Floats:
    """Return (N,) NDCG@K of one relevant item: 1 / log2(rank + 1) where the rank is at most K, else 0."""
    return np.where(user_ranks <= k, 1.0 / np.log2(user_ranks + 1.0), 0.0)
