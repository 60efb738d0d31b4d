"""BPR-MF: matrix factorisation under Bayesian personalised ranking (Rendle et al., UAI 2009, arXiv 1205.2618).

Score of user u and item i (section 4.3.1): w_u . h_i + b_i, where h_i is the item representation and b_i a learned
bias, carried as one more dimension in which the user has a 1. Trained with BPR-Opt: ln sigmoid of the difference to an
item the user has not met, the squared lengths of w_u, of both h_i and of both b_i punished (`reg`).

Deviations from the paper: AdamW on batches of pairs (there: one triple at a time, plain gradient steps); one weight
`reg` for all (there: one each for users, positive and negative items).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.shared.objective import Loss
from models.shared.pairwise import PairConfig, PairRecommender
from models.shared.recommender import TrainingFacts
from models.shared.representation import ItemRepresentation


@dataclass(frozen=True)
class Config(PairConfig):
    """Options of BPR-MF; the width D is that of the item representation. All are those of the loss."""

    loss: Loss = "bpr"
    cold_negatives: bool = False


class BPRMF(PairRecommender):
    """A learned vector per user against item vectors, plus a bias per item; D + 1 dimensions."""

    config_class: ClassVar[type] = Config
    paper = "Rendle et al., UAI 2009, arXiv 1205.2618"

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        self.users = nn.Embedding(facts.n_users, items.dim)
        self.bias = nn.Parameter(torch.zeros(facts.n_items))
        nn.init.normal_(self.users.weight, std=0.02)

    def item_bias(self, items: Tensor) -> Tensor:
        """Return (m,) biases of items."""
        return self.bias[items]

    def encode(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n, D + 1) user vectors with a 1 at the end, (m, D + 1) item vectors with their bias at the end."""
        of_users = self.users(users)
        one = of_users.new_ones(len(users), 1)
        return torch.cat([of_users, one], dim=1), torch.cat([self.items(items), self.item_bias(items)[:, None]], dim=1)

    def punished(self, users: Tensor, items: Tensor, encoded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the vectors, without the 1 of the users, and the learned biases."""
        return encoded[0][:, :-1], torch.cat([encoded[1][:, :-1], self.bias[items][:, None]], dim=1)


MODEL = BPRMF
