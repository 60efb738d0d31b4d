"""Popularity: every user is offered the most frequent items of the training part, by an inner product of width 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.shared.recommender import Recommender, TrainBatch, TrainingFacts, TrainOutput, UserBatch


@dataclass(frozen=True)
class Config:
    """Popularity has no options."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


class Popularity(Recommender):
    """The score is how often an item occurs in the training part. Nothing is trained."""

    config_class = Config
    uses_items = False
    paper = "the floor of every comparison"
    counts: Tensor  # (I, 1)

    def __init__(self, config: Config, items: Any, facts: TrainingFacts) -> None:  # noqa: ARG002 (has no items)
        super().__init__(config, None, facts)
        self.register_buffer("counts", facts.item_counts.float()[:, None], persistent=False)

    def forward(self, batch: TrainBatch) -> TrainOutput:
        """Return a loss of 0 without gradient."""
        return TrainOutput(torch.zeros((), device=batch.items.device), int(batch.mask[:, 1:].sum()))

    def user_vectors(self, batch: UserBatch) -> Tensor:
        """Return (B, 1) ones."""
        return torch.ones(len(batch.users), 1, device=self.counts.device)

    def item_vectors(self) -> Tensor:
        """Return the counts (I, 1), exact in float32 below 2^24."""
        return self.counts


MODEL = Popularity
