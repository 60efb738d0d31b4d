"""Negative sampling: items that a user has not met in training, drawn by array operations on the CPU.

Draws are made while a batch is planned, so they are the same for every device, and no device waits for them.

Letters: Q queries, N negatives, U users, I items, W items that may be drawn, E interactions. Draws come from torch's
global generator, which a training epoch seeds, as do those of dropout.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from models.shared.recommender import TrainingFacts, UserItems

Sampling = Literal["uniform", "popularity"]

POWER = 0.75  # exponent of training counts, as in word2vec (Mikolov et al., arXiv 1310.4546, section 2.2)
ROUNDS = 8  # redraws of popular items that turn out to be the user's own; what is left is drawn uniformly


class NegativeSampler:
    """Draws items that a user has not met: exactly uniform, or by popularity to the power of 0.75.

    Without `cold`, items that nobody has met in training are never drawn. Drawing them teaches that content like theirs
    is unwanted, and hides new items at test. Not drawing them leaves nothing that holds their scores down.
    """

    drawable: Tensor  # (W,) items, ascending
    shifted: Tensor  # (E',) keys for the exact uniform draw
    own: Tensor  # (E' + 1,) keys of the items met, ascending
    cumulative: Tensor  # (I,) float64, running sum of the popularity weights

    def __init__(self, facts: TrainingFacts, how: Sampling = "uniform", *, cold: bool = True) -> None:
        if how not in get_args(Sampling):
            raise ValueError(f"sampling is {how!r}; known: {', '.join(get_args(Sampling))}")
        self.how = how
        self.met = UserItems(facts)
        counts = self.met.offsets.diff()
        allowed = torch.ones(facts.n_items, dtype=torch.bool)
        if not cold:
            allowed = torch.bincount(self.met.items, minlength=facts.n_items) > 0
        self.drawable = allowed.nonzero()[:, 0]
        everything = (counts >= len(self.drawable)).nonzero()
        if len(everything):
            raise ValueError(
                f"user number {int(everything[0])} has met all {len(self.drawable)} items in training, so no negative "
                "can be drawn; use loss 'in-batch' or 'full', or remove such users"
            )
        users = torch.repeat_interleave(counts)
        within = torch.arange(len(users)) - self.met.offsets[users]
        place = (allowed.cumsum(0) - 1)[self.met.items]  # in `drawable`
        # In a user's ascending items, the place of the j-th minus j counts the items below it that were not met.
        self.shifted = users * facts.n_items + place - within
        last = users.new_tensor([facts.n_users * facts.n_items])  # above every key: a search never leaves the array
        self.own = torch.cat([users * facts.n_items + self.met.items, last])
        weights = facts.item_counts.double().clamp(min=1).pow(POWER) * allowed
        self.cumulative = weights.cumsum(0)

    def __call__(self, users: Tensor, count: int) -> Tensor:
        """Return (Q, count) int64 items that the users (Q,) have not met in training; repeats are possible."""
        users = users[:, None].expand(-1, count)
        if self.how == "uniform":
            return self._uniform(users)
        drawn = self._popular(users)
        for _ in range(ROUNDS):
            bad = self.is_own(users, drawn)
            if not bool(bad.any()):
                return drawn
            drawn[bad] = self._popular(users[bad])
        bad = self.is_own(users, drawn)
        drawn[bad] = self._uniform(users[bad])
        return drawn

    def is_own(self, users: Tensor, items: Tensor) -> Tensor:
        """Return bool of the same shape: whether the user has met the item in training."""
        keys = users * self.met.n_items + items
        return self.own[torch.searchsorted(self.own, keys)] == keys

    def log_probability(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the log probability, float32 of the same shape, that an item not met by the user is drawn.

        By popularity it is that of a draw before own items are redrawn: for each user, wrong by a constant factor only.
        """
        if self.how == "uniform":
            unmet = len(self.drawable) - (self.met.offsets[users + 1] - self.met.offsets[users])
            return -unmet.double().log().float()
        weights = self.cumulative.diff(prepend=self.cumulative.new_zeros(1))
        return (weights[items] / self.cumulative[-1]).log().float()

    def _uniform(self, users: Tensor) -> Tensor:
        """Return for each user the r-th item not met, with r uniform: one draw, no rejection."""
        starts = self.met.offsets[users]
        unmet = len(self.drawable) - (self.met.offsets[users + 1] - starts)
        # float64 has 53 bits: the share of an item is exact to 1e-9 at any number of items that fits in memory
        rank = (torch.rand(users.shape, dtype=torch.float64) * unmet).long()
        below = torch.searchsorted(self.shifted, users * self.met.n_items + rank, right=True) - starts
        return self.drawable[rank + below]

    def _popular(self, users: Tensor) -> Tensor:
        point = torch.rand(users.shape, dtype=torch.float64) * self.cumulative[-1]
        return torch.searchsorted(self.cumulative, point, right=True).clamp(max=int(self.drawable[-1]))
