"""What recommenders that know a user by number share: pairs in, vectors of users and items, one of five losses out.

A subclass defines `encode`. In a graph model it propagates over all users and items.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.shared.objective import Candidates, LossConfig, Objective
from models.shared.recommender import PairBatch, Recommender, TrainingFacts, TrainOutput, UserBatch
from models.shared.representation import CHUNK, ItemRepresentation


@dataclass(frozen=True)
class PairConfig(LossConfig):
    """Options of every recommender trained on pairs, beside those of its loss."""

    reg: float = 0.0
    """Weight of the penalty on long vectors. The penalty is half the squared length of the vectors a pair uses (user,
    item, and the mean over its drawn negatives), averaged over pairs. Models that propagate choose the vectors in
    `punished`."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if not self.reg >= 0:
            raise ValueError(f"reg is {self.reg}; it must be at least 0")


@dataclass(frozen=True)
class PairPlan:
    """What whole numbers decide in a step over pairs. Letters: Q pairs, n different users."""

    needed: Candidates
    """Items whose vectors the batch needs."""
    users: Tensor
    """Different users of the batch, (n,) int64, ascending."""
    rows: Tensor
    """Where each pair's user stands in `users`, (Q,) int64."""


class PairRecommender(Recommender):
    """A recommender whose user vector belongs to the user's number, not to a history."""

    trains_on = "pairs"
    reads_history = False

    def __init__(self, config: Any, items: ItemRepresentation | None, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        self.objective = Objective(config, facts)

    @abstractmethod
    def encode(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (n, D) of users (n,) and (m, D) of items (m,), all distinct; either may be empty."""

    def punished(self, users: Tensor, items: Tensor, encoded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return what `reg` keeps short, (n, K) for users (n,) and (m, K') for items (m,): here the `encoded` vectors.

        Models whose papers penalise the vectors before propagation override this.
        """
        return encoded

    def plan(self, batch: PairBatch) -> Any:
        """Return the plan of a batch on the CPU; negatives are drawn here."""
        everything = torch.ones_like(batch.items[:, None], dtype=torch.bool)
        needed = self.objective.candidates(batch.items[:, None], everything, batch.users)
        return PairPlan(needed, *torch.unique(batch.users, return_inverse=True))

    def forward(self, batch: PairBatch) -> TrainOutput:
        """Return the loss over the pairs: each user against the item met."""
        plan = self.planned(batch)
        needed, users, rows = plan.needed, plan.users, plan.rows
        user_vectors, vectors = self.encode(users, needed.items)
        labels = needed.slots[:, 0]
        loss = self.objective(user_vectors[rows], vectors, labels, needed)
        if self.config.reg:
            of_users, of_items = self.punished(users, needed.items, (user_vectors, vectors))
            lengths = of_items.square().sum(1)
            total = of_users.square().sum(1)[rows] + lengths[labels]
            if needed.negatives is not None:
                total = total + lengths[needed.negatives].mean(1)
            loss = loss + self.config.reg * 0.5 * total.mean()
        return TrainOutput(loss, len(batch.users))

    def user_vectors(self, batch: UserBatch) -> Tensor:
        """Return (B, D) vectors of the users; histories are ignored."""
        different, rows = torch.unique(batch.users, return_inverse=True)
        return self.encode(different, batch.users[:0])[0][rows]

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Return (I, D) vectors of all items as at inference; keep the training mode."""
        training = self.training
        self.eval()
        try:
            everything = torch.arange(self.facts.n_items, device=self.objective.log_shares.device)
            return torch.cat([self.encode(chunk[:0], chunk)[1] for chunk in torch.split(everything, CHUNK)])
        finally:
            self.train(training)
