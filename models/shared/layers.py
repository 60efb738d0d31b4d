"""Layers that several recommenders share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm1d):
    """torch's own, except that a single training row, which has no deviation, uses the running statistics."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return the normalised rows (n, D)."""
        if self.training and len(rows) < 2:
            gain, offset = self.as_affine()
            return rows * gain + offset
        return super().forward(rows)

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """Return gain and offset, (D,) each: at inference the layer is `rows * gain + offset`."""
        assert self.running_mean is not None
        assert self.running_var is not None
        gain = self.weight * torch.rsqrt(self.running_var + self.eps)
        return gain, self.bias - self.running_mean * gain


def relu_layers(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Return Linear-ReLU-Dropout from each width to the next; for one width an empty module, which changes nothing."""
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        linear = nn.Linear(inner, outer)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
