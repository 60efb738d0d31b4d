"""Recommenders of pairs whose parameters are far from their start, and their numbers as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.shared.layers import BatchNorm
from models.shared.recommender import TrainBatch, UserBatch
from tests.support.checkerboard import LENGTH, build

Array = NDArray[np.float64]


def scrambled(name: str, items: str = "id", **options: Any) -> Any:
    """Return a model whose parameters and statistics are far from their start, on histories of 6."""
    if name != "dssm":
        options = {"max_length": LENGTH} | options
    model = build(name, items, **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
        for layer in model.modules():
            if isinstance(layer, BatchNorm):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.normal_(generator=generator)
                layer.running_var.uniform_(0.5, 2, generator=generator)
    return model


def numbers(tensor: Tensor | None) -> Array:
    assert tensor is not None
    return tensor.detach().double().numpy()


def users_with(histories: list[list[int]]) -> UserBatch:
    items, mask = torch.zeros(len(histories), LENGTH, dtype=torch.int64), torch.zeros(len(histories), LENGTH).bool()
    for row, history in enumerate(histories):
        items[row, LENGTH - len(history) :] = torch.tensor(history)
        mask[row, LENGTH - len(history) :] = True
    return UserBatch(torch.arange(len(histories)), items, mask)


def windows(rows: list[list[int]]) -> TrainBatch:
    users = users_with(rows)
    return TrainBatch(torch.tensor([4, 9, 2][: len(rows)]), users.items, users.mask)
