"""A model as steps that run one after the other, so that an encoder can be cut between two of them (cutting.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

Cut: TypeAlias = int | Literal["all"]  # how many of the last blocks are on the trained side of the cut


@dataclass(frozen=True)
class Parts:
    """A model as steps that run one after the other. Each is a module that maps one state to the next.

    A state is a tensor, or a tuple (a list where the library wants one) of tensors and plain constants. The first step
    takes the encoder's batch, the last one gives (B, F).
    """

    steps: tuple[nn.Module, ...]
    """Steps in forward order; each block of the encoder is inside a step of its own."""
    channels: int = 1
    """Dimension of a map that holds its features."""
    pool: Callable[[Any], Tensor] | None = None
    """Function that pools the state after a block to (B, F), as the encoder pools its last one; None if that pooling
    fits no other block."""
    context: int = 0
    """Number of tokens that a title model always sees; 0 stands for the length of the longest title in the batch."""


class Words(NamedTuple):
    """State of a title model: `states` (B, S, F), and `mask` (B, S) bool, False for padding."""

    states: Tensor
    mask: Tensor
