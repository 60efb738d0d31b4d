"""BPR-MF: matrix factorisation under Bayesian personalised ranking (Rendle et al., UAI 2009, arXiv 1205.2618).

The score of user u and item i is w_u . h_i + b_i (section 4.3.1), where h_i is the item representation and b_i a
learned bias. The bias is carried as one more dimension, in which every user vector has a 1. The loss is BPR-Opt:
-ln sigmoid of the score's difference to that of an item the user has not met, plus a penalty (`reg`) on the squared
lengths of w_u, of both h_i and of both b_i.

Deviations from the paper: AdamW on batches of pairs (there: plain gradient steps on one triple at a time); one weight
`reg` for all (there: one each for users, positive items and negative items).
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
    """Options of BPR-MF, all of which belong to its loss. The width D is that of the item representation."""

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
        """Return the biases (m,) of items (m,)."""
        return self.bias[items]

    def encode(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return user vectors (n, D + 1) that end in a 1, and item vectors (m, D + 1) that end in their bias."""
        of_users = self.users(users)
        one = of_users.new_ones(len(users), 1)
        return torch.cat([of_users, one], dim=1), torch.cat([self.items(items), self.item_bias(items)[:, None]], dim=1)

    def punished(self, users: Tensor, items: Tensor, encoded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the vectors and the learned biases, without the 1 of the users."""
        return encoded[0][:, :-1], torch.cat([encoded[1][:, :-1], self.bias[items][:, None]], dim=1)


MODEL = BPRMF
