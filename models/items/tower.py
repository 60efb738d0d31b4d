"""An encoder that trains, and what it reads; small parts of `models.items.towers`.

Letters: n items asked for, W width of an encoder's vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BUCKET = 16  # lengths that count as alike, and are padded to the same
TOGETHER = 32  # items that are encoded together at least, of whatever lengths


class Source(Protocol):
    """Where an encoder's inputs come from: a file of activations, or decoded media."""

    def read(self, items: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return inputs (n, ...) of items (n,) int64, each at most once and ascending, on the device of `items`.

        In the precision in which they are stored: they become float32 at the encoder's door, whole numbers (pixels,
        token ids) stay. What is returned is not written to again. Encoders that take several tensors get them as a
        tuple.
        """


@runtime_checkable
class LooksAhead(Protocol):
    """A source that may read inputs before they are asked for."""

    def expect(self, items: Tensor) -> None:
        """Take the items (n,) int64, on the CPU, that are likely to be read next; a hint, which changes no number."""


@dataclass(frozen=True)
class Tower:
    """An encoder, or its top, and what it reads.

    Attributes:
        source: of its inputs.
        module: inputs (n, ...) -> (n, W) float32; on the CPU when built.
        trained: the modules inside `module` that train; everything else of it is frozen.
        blocks: modules inside `module`, called one after another, that `checkpointing` goes by.
        lengths: of the inputs of items (n,) int64, (n,) int64 from 1 on, where `source` gives items together as long
            an input as the longest of them needs; None where all inputs are alike.
    """

    source: Source
    module: nn.Module
    trained: tuple[nn.Module, ...]
    blocks: tuple[nn.Module, ...] = ()
    lengths: Callable[[Tensor], Tensor] | None = None


@dataclass
class Meter:
    """What a trained encoder has done since it was last asked.

    Attributes:
        with_graph: items encoded for training, each as often as it was: again for the backward pass of `micro_batch`.
        without_graph: items encoded to be looked at only.
        read_s: seconds of reading inputs.
        forward_s: seconds of the forward passes; on a GPU, of starting them.
    """

    with_graph: int = 0
    without_graph: int = 0
    read_s: float = 0.0
    forward_s: float = 0.0


def by_length(lengths: Tensor, most: int) -> list[Tensor]:
    """Return the places 0..n-1 in groups of like lengths, the longest first; each ascending and of at most `most`.

    What has too few of its own length is filled up with shorter ones: small groups cost more than padding.

    Args:
        lengths: (n,) int64.
        most: members of a group, at least 1.
    """
    classes, order = torch.sort(-(-lengths // BUCKET), descending=True, stable=True)
    ends = torch.searchsorted(-classes, -classes, right=True).tolist()  # of the class of each place
    groups, start = [], 0
    while start < len(order):
        end = min(max(ends[start], start + TOGETHER), start + most, len(order))
        groups.append(order[start:end].sort().values)
        start = end
    return groups


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Return the BatchNorm layers inside a module."""
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def recompute(block: nn.Module) -> None:
    """Let a block keep only its inputs for the backward pass; what is inside is made again there."""
    block.forward = partial(_rerun, block.forward)


def _rerun(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
