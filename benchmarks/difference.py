"""How far two trainings of one model are apart, such as 'top' over stored activations and 'e2e' over media."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.items.towers import towers_of
from models.shared.recommender import Recommender


@dataclass(frozen=True)
class Difference:
    """How far 'top' is from 'e2e', as described at the top of benchmarks/exactness.py."""

    vectors: float
    losses: float
    weights: float
    bits: bool
    worst: str
    top_s: float
    e2e_s: float


@dataclass(frozen=True)
class Trained:
    """What is kept of a run: vectors before it, the losses of its steps, its tensors after it."""

    vectors: Tensor
    losses: list[float]
    state: dict[str, Tensor]
    step_s: float


def difference(top: Trained, e2e: Trained) -> Difference:
    """Compare two runs."""
    vectors = float(((top.vectors - e2e.vectors).norm(dim=1) / e2e.vectors.norm(dim=1)).max())
    losses = max(abs(one - two) / abs(two) for one, two in zip(top.losses, e2e.losses, strict=True))
    pairs = list(zip(e2e.state.items(), top.state.values(), strict=True))
    bits = top.losses == e2e.losses and all(torch.equal(one, two) for (_, one), two in pairs)
    worst, name = max((_apart(name, one, two), name) for (name, one), two in pairs)
    return Difference(vectors, losses, worst, bits, name, top.step_s, e2e.step_s)


def _apart(name: str, one: Tensor, two: Tensor) -> float:
    first, second = (_seen(name, tensor.double()) for tensor in (one, two))
    if not first.numel() or torch.equal(first, second):
        return 0.0
    return float((first - second).abs().max() / max(float(first.abs().max()), 1e-30))


def _seen(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor without the biases of attention's keys."""
    if name.endswith("key.bias"):
        return tensor[:0]
    return tensor.view(3, -1)[[0, 2]] if name.endswith(("qkv.bias", "in_proj_bias")) else tensor


def vectors_of(model: Recommender) -> Tensor:
    """Return the encoder's vectors (I, W) as they are now."""
    (tower,) = towers_of(model)
    model.eval()
    with torch.no_grad():
        parts = torch.arange(tower.n_items, device=tower.project.weight.device).split(16)
        found = torch.cat([tower._raw(part) for part in parts])
    model.train()
    return found
