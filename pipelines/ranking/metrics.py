"""Metrics of ranks and metrics of lists, one function each.

Metrics of ranks are per user, so that significance tests can pair users. If items tie, they are the mean over all
orders of the tied items, in closed form.

Letters: N users, R targets of all users together, I items, K list length, n targets of a user or lists at a time.

With several targets per user, NDCG has gains 0 and 1 (Järvelin and Kekäläinen 2002); the ideal of NDCG@K and the
divisor of MAP@K stop at min(K, n), as in RecBole and MMRec. With one target Recall = HR, Precision = HR / K, and
MAP = MRR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from features.errors import ConfigError, nearest
from models.shared.float64 import float64_device

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
EXACT_NORM = 2**21  # up to so many items the square of a float32 norm still counts the entries that are not 0


def ranks(scores: torch.Tensor, target_scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each target's best place, (N,) float64, and how many items tie with it, itself included, (N,) int64.

    Both lie on the device of the scores, or on the CPU if that device has no float64.

    The best place is 1 + the number of items scored higher. The target takes any of `ties` places from there on, each
    with equal probability. The metrics below are means over all orders of tied items, so that neither the order of rows
    nor the sorting routine changes a result.

    Args:
        scores: (N, I) float32, -inf where an item is hidden; overwritten, because copying takes longer than counting.
        target_scores: (N, 1) finite, each target's entry in `scores`.
    """
    # The signs sum to higher - lower, their absolute values to higher + lower = I - tied. Exact up to 2^24 items.
    signs = scores.sub_(target_scores).sign_()
    place = float64_device(scores.device)
    difference = signs.sum(1, dtype=torch.float32).to(place).double()
    if scores.shape[1] <= EXACT_NORM:  # one pass that writes nothing takes half the time of summing absolute values
        untied = torch.linalg.vector_norm(signs, dim=1).to(place).double().square_().round_()
    else:
        untied = signs.abs_().sum(1, dtype=torch.float32).to(place).double()
    return (difference + untied) / 2 + 1, (scores.shape[1] - untied).long()


@dataclass(frozen=True)
class Ranked:
    """The places of every user's targets."""

    ranks: Floats
    """(R,) best place of each target over all orders of tied items, user after user and best first within a user. inf =
    the target is hidden, which is a miss at any K."""
    offsets: Ints
    """(N + 1,) positions in `ranks` where each user's ranks start; every user has at least one."""
    ties: Ints | None = None
    """(R,) how many items share the target's score, the target and the user's other targets included; None if no target
    ties."""

    @classmethod
    def of_one(cls, user_ranks: Floats, ties: Ints | None = None) -> Ranked:
        """Return the places for users with one target each."""
        return cls(user_ranks, np.arange(len(user_ranks) + 1), ties)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> Ints:
        """Return how many targets each user has, (N,)."""
        return np.diff(self.offsets)

    @cached_property
    def users(self) -> Ints:
        """Return the user of each rank, (R,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    @cached_property
    def sizes(self) -> Ints:
        """Return `ties`, or 1 everywhere if it is None, (R,)."""
        return np.ones(len(self.ranks), np.int64) if self.ties is None else self.ties

    @cached_property
    def groups(self) -> tuple[Ints, Ints]:
        """Return how many of the user's targets have better scores, (R,), and how many have the same score, (R,)."""
        starts = np.ones(len(self.ranks), bool)
        if self.ties is not None:  # without ties only hidden targets have equal ranks
            starts[1:] = (self.ranks[1:] != self.ranks[:-1]) | (self.users[1:] != self.users[:-1])
        firsts = np.flatnonzero(starts)
        sizes = np.diff(firsts, append=len(starts))
        before: Ints = np.repeat(firsts, sizes) - self.offsets[self.users]
        return before, np.repeat(sizes, sizes)

    def reached(self, k: int) -> Floats:
        """Return how many of the places that each target may take are at most K, (R,)."""
        return np.clip(np.floor(k + 1 - self.ranks), 0, self.sizes)

    def sums(self, values: Floats) -> Floats:
        """Return the sum of (R,) values over each user's targets, (N,)."""
        return sums(values, self.users, len(self))


def sums(values: Floats, users: Ints, count: int) -> Floats:
    """Return the sum of (R,) values for each of `count` users, where `users` (R,) names the user of each value."""
    found: Floats = np.bincount(users, weights=values, minlength=count).astype(np.float64)
    return found


def _gains(ranked: Ranked, k: int, gain: Callable[[Floats], Floats]) -> Floats:
    """Return each target's gain, (R,): the mean over orders of `gain` of its place, 0 beyond K."""
    reached = ranked.reached(k)
    gains = np.where(reached > 0, gain(ranked.ranks), 0.0)
    tied = np.flatnonzero((ranked.sizes > 1) & (reached > 0))
    if len(tied):
        first = ranked.ranks[tied].astype(np.int64) - 1
        last = first + reached[tied].astype(np.int64)
        sums_to = np.concatenate([[0.0], np.cumsum(gain(np.arange(1.0, last.max() + 1)))])
        gains[tied] = (sums_to[last] - sums_to[first]) / ranked.sizes[tied]
    return gains


def _best_gain(ranked: Ranked, k: int, gain: Callable[[Floats], Floats]) -> Floats:
    """Return the gain of each user's best-placed target, (N,), as the mean over orders.

    That target is one of `same` targets among `size` tied items. The probability that the first of them is at place j
    of the tie is same / (size - j) times the probability that none is before j. Later ties do not matter: they are
    within K only if this one ends within K.
    """
    first = ranked.offsets[:-1]
    gains = _gains(ranked, k, gain)[first]
    same, size, reached = ranked.groups[1][first], ranked.sizes[first], ranked.reached(k)[first]
    several = np.flatnonzero((same > 1) & (reached > 0))
    if len(several):
        same, size, reached = same[several], size[several], reached[several]
        total, none_yet = np.zeros(len(several)), np.ones(len(several))
        for place in range(int(reached.max())):
            here = none_yet * np.minimum(same / np.maximum(size - place, 1), 1.0)
            total += np.where(place < reached, here * gain(ranked.ranks[first[several]] + place), 0.0)
            none_yet -= here
        gains[several] = total
    return gains


def _discount(places: Floats) -> Floats:
    return 1.0 / np.log2(places + 1.0)


def hit_rate(ranked: Ranked, k: int) -> Floats:
    """Return HR@K, (N,): 1 if one of the user's targets ranks at most K, else 0."""
    return _best_gain(ranked, k, np.ones_like)


def recall(ranked: Ranked, k: int) -> Floats:
    """Return Recall@K, (N,): the share of the user's targets that rank at most K."""
    return ranked.sums(_gains(ranked, k, np.ones_like)) / ranked.counts


def precision(ranked: Ranked, k: int) -> Floats:
    """Return Precision@K, (N,): the number of the user's targets that rank at most K, over K."""
    return ranked.sums(_gains(ranked, k, np.ones_like)) / k


def ndcg(ranked: Ranked, k: int) -> Floats:
    """Return NDCG@K, (N,): sum of 1 / log2(rank + 1) over targets that rank at most K, over that of the best order."""
    gained = ranked.sums(_gains(ranked, k, _discount))
    most = min(k, int(ranked.counts.max(initial=1)))
    ideal = np.cumsum(_discount(np.arange(1.0, most + 1.0)))
    best: Floats = gained / ideal[np.minimum(ranked.counts, most) - 1]
    return best


def mrr(ranked: Ranked, k: int) -> Floats:
    """Return MRR@K, (N,): 1 / rank of the user's best target if it ranks at most K, else 0."""
    return _best_gain(ranked, k, np.reciprocal)


def average_precision(ranked: Ranked, k: int) -> Floats:
    """Return MAP@K, (N,): sum of (targets up to the rank) / rank over targets that rank at most K, over min(K, n)."""
    before, same = ranked.groups
    found = (before + 1) * _gains(ranked, k, np.reciprocal)
    # The expected number of the tie's other targets before a place is (place - best place) * (same - 1) / (size - 1).
    tied = np.flatnonzero((same > 1) & np.isfinite(ranked.ranks))
    if len(tied):
        share = (same[tied] - 1) / (ranked.sizes[tied] - 1)
        found[tied] *= (before[tied] + 1 - share * ranked.ranks[tied]) / (before[tied] + 1)
        found[tied] += share * ranked.reached(k)[tied] / ranked.sizes[tied]
    return ranked.sums(found) / np.minimum(ranked.counts, k)


@dataclass(frozen=True)
class Offered:
    """The contents of all users' lists of K items, as the mean over all orders of tied items."""

    counts: Floats
    """(I,) how many lists hold each item; an item in a tie at the end of a list counts by its probability."""
    missed: Floats
    """(I,) probability that no list holds the item."""

    @classmethod
    def nothing(cls, n_items: int) -> Offered:
        """Return the contents of no lists, for I items."""
        return cls(np.zeros(n_items), np.ones(n_items))

    def add(self, listed: NDArray[np.int32]) -> None:
        """Count (n, K) lists without ties at their ends; -1 where a user has no more items."""
        items = listed[listed >= 0]
        self.counts[:] += np.bincount(items, minlength=len(self.counts))
        self.missed[items] = 0.0

    def add_tied(self, tied: Bools, chance: Floats) -> None:
        """Count the ties at the ends of n lists.

        Args:
            tied: (n, I) which items tie for the last places of each list.
            chance: (n,) probability that a tied item is in the list.
        """
        self.counts[:] += chance @ tied
        self.missed[:] *= np.where(tied, 1.0 - chance[:, None], 1.0).prod(0)


def coverage(offered: Offered, _: Ints) -> float:
    """Return the share of the I items that are in at least one list."""
    return float(1.0 - offered.missed.mean())


def popularity(offered: Offered, train_counts: Ints) -> float:
    """Return the mean training count of the listed items, over all places of all lists."""
    return float(offered.counts @ train_counts / offered.counts.sum())


def gini(offered: Offered, _: Ints) -> float:
    """Return the Gini coefficient of how often the I items are listed: 0 = all equally often, near 1 = one item only.

    If lists end in ties, it is the coefficient of the mean counts, not the mean over all orders.
    """
    shown = np.sort(offered.counts)
    place = np.arange(1, len(shown) + 1)
    return float(((2 * place - len(shown) - 1) * shown).sum() / (len(shown) * shown.sum()))


def never_met(offered: Offered, train_counts: Ints) -> float:
    """Return the share of listed items that occur in no training row, over all places of all lists."""
    return float(offered.counts @ (train_counts == 0) / offered.counts.sum())


METRICS: dict[str, Callable[[Ranked, int], Floats]] = {
    "HR": hit_rate,
    "NDCG": ndcg,
    "Recall": recall,
    "Precision": precision,
    "MRR": mrr,
    "MAP": average_precision,
}
LIST_METRICS: dict[str, Callable[[Offered, Ints], float]] = {
    "Coverage": coverage,
    "Popularity": popularity,
    "Gini": gini,
    "NeverMet": never_met,
}
DEFAULT = ("HR", "NDCG")


def check_metrics(names: Iterable[str], where: str) -> None:
    """Raise ConfigError for the first metric that does not exist; `where` is the key for the message."""
    known = [*METRICS, *LIST_METRICS]
    for name in names:
        if name not in known:
            raise ConfigError(f"{where} names {name!r}; {nearest(name, known)}")


def check_lengths(at: Sequence[int], where: str) -> None:
    """Raise ConfigError if there are no list lengths or one is below 1; `where` is the key for the message."""
    if not at or min(at) < 1:
        raise ConfigError(f"{where} is {list(at)}; it needs list lengths of at least 1, such as [10, 20]")


def per_user(ranked: Ranked, metric: str) -> Floats:
    """Return each user's value, (N,), of a metric written as 'HR@10'; ConfigError if it does not exist."""
    name, _, k = metric.partition("@")
    if name not in METRICS or not k.isdecimal() or int(k) < 1:
        raise ConfigError(f"metric {metric!r} is not NAME@K, such as NDCG@10; {nearest(name, METRICS)}")
    return METRICS[name](ranked, int(k))
