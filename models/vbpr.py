"""VBPR: visual Bayesian personalised ranking (He and McAuley, AAAI 2016, arXiv 1510.01784).

The score of user u and item i (equation 4, without the terms that are the same for all items):

    b_i + gamma_u . gamma_i + theta_u . (E f_i) + beta' . f_i

gamma_i is the learned part of the item representation, E f_i the projected part of each feature file, beta a learned
vector per feature file. With `items: {kind: id+v, fuse: concat}` the parts stand side by side, so a user's vector is
[gamma_u, theta_u] and the score is the paper's. With 'sum', gamma_u and theta_u are one vector. Kinds 'v' and 'dnn'
drop gamma. Kind 'id' has no f_i and is refused. With `items.mix`, f_i is the mix of the layers.

Deviations from the paper: f_i is normalised as `items.normalise` says; the optimiser is AdamW; one `reg` covers b and
the vectors gamma, theta and E f (there: separate ones, and one on E and beta; here `weight_decay` acts on E).

Deviation from the benchmark MicroLens (its "DSSM ID+V", arXiv 2309.15379, released code): beta is trained; there it is
random and is added to the scores at test only. The benchmark's loss is `loss: in-batch`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.bprmf import BPRMF
from models.bprmf import Config as FactorConfig
from models.items.build import FrozenItems, ItemRepresentation
from models.shared.recommender import TrainingFacts


@dataclass(frozen=True)
class Config(FactorConfig):
    """Options of VBPR, all of which belong to its loss. The width D is that of the item representation."""


class VBPR(BPRMF):
    """BPR-MF on items with content, plus a bias that is a linear function of the frozen vectors."""

    config_class = Config
    takes = ("v", "dnn", "id+v")
    refuses_towers = "its bias is a linear function of frozen vectors"
    paper = "He & McAuley, AAAI 2016, arXiv 1510.01784"

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        if not self._contents():
            raise ValueError(
                "vbpr needs items with frozen vectors; set items.kind to v, dnn or id+v and name a feature file"
            )
        widths = [part.frozen.shape[-1] for part in self._contents()]
        self.content_bias = nn.ParameterList([nn.Parameter(torch.zeros(width)) for width in widths])  # beta

    def _contents(self) -> list[FrozenItems]:
        return [part for part in self.items.parts if isinstance(part, FrozenItems)]

    def item_bias(self, items: Tensor) -> Tensor:
        """Return the biases (m,), b_i + beta' . f_i."""
        bias = super().item_bias(items)
        for part, beta in zip(self._contents(), self.content_bias, strict=True):
            bias = bias + part.content(items) @ beta
        return bias


MODEL = VBPR
