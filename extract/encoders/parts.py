"""A model as steps that run one after the other, so that an encoder can be cut between two of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

Cut: TypeAlias = int | Literal["all"]


@dataclass(frozen=True)
class Parts:
    """A model as steps that run one after the other, each a module from one state to the next.

    A state is a tensor, or a tuple (a list where the library wants one) of tensors and plain constants. The first step
    takes the encoder's batch, the last one gives (B, F).
    """

    steps: tuple[nn.Module, ...]
    """Each block of the encoder inside a step of its own."""
    channels: int = 1
    """The dimension of a map that holds its features."""
    pool: Callable[[Any], Tensor] | None = None
    """(B, F) of the state behind a block, as the encoder pools its last one; None where that fits no other."""
    context: int = 0
    """Tokens that a title model always sees; 0: as many as the longest title of the batch has."""


class Words(NamedTuple):
    """State of a title model: `states` (B, S, F), and `mask` (B, S) bool, True where a token stands."""

    states: Tensor
    mask: Tensor
