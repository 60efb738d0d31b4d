"""What an encoder takes: how frames, covers and titles become its batches.

Letters: B batch, S tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor


@dataclass(frozen=True)
class PixelInput:
    """How frames or covers become the encoder's input."""

    size: int
    """Side of the square the encoder sees, in pixels."""
    resize: int
    """Length of the short side after resizing, before the centre crop; unused by 'stretch'."""
    mean: tuple[float, float, float]
    """Per channel, of values in [0, 1]."""
    std: tuple[float, float, float]
    """Per channel, of values in [0, 1]."""
    mode: Literal["crop", "stretch"] = "crop"
    """'crop' keeps the shape and cuts the centre out; 'stretch' resizes to the square."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Always antialiased."""


class WrappedInput(PixelInput):
    """Pixels as the benchmark's released code makes them (see extract.encoders.faults, 'wrap')."""


@dataclass(frozen=True)
class TextInput:
    """How titles become the encoder's input: `prefix` + title, cut to `max_tokens` with its special tokens."""

    max_tokens: int
    prefix: str = ""


class Tokens(NamedTuple):
    """Token ids of a batch of titles: `ids` (B, S) int64, padded; `mask` (B, S) bool, True where a token stands."""

    ids: Tensor
    mask: Tensor


Batch: TypeAlias = Tensor | Tokens


@dataclass(frozen=True)
class Tokenizer:
    """Turns titles into `Tokens`. `name` fixes the numbers: it is part of the recipe."""

    name: str
    tokenise: Callable[[Sequence[str]], Tokens]
