"""DeepFM: a factorisation machine beside a deep network on the same vectors (Guo et al., IJCAI 2017, arXiv 1703.04247).

With x_1 .. x_n the vectors of the fields (the history's items and the candidate):

    y_FM  = sum over a of w . x_a + sum over a < b of x_a . x_b      equation 2
    y_DNN = v . MLP([x_1 .. x_n])                                    equations 3 and 4
    y     = y_FM + y_DNN                                             equation 1; the loss sees the logit

The first layer is split: its history block is computed once per history and its candidate block once per item. The
history has `max_length` places, the newest item always in the last one; empty places are zero.

Deviations from the paper: the fields (models/shared/factorisation_machines.py); the weight of a field is a linear map
of its vector; no global bias, which no ranking loss can learn; a softmax over the items of the batch (there: log loss on clicks, loss
'bce' here). Deviations from MicroLens, whose fields these are: there the first layer has no bias and there is no
first-order term (`linear` false); all other items of a window are the history (`history` 'all'), so that a place says
nothing about when.
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
    """Options of DeepFM: those of recommenders on fields; `hidden` has at least one width."""

    def __post_init__(self) -> None:
        """Refuse values no DeepFM can have."""
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
        for block in (self.history_block, self.item_block):  # xavier-normal of the two as one matrix
            nn.init.normal_(block.weight, std=(2 / (fields * items.dim + width)) ** 0.5)
        nn.init.zeros_(self.history_block.bias)

    def of_history(self, vectors: Tensor) -> Parts:
        """Return sum (Q, D), what the history alone adds to scores (Q, 1) and its share of the first layer (Q, H)."""
        total, pool = interactions(vectors)
        alone = pool.sum(1, keepdim=True) + self.first_order(total)[:, None]
        missing = self.config.max_length - vectors.shape[1]
        return total, alone, self.history_block(functional.pad(vectors, (0, 0, missing, 0)).flatten(1))

    def of_candidates(self, vectors: Tensor) -> Parts:
        """Return the vectors, their first-order term (Q or 1, C) and share of the first layer (Q or 1, C, H)."""
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
