"""NFM: neural factorisation machine (He and Chua, SIGIR 2017, arXiv 1708.05027).

With x_1 .. x_n the vectors of the fields (the history's items and the candidate):

    f = sum over a < b of x_a * x_b                                   equation 3, in linear time by equation 4
    y = sum over a of w . x_a + h . MLP(Dropout(BatchNorm(f)))        equation 7; hidden layers: equation 5

The pool of a history with a candidate i is pool(history) + (sum of history) * i, so a history is pooled once for all
candidates.

Deviations from the paper: the fields (models/shared/factorisation_machines.py); the weight of a field is a linear map
of its vector; there is no global bias, because no ranking loss can learn one; BatchNorm is on the pool alone (the
authors' code can have it on hidden layers, too); the loss is a softmax over the items of the batch (there: squared
error).

Deviations from MicroLens, which has the same fields: there ReLU also follows the last layer, so that no score is below
0 and a row can die; there is no first-order term (here `linear: false`); all other items of a window are the history
(here `history: all`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.shared.factorisation_machines import FieldConfig, FieldRecommender, Parts, interactions
from models.shared.layers import BatchNorm, relu_layers
from models.shared.recommender import TrainingFacts
from models.shared.representation import ItemRepresentation


@dataclass(frozen=True)
class Config(FieldConfig):
    """Options of NFM, beside those of recommenders on fields."""

    norm: Literal["batch", "none"] = "batch"
    """Normalisation of the pool: 'batch' (BatchNorm) or 'none'."""
    pool_dropout: float = 0.0
    """Dropout on the pool, in [0, 1)."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if self.norm not in ("batch", "none"):
            raise ValueError(f"nfm: norm is {self.norm!r}; known: batch, none")
        if not 0 <= self.pool_dropout < 1:
            raise ValueError(f"nfm: pool_dropout is {self.pool_dropout}; it must be in [0, 1)")


class NFM(FieldRecommender):
    """A multi-layer perceptron over the pooled products of all pairs of fields."""

    config_class = Config
    paper = "He & Chua, SIGIR 2017, arXiv 1708.05027"

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        widths = (items.dim, *config.hidden)
        self.norm = BatchNorm(items.dim) if config.norm == "batch" else None
        self.layers = relu_layers(widths, config.dropout)
        self.out = nn.Linear(widths[-1], 1, bias=False)

    def of_history(self, vectors: Tensor) -> Parts:
        """Return the sum and the pool, (Q, D) each, and the first-order term (Q, 1)."""
        total, pool = interactions(vectors)
        return total, pool, self.first_order(total)[:, None]

    def of_candidates(self, vectors: Tensor) -> Parts:
        """Return the vectors and their first-order terms (Q or 1, C)."""
        return vectors, self.first_order(vectors)

    def logits(self, history: Parts, candidates: Parts) -> Tensor:
        """Return (Q, C) scores."""
        total, pool, first = history
        vectors, item_first = candidates
        if self.norm is not None and not self.training:  # folded into the history: one pass less over all pairs
            gain, offset = self.norm.as_affine()
            total, pool = total * gain, pool * gain + offset
        pooled = torch.addcmul(pool[:, None], total[:, None], vectors)
        rows = pooled.flatten(0, 1)
        if self.norm is not None and self.training:
            rows = self.norm(rows)
        rows = self.layers(functional.dropout(rows, self.config.pool_dropout, self.training))
        scores: Tensor = self.out(rows).view(pooled.shape[:2]) + first + item_first
        return scores


MODEL = NFM
