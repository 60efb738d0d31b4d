"""DeepFM: a factorisation machine beside a deep network on the same vectors (Guo et al., IJCAI 2017, arXiv 1703.04247).

With x_1 .. x_n the vectors of the fields (the history's items and the candidate):

    y_FM  = sum over a of w . x_a + sum over a < b of x_a . x_b      equation 2
    y_DNN = v . MLP([x_1 .. x_n])                                    equations 3 and 4
    y     = y_FM + y_DNN                                             equation 1; the loss sees the logit

The first layer is split in two: its block for the history is computed once per history, its block for the candidate
once per item. The history has `max_length` places, with the newest item always in the last one; empty places are zero.

Deviations from the paper: the fields (models/shared/factorisation_machines.py); the weight of a field is a linear map
of its vector; there is no global bias, because no ranking loss can learn one; the loss is a softmax over the items of
the batch (there: log loss on clicks, which is loss 'bce' here).

Deviations from MicroLens, which has the same fields: there the first layer has no bias; there is no first-order term
(here `linear: false`); all other items of a window are the history (here `history: all`), so an item's place says
nothing about when it was met.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.shared.factorisation_machines import FieldConfig, FieldRecommender, Parts, interactions
from models.shared.layers import relu_layers
from models.shared.recommender import TrainingFacts
from models.shared.representation import ItemRepresentation


@dataclass(frozen=True)
class Config(FieldConfig):
    """Options of DeepFM: those of recommenders on fields, with at least one width in `hidden`."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if not self.hidden:
            raise ValueError("deepfm: hidden is empty; the deep part needs at least 1 layer (nfm works without)")


class DeepFM(FieldRecommender):
    """A factorisation machine plus a multi-layer perceptron over the fields side by side."""

    config_class = Config
    paper = "Guo et al., IJCAI 2017, arXiv 1703.04247"

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        width, fields = config.hidden[0], config.max_length + 1
        self.history_block = nn.Linear(config.max_length * items.dim, width)
        self.item_block = nn.Linear(items.dim, width, bias=False)
        self.layers = relu_layers(config.hidden, config.dropout)
        self.out = nn.Linear(config.hidden[-1], 1, bias=False)
        for block in (self.history_block, self.item_block):  # xavier-normal, as if both were one matrix
            nn.init.normal_(block.weight, std=(2 / (fields * items.dim + width)) ** 0.5)
        nn.init.zeros_(self.history_block.bias)

    def of_history(self, vectors: Tensor) -> Parts:
        """Return the sum (Q, D), the history's part of the scores (Q, 1) and its part of the first layer (Q, H)."""
        total, pool = interactions(vectors)
        alone = pool.sum(1, keepdim=True) + self.first_order(total)[:, None]
        missing = self.config.max_length - vectors.shape[1]
        return total, alone, self.history_block(functional.pad(vectors, (0, 0, missing, 0)).flatten(1))

    def of_candidates(self, vectors: Tensor) -> Parts:
        """Return the vectors, their first-order terms (Q or 1, C) and part of the first layer (Q or 1, C, H)."""
        return vectors, self.first_order(vectors), self.item_block(vectors)

    def logits(self, history: Parts, candidates: Parts) -> Tensor:
        """Return (Q, C) scores."""
        total, alone, history_share = history
        vectors, first, item_share = candidates
        pairs = total @ vectors[0].T if len(vectors) == 1 else torch.einsum("qd,qcd->qc", total, vectors)
        hidden = functional.relu(history_share[:, None] + item_share, inplace=True)
        hidden = functional.dropout(hidden, self.config.dropout, self.training)
        deep: Tensor = self.out(self.layers(hidden))[:, :, 0]
        return pairs + alone + first + deep


MODEL = DeepFM
