"""What sequential recommenders share: distinct items in, states of every position, one of two losses out.

A subclass is its `encode`. Input and output use the same item vectors (tied).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from models.base import Recommender, TrainBatch, TrainingFacts, TrainOutput, UserBatch
from models.items import ItemRepresentation
from models.losses import batch_items, full_softmax, in_batch_softmax, log_popularity, own_items


@dataclass(frozen=True)
class SequentialConfig:
    """Options of every sequential recommender.

    Attributes:
        max_length: L, the longest history.
        loss: 'in-batch' softmax over the items of the batch, or 'full' cross entropy over all items.
        correction: 'in-batch' only: subtract log popularity from the logits.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_length: int = 10
    loss: Literal["in-batch", "full"] = "in-batch"
    correction: bool = True

    def __post_init__(self) -> None:
        """Refuse values no model can have."""
        if self.max_length < 1:
            raise ValueError(f"max_length is {self.max_length}; a history needs at least 1 item")
        if self.loss not in ("in-batch", "full"):
            raise ValueError(f"loss is {self.loss!r}; known: in-batch, full")


class SequentialRecommender(Recommender):
    """A recommender whose user vector is the state after the newest item of the history."""

    log_shares: Tensor  # (I,)

    def __init__(self, config: Any, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        shares = log_popularity(facts.item_counts)
        self.register_buffer("log_shares", shares if config.correction else torch.zeros_like(shares), persistent=False)

    @abstractmethod
    def encode(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return (B, L, D) states of item vectors (B, L, D), zero where mask (B, L) is False; none sees a later slot.

        Histories end in the last slot. States of padded slots may be anything finite.
        """

    def forward(self, batch: TrainBatch) -> TrainOutput:
        """Return the loss over all real positions: each state against the next item."""
        real = batch.mask[:, :-1]
        positions = int(real.sum())
        if self.config.loss == "full":
            vectors = self.items(torch.arange(self.items.n_items, device=batch.items.device))
            states = self._states(vectors, batch.items[:, :-1], real)
            return TrainOutput(full_softmax(states[real], vectors, batch.items[:, 1:][real]), positions)
        distinct = batch_items(batch.items, batch.mask)
        vectors = self.items(distinct.items)
        states = self._states(vectors, distinct.slots[:, :-1], real)
        excluded = own_items(batch, distinct).repeat_interleave(real.sum(1), dim=0, output_size=positions)
        loss = in_batch_softmax(
            states[real],
            vectors,
            distinct.slots[:, 1:][real],
            distinct.counts.float().log(),
            self.log_shares[distinct.items],
            excluded,
        )
        return TrainOutput(loss, positions)

    def user_vectors(self, batch: UserBatch) -> Tensor:
        """Return (B, D) states after the newest item; an empty history gives one vector, the same for all."""
        distinct = batch_items(batch.items, batch.mask)
        if not len(distinct.items):
            vectors = torch.zeros(1, self.items.dim, device=batch.items.device)
        else:
            vectors = self.items(distinct.items)
        return self._states(vectors, distinct.slots, batch.mask)[:, -1]

    def item_vectors(self) -> Tensor:
        """Return (I, D) vectors of all items."""
        return self.items.table()

    def _states(self, vectors: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
        if mask.shape[1] > self.config.max_length:
            raise ValueError(f"histories of {mask.shape[1]} items; max_length is {self.config.max_length}")
        return self.encode(vectors[slots] * mask[:, :, None], mask)
