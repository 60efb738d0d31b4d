"""Metrics of ranks, per user so that tests can pair them, and metrics of lists. One metric, one function.

Letters: N users, R targets of all users together, I items, K list length.

Definitions with several targets per user, n of them: Järvelin and Kekäläinen 2002 (NDCG with gains 0 and 1); the ideal
of NDCG@K and the divisor of MAP@K stop at min(K, n), as RecBole and MMRec have it. With one target Recall = HR,
Precision = HR / K, and MAP = MRR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from features.errors import ConfigError, nearest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


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


@dataclass(frozen=True)
class Ranked:
    """The ranks of every user's targets.

    Attributes:
        ranks: (R,) user after user, best first within a user; inf = hidden, a miss at any K.
        offsets: (N + 1,) where each user's ranks start; every user has at least one.
    """

    ranks: Floats
    offsets: Ints

    @classmethod
    def of_one(cls, user_ranks: Floats) -> Ranked:
        """Return the same for users with one target each."""
        return cls(user_ranks, np.arange(len(user_ranks) + 1))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> Ints:
        """Return (N,) how many targets each user has."""
        return np.diff(self.offsets)

    @cached_property
    def users(self) -> Ints:
        """Return (R,) whose each rank is."""
        return np.repeat(np.arange(len(self)), self.counts)

    @cached_property
    def places(self) -> Ints:
        """Return (R,) how many of the user's targets stand up to and at each rank, 1 for the first."""
        places: Ints = np.arange(len(self.ranks)) - self.offsets[self.users] + 1
        return places

    def sums(self, values: Floats) -> Floats:
        """Return (N,) sums over each user's targets of (R,) values."""
        sums: Floats = np.bincount(self.users, weights=values, minlength=len(self)).astype(np.float64)
        return sums


def hit_rate(ranked: Ranked, k: int) -> Floats:
    """Return (N,) HR@K: 1 where a target ranks at most K, else 0."""
    first = ranked.ranks[ranked.offsets[:-1]]
    return (first <= k).astype(np.float64)


def recall(ranked: Ranked, k: int) -> Floats:
    """Return (N,) Recall@K: share of the user's targets that rank at most K."""
    return ranked.sums((ranked.ranks <= k).astype(np.float64)) / ranked.counts


def precision(ranked: Ranked, k: int) -> Floats:
    """Return (N,) Precision@K: targets that rank at most K, over K."""
    return ranked.sums((ranked.ranks <= k).astype(np.float64)) / k


def ndcg(ranked: Ranked, k: int) -> Floats:
    """Return (N,) NDCG@K: sum of 1 / log2(rank + 1) over targets that rank at most K, over that of the best order."""
    gained = ranked.sums(np.where(ranked.ranks <= k, 1.0 / np.log2(ranked.ranks + 1.0), 0.0))
    most = min(k, int(ranked.counts.max(initial=1)))
    ideal = np.cumsum(1.0 / np.log2(np.arange(2.0, most + 2.0)))
    best: Floats = gained / ideal[np.minimum(ranked.counts, most) - 1]
    return best


def mrr(ranked: Ranked, k: int) -> Floats:
    """Return (N,) MRR@K: 1 / rank of the best target where it ranks at most K, else 0."""
    first = ranked.ranks[ranked.offsets[:-1]]
    return np.where(first <= k, 1.0 / first, 0.0)


def average_precision(ranked: Ranked, k: int) -> Floats:
    """Return (N,) MAP@K: sum of (targets up to the rank) / rank over targets that rank at most K, over min(K, n)."""
    found = ranked.sums(np.where(ranked.ranks <= k, ranked.places / ranked.ranks, 0.0))
    shares: Floats = found / np.minimum(ranked.counts, k)
    return shares


def coverage(lists: NDArray[np.int32], train_counts: Ints) -> float:
    """Return the share of the I items that stand in at least one of the lists (N, K)."""
    return len(np.unique(lists[lists >= 0])) / len(train_counts)


def popularity(lists: NDArray[np.int32], train_counts: Ints) -> float:
    """Return the mean training count (I,) of what the lists (N, K) offer, each place counted."""
    return float(train_counts[lists[lists >= 0]].mean())


def gini(lists: NDArray[np.int32], train_counts: Ints) -> float:
    """Return the Gini coefficient of how often the I items are offered: 0 all equally, towards 1 one takes all."""
    shown = np.sort(np.bincount(lists[lists >= 0], minlength=len(train_counts)))
    place = np.arange(1, len(shown) + 1)
    return float(((2 * place - len(shown) - 1) * shown).sum() / (len(shown) * shown.sum()))


METRICS: dict[str, Callable[[Ranked, int], Floats]] = {
    "HR": hit_rate,
    "NDCG": ndcg,
    "Recall": recall,
    "Precision": precision,
    "MRR": mrr,
    "MAP": average_precision,
}
LIST_METRICS: dict[str, Callable[[NDArray[np.int32], Ints], float]] = {
    "Coverage": coverage,
    "Popularity": popularity,
    "Gini": gini,
}
DEFAULT = ("HR", "NDCG")


def check_metrics(names: Iterable[str], where: str) -> None:
    """Raise ConfigError naming the first metric there is none of; `where` says who asked, e.g. 'evaluate.metrics'."""
    known = [*METRICS, *LIST_METRICS]
    for name in names:
        if name not in known:
            raise ConfigError(f"{where} names {name!r}; {nearest(name, known)}")


def check_lengths(at: Sequence[int], where: str) -> None:
    """Raise ConfigError for list lengths nothing can be counted with."""
    if not at or min(at) < 1:
        raise ConfigError(f"{where} is {list(at)}; it needs list lengths of at least 1, such as [10, 20]")


def per_user(ranked: Ranked, metric: str) -> Floats:
    """Return (N,) values of a metric written as 'HR@10'; ConfigError for one there is none of."""
    name, _, k = metric.partition("@")
    if name not in METRICS or not k.isdecimal() or int(k) < 1:
        raise ConfigError(f"metric {metric!r} is not NAME@K, such as NDCG@10; {nearest(name, METRICS)}")
    return METRICS[name](ranked, int(k))
