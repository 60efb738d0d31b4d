"""Item-KNN: item-based top-N (Sarwar et al., WWW 2001; Deshpande and Karypis, ACM TOIS 22(1), 2004).

With c_ij the number of users who met both items in training and c_i the number who met i, an item j of the history
supports i with the weight

    cosine       w_ji = c_ij / (sqrt(c_i c_j) + shrink)
    conditional  w_ji = c_ij / (c_j c_i^alpha + shrink)

which is kept for the k items i nearest to j and is zero for all others. The score of i is the sum of w_ji over the
different items j of the history. `normalise` divides the k weights of each j by their sum, so that items with many near
neighbours do not count for more.

Deviations: a user counts once for an item, however often the two met; users are not weighted by the length of their
rows (Deshpande and Karypis do so in the conditional probability); `shrink` is not in the papers, and 0 switches it off;
the history is what the model is shown (`data.max_length`; there: everything the user has bought). The score would be an
inner product only at width I, so the model gives scores instead of vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from models.shared.recommender import NoInnerProduct, TrainBatch, TrainingFacts, TrainOutput, UserBatch, UserItems

CHUNK = 4096  # items whose neighbours are found at a time


@dataclass(frozen=True)
class Config:
    """Options of item-KNN."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    neighbours: int = 100
    """Number of neighbours kept for each item, k."""
    similarity: Literal["cosine", "conditional"] = "cosine"
    """Weight of a pair of items: 'cosine' or 'conditional' (conditional probability)."""
    alpha: float = 0.5
    """How strongly frequent items are held back, at least 0; 'conditional' only."""
    shrink: float = 0.0
    """Number added to the denominator, at least 0; it holds back pairs of rare items."""
    normalise: bool = False
    """Whether the weights of each item's neighbours are scaled to sum to 1."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        if self.neighbours < 1 or not self.shrink >= 0 or not self.alpha >= 0:
            raise ValueError(
                f"itemknn: neighbours {self.neighbours} must be >= 1, shrink {self.shrink} and alpha {self.alpha} >= 0"
            )
        if self.similarity not in ("cosine", "conditional"):
            raise ValueError(f"itemknn: similarity is {self.similarity!r}; known: cosine, conditional")


class ItemKNN(NoInnerProduct):
    """Neighbours of the history's items, by how many users met both. Nothing is trained."""

    config_class = Config
    uses_items = False
    paper = "Sarwar et al., WWW 2001; Deshpande & Karypis, TOIS 2004"
    offsets: Tensor  # (I + 1,) where each item's neighbours start
    neighbours: Tensor  # (m,) item after item, nearest first
    weights: Tensor  # (m,) weight of each neighbour

    def __init__(self, config: Config, items: Any, facts: TrainingFacts) -> None:  # noqa: ARG002 (has no items)
        super().__init__(config, None, facts)
        counts, neighbours, weights = _neighbours(facts, config)
        self.register_buffer("offsets", torch.cat([counts.new_zeros(1), counts.cumsum(0)]), persistent=False)
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, batch: TrainBatch) -> TrainOutput:
        """Return a loss of 0 without gradient."""
        return TrainOutput(torch.zeros((), device=batch.items.device), int(batch.mask[:, 1:].sum()))

    def scores(self, batch: UserBatch) -> Tensor:
        """Return (B, I) sums of weights; 0 for items that are no neighbours of the history."""
        rows = torch.arange(len(batch.users), device=batch.items.device)[:, None]
        distinct = torch.unique((rows * self.facts.n_items + batch.items)[batch.mask])
        users, items = torch.div(distinct, self.facts.n_items, rounding_mode="floor"), distinct % self.facts.n_items
        starts, counts = self.offsets[items], self.offsets[items + 1] - self.offsets[items]
        who = torch.repeat_interleave(counts)
        places = starts[who] + torch.arange(len(who), device=who.device) - (counts.cumsum(0) - counts)[who]
        into = users[who] * self.facts.n_items + self.neighbours[places]
        scores = torch.zeros(len(batch.users) * self.facts.n_items, device=self.weights.device)
        return scores.index_add_(0, into, self.weights[places]).view(len(batch.users), -1)


def _neighbours(facts: TrainingFacts, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Return each item's number of neighbours (I,) and, item after item, the neighbours (m,) and their weights (m,)."""
    met = UserItems(facts)
    users = torch.repeat_interleave(met.offsets.diff())
    frequency = torch.bincount(met.items, minlength=facts.n_items).double()
    found = []
    for start in range(0, facts.n_items, CHUNK):
        here = (met.items >= start) & (met.items < start + CHUNK)
        rows, others = met.of(users[here])
        pairs, common = torch.unique(met.items[here][rows] * facts.n_items + others, return_counts=True)
        one, other = torch.div(pairs, facts.n_items, rounding_mode="floor"), pairs % facts.n_items
        different = one != other
        one, other, common = one[different], other[different], common[different]
        if config.similarity == "cosine":
            scale = (frequency[one] * frequency[other]).sqrt()
        else:
            scale = frequency[one] * frequency[other] ** config.alpha
        found.append(_nearest(one, other, common / (scale + config.shrink), config.neighbours))
    one, other, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
    if config.normalise:
        weights = weights / torch.zeros_like(frequency).index_add_(0, one, weights)[one]
    return torch.bincount(one, minlength=facts.n_items), other, weights.float()


def _nearest(one: Tensor, other: Tensor, weights: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the k largest weights of each `one`, largest first; of equal weights, that of the smaller item number."""
    order = torch.argsort(weights, descending=True, stable=True)
    order = order[torch.argsort(one[order], stable=True)]
    one, other, weights = one[order], other[order], weights[order]
    within = torch.arange(len(one)) - torch.searchsorted(one, one)
    return one[within < k], other[within < k], weights[within < k]


MODEL = ItemKNN
