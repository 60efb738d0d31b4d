"""What recommenders share that know a user by number: pairs in, vectors of users and items, one of five losses out.

A subclass is its `encode`. A graph model is one whose `encode` propagates over all users and items.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.shared.objective import LossConfig, Objective
from models.shared.recommender import PairBatch, Recommender, TrainingFacts, TrainOutput, UserBatch
from models.shared.representation import CHUNK, ItemRepresentation


@dataclass(frozen=True)
class PairConfig(LossConfig):
    """Options of every recommender trained on pairs: those of its loss, and"""

    reg: float = 0.0
    """Weight of half the squared length of the vectors a pair uses (of user, item and drawn negatives, these as a
    mean), mean over pairs; models that propagate name in `punished` the vectors meant."""

    def __post_init__(self) -> None:
        """Refuse values no model can have."""
        super().__post_init__()
        if not self.reg >= 0:
            raise ValueError(f"reg is {self.reg}; it must be at least 0")


class PairRecommender(Recommender):
    """A recommender whose user vector belongs to the user's number, not to a history."""

    trains_on = "pairs"
    reads_history = False

    def __init__(self, config: Any, items: ItemRepresentation | None, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        self.objective = Objective(config, facts)

    @abstractmethod
    def encode(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n, D) vectors of users (n,) and (m, D) of items (m,), each distinct; either may be empty."""

    def punished(self, users: Tensor, items: Tensor, encoded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return what `reg` keeps short, (n, K) of users (n,) and (m, K') of items (m,): here the `encoded` vectors.

        Models whose papers punish the vectors before propagation override it.
        """
        return encoded

    def forward(self, batch: PairBatch) -> TrainOutput:
        """Return the loss over the pairs: each user against the item met."""
        everything = torch.ones_like(batch.items[:, None], dtype=torch.bool)
        needed = self.objective.candidates(batch.items[:, None], everything, batch.users)
        users, rows = torch.unique(batch.users, return_inverse=True)
        user_vectors, vectors = self.encode(users, needed.items)
        labels = needed.slots[:, 0]
        loss = self.objective(user_vectors[rows], vectors, labels, batch.users, needed)
        if self.config.reg:
            of_users, of_items = self.punished(users, needed.items, (user_vectors, vectors))
            lengths = of_items.square().sum(1)
            total = of_users.square().sum(1)[rows] + lengths[labels]
            if needed.negatives is not None:
                total = total + lengths[needed.negatives].mean(1)
            loss = loss + self.config.reg * 0.5 * total.mean()
        return TrainOutput(loss, len(batch.users))

    def user_vectors(self, batch: UserBatch) -> Tensor:
        """Return (B, D) vectors of the users; histories are not looked at."""
        different, rows = torch.unique(batch.users, return_inverse=True)
        return self.encode(different, batch.users[:0])[0][rows]

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Return (I, D) vectors of all items as at inference; training mode is kept."""
        training = self.training
        self.eval()
        try:
            everything = torch.arange(self.facts.n_items, device=self.objective.log_shares.device)
            return torch.cat([self.encode(chunk[:0], chunk)[1] for chunk in torch.split(everything, CHUNK)])
        finally:
            self.train(training)
