"""Input contracts: how frames, covers and titles become an encoder's batches, and what those batches are.

Letters: B batch, S tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:  # the entries of encoders import this file, and listing them needs no torch
    from torch import Tensor


@dataclass(frozen=True)
class PixelInput:
    """How frames or covers become the encoder's input."""

    size: int
    """Side of the square that the encoder sees, in pixels."""
    resize: int
    """Length of the short side in pixels, after resizing and before the centre crop; unused by 'stretch'."""
    mean: tuple[float, float, float]
    """Mean of each channel, for values in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation of each channel, for values in [0, 1]."""
    mode: Literal["crop", "stretch"] = "crop"
    """How a picture becomes square: 'crop' keeps its shape and cuts out the centre, 'stretch' resizes it."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation for resizing, always antialiased."""


class WrappedInput(PixelInput):
    """Pixels as the benchmark's released code makes them (fault 'wrap' in `extract.encoders.faults`)."""


@dataclass(frozen=True)
class TextInput:
    """How titles become the encoder's input: `prefix` + title, cut to `max_tokens`, special tokens included."""

    max_tokens: int
    prefix: str = ""


class Tokens(NamedTuple):
    """Token ids of a batch of titles: `ids` (B, S) int64, padded; `mask` (B, S) bool, False for padding."""

    ids: Tensor
    mask: Tensor


Batch: TypeAlias = "Tensor | Tokens"


@dataclass(frozen=True)
class Tokenizer:
    """Turns titles into `Tokens`. Its name is part of the recipe: tokenizers of one name give the same tokens."""

    name: str
    tokenise: Callable[[Sequence[str]], Tokens]
