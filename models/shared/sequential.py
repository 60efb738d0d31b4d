"""What sequential recommenders share: distinct items in, states of every position, one of five losses out.

A subclass defines `encode`. Input and output use the same item vectors (tied).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.shared.losses import batch_items
from models.shared.objective import Candidates, LossConfig, Objective
from models.shared.recommender import Recommender, TrainBatch, TrainingFacts, TrainOutput, UserBatch
from models.shared.representation import ItemRepresentation


@dataclass(frozen=True)
class SequentialConfig(LossConfig):
    """Options of every sequential recommender, beside those of its loss."""

    max_length: int = 10
    """Number of items in the longest history, L."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if self.max_length < 1:
            raise ValueError(f"max_length is {self.max_length}; a history needs at least 1 item")


@dataclass(frozen=True)
class WindowPlan:
    """What whole numbers decide in a step over windows. Letters: Q real positions, B windows, L + 1 slots."""

    needed: Candidates
    """Items whose vectors the batch needs."""
    places: Tensor
    """Where each position stands among the B x L inputs, (Q,) int64, ascending."""
    labels: Tensor
    """Where each position's next item stands in `needed.items`, (Q,) int64."""


class SequentialRecommender(Recommender):
    """A recommender whose user vector is the state after the newest item of the history."""

    def __init__(self, config: Any, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        self.objective = Objective(config, facts)

    @abstractmethod
    def encode(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return the state (B, L, D) of each slot, from item vectors (B, L, D); no state sees a later slot.

        Vectors are zero where mask (B, L) is False. Histories end in the last slot. States of padded slots may be
        anything finite.
        """

    def states(self, vectors: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """Return the states (Q, D) of the real slots, which are `places` (Q,) among B x L; see `encode`."""
        return self.encode(vectors, mask).flatten(0, 1).index_select(0, places)

    def newest(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return the states (B, D) of the last slots; models that can compute these alone override it."""
        return self.encode(vectors, mask)[:, -1]

    def plan(self, batch: TrainBatch) -> Any:
        """Return the plan of a batch on the CPU; negatives are drawn here."""
        real = batch.mask[:, :-1]
        users = batch.users.repeat_interleave(real.sum(1))
        needed = self.objective.candidates(batch.items, batch.mask, users)
        return WindowPlan(needed, real.flatten().nonzero()[:, 0], needed.slots[:, 1:][real])

    def forward(self, batch: TrainBatch) -> TrainOutput:
        """Return the loss over all real positions: each state against the next item."""
        plan = self.planned(batch)
        real, needed = batch.mask[:, :-1], plan.needed
        vectors = self.items(needed.items)
        states = self.states(self._inputs(vectors, needed.slots[:, :-1], real), real, plan.places)
        return TrainOutput(self.objective(states, vectors, plan.labels, needed), len(plan.labels))

    def user_vectors(self, batch: UserBatch) -> Tensor:
        """Return (B, D) states after the newest item; all empty histories give the same vector."""
        distinct = batch_items(batch.items, batch.mask)
        if not len(distinct.items):
            vectors = torch.zeros(1, self.items.dim, device=batch.items.device)
        else:
            vectors = self.items(distinct.items)
        return self.newest(self._inputs(vectors, distinct.slots, batch.mask), batch.mask)

    def item_vectors(self) -> Tensor:
        """Return (I, D) vectors of all items."""
        return self.items.table()

    def _inputs(self, vectors: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
        length, most = mask.shape[1], self.config.max_length
        if length > most:
            raise ValueError(f"histories have {length} items, but max_length is {most}; keep the newest {most}")
        return vectors[slots] * mask[:, :, None]
