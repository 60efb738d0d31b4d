"""The loss that the options choose, and the items it needs.

Letters: B batch, S slots of a row, D model width, U users, I items, Q queries, C candidates, N negatives of a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from models.shared.losses import (
    OwnItems,
    batch_items,
    binary_cross_entropy,
    bpr,
    full_softmax,
    in_batch_softmax,
    in_batch_softmax_of_scores,
    log_popularity,
    own_items,
    sampled_softmax,
)
from models.shared.recommender import TrainingFacts, UserItems
from models.shared.sampling import NegativeSampler, Sampling

Loss = Literal["in-batch", "full", "sampled", "bpr", "bce"]
DRAWN = ("sampled", "bpr", "bce")


@dataclass(frozen=True)
class LossConfig:
    """Which loss is trained, and against which items."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    loss: Loss = "in-batch"
    """Loss that is trained: 'in-batch', a softmax over the items of the batch; 'full', over all items; 'sampled', over
    drawn items; 'bpr' or 'bce', against drawn items one by one."""
    correction: bool = True
    """Whether log popularity is subtracted from the logits; 'in-batch' only."""
    mask_own: bool = True
    """Whether what a user has met anywhere in training is no negative of that user; 'in-batch' only."""
    negatives: int = 1
    """Number of items drawn for each position, N; 'sampled', 'bpr' and 'bce' only. Never an item the user has met in
    training."""
    sampling: Sampling = "uniform"
    """How negatives are drawn: 'uniform', or by 'popularity' to the power of 0.75."""
    cold_negatives: bool = True
    """Whether items that nobody has met in training are drawn, too. If not, nothing in training holds their scores
    down, and models that place them by content may offer little else. If so, they are pushed down as far as the
    training part can tell, and hardly ever offered."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        for name, known in (("loss", Loss), ("sampling", Sampling)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} is {getattr(self, name)!r}; known: {', '.join(get_args(known))}")
        if self.negatives < 1:
            raise ValueError(f"negatives is {self.negatives}; {', '.join(DRAWN)} need at least 1 per position")


@dataclass(frozen=True)
class Candidates:
    """The items whose vectors a batch needs, each once."""

    items: Tensor
    """Distinct items, (C,) int64."""
    slots: Tensor
    """Where each slot's item stands in `items`, (B, S) int64; any number where the slot is padding."""
    counts: Tensor | None = None
    """Number of real slots that hold each item, (C,) int64; None where the loss does not need it."""
    negatives: Tensor | None = None
    """Where the drawn items stand in `items`, (Q, N) int64; None where none are drawn."""
    chance: Tensor | None = None
    """Log probability of each draw, (Q, N) float32; loss 'sampled' only."""
    own: OwnItems | None = None
    """Which items are no negatives of a query; None where all are."""


class Objective(nn.Module):
    """A loss together with what it needs to know of the training part."""

    log_shares: Tensor  # (I,)

    def __init__(self, config: LossConfig, facts: TrainingFacts) -> None:
        super().__init__()
        self.config = config
        self.n_items = facts.n_items
        shares = log_popularity(facts.item_counts)
        self.register_buffer("log_shares", shares if config.correction else torch.zeros_like(shares), persistent=False)
        self.sampler = None
        if config.loss in DRAWN:
            self.sampler = NegativeSampler(facts, config.sampling, cold=config.cold_negatives)
        self.met = UserItems(facts) if config.loss == "in-batch" and config.mask_own else None

    def candidates(self, items: Tensor, mask: Tensor, users: Tensor) -> Candidates:
        """Return the items whose vectors a batch needs; draw the negatives. All of it is on the CPU.

        Args:
            items: (B, S) int64, inputs and labels.
            mask: (B, S) bool, False where a slot is padding.
            users: (Q,) int64, the user of each query.
        """
        if self.config.loss == "full":
            return Candidates(torch.arange(self.n_items), items)
        if self.sampler is None:
            distinct = batch_items(items, mask)
            own = None if self.met is None else own_items(users, self.met, distinct)
            return Candidates(distinct.items, distinct.slots, distinct.counts, own=own)
        drawn = self.sampler(users, self.config.negatives)
        chance = None
        if self.config.loss == "sampled":
            chance = self.sampler.log_probability(users[:, None].expand_as(drawn), drawn)
        real = items[mask]
        distinct_items, inverse = torch.unique(torch.cat([real, drawn.flatten()]), return_inverse=True)
        slots = torch.zeros_like(items)
        slots[mask] = inverse[: len(real)]
        return Candidates(distinct_items, slots, negatives=inverse[len(real) :].view_as(drawn), chance=chance)

    def forward(self, queries: Tensor, vectors: Tensor, labels: Tensor, of: Candidates) -> Tensor:
        """Return the mean loss () over queries.

        Args:
            queries: (Q, D).
            vectors: (C, D), those of `of.items`.
            labels: (Q,) int64, where the labels stand in `of.items`.
            of: from `candidates`.
        """
        if self.config.loss == "full":
            return full_softmax(queries, vectors, labels)
        if of.negatives is None:
            return in_batch_softmax(queries, vectors, labels, *self._weights(of))
        with torch.autocast(queries.device.type, enabled=False):
            queries, vectors = queries.float(), vectors.float()
            positive = (queries * vectors[labels]).sum(1)
            negative = torch.einsum("qd,qnd->qn", queries, vectors[of.negatives])
            return self._drawn(positive, negative, of)

    def of_scores(self, scores: Tensor, labels: Tensor, of: Candidates) -> Tensor:
        """Return the mean loss () over queries whose scores are no inner products; not for 'full'.

        Args:
            scores: (Q, C), those of `of.items`; where negatives are drawn (Q, 1 + N), the label's first.
            labels: (Q,) int64, where the labels stand in `of.items`.
            of: from `candidates`.
        """
        with torch.autocast(scores.device.type, enabled=False):
            scores = scores.float()
            if of.negatives is not None:
                return self._drawn(scores[:, 0], scores[:, 1:], of)
            weights, shares, excluded = self._weights(of)
            return in_batch_softmax_of_scores(scores, labels, weights, shares, excluded)

    def _drawn(self, positive: Tensor, negative: Tensor, of: Candidates) -> Tensor:
        if self.config.loss == "bpr":
            return bpr(positive, negative)
        if self.config.loss == "bce":
            return binary_cross_entropy(positive, negative)
        assert of.chance is not None
        return sampled_softmax(positive, negative, of.chance)

    def _weights(self, of: Candidates) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return log counts (C,) and log shares (C,) of the batch's items, and which are no negatives (Q, C)."""
        assert of.counts is not None
        excluded = None if of.own is None else of.own.mask()
        return of.counts.float().log(), self.log_shares[of.items], excluded
