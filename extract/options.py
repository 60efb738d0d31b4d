"""What can be chosen for an extraction, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from extract.frames import FramePolicy
from features.errors import ConfigError


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract. Only weights, seed, dtype, frames and decoder change the numbers; they are in the recipe.

    Attributes:
        out: folder of the feature file.
        weights: 'pretrained', 'random', or a folder or file in the publisher's layout.
        seed: of random weights.
        dtype: of the vectors on disk.
        frames: the frames of a clip to read; None takes the encoder's own.
        decoder: 'auto', 'decord' or 'pyav'.
        batch_size: B, at least 1.
        shard_size: items per shard; a kill loses at most one shard's work.
        workers: threads that decode ahead.
        device: where to encode, as torch names it.
        max_failed: share of items without a vector, in [0, 1], above which no feature file is written.
        retry_failed: make rows again that failed in the finished file.
        command: the command line, recorded in the file.
    """

    out: Path
    weights: str = "pretrained"
    seed: int = 0
    dtype: Literal["float16", "float32"] = "float16"
    frames: FramePolicy | None = None
    decoder: str = "auto"
    batch_size: int = 16
    shard_size: int = 256
    workers: int = 2
    device: str = "cpu"
    max_failed: float = 0.05
    retry_failed: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        """Check once; ConfigError names the option, its value and its limit."""
        for name in ("batch_size", "shard_size", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it needs to be at least 1")
        if not 0 <= self.max_failed <= 1:
            raise ConfigError(f"max_failed is {self.max_failed}; it is a share of all items, from 0 to 1")
        if self.dtype not in ("float16", "float32"):
            raise ConfigError(f"dtype is {self.dtype!r}; features are stored as 'float16' or 'float32'")
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ConfigError(f"device {self.device!r} is unknown; use 'cpu', 'cuda' or 'cuda:0'") from error
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device {self.device!r} is not there: torch sees no GPU; use --device cpu")


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did.

    Attributes:
        path: the feature file.
        encoder: name of the encoder.
        fingerprint: of the recipe, 64 hex characters.
        counts: rows in the file by state: 'done', 'missing', 'failed'.
        new_rows: rows made by this run.
        unchanged: nothing was to do.
        bad: (item id, 'missing' or 'failed', reason) of every row without a vector.
        seconds: time spent waiting for the decoders ('decode'), in 'encode' (preprocessing included) and in 'write'.
        warning: what a user must be told about the weights, or ''.
    """

    path: Path
    encoder: str
    fingerprint: str
    counts: dict[str, int]
    new_rows: int
    unchanged: bool
    bad: list[tuple[str, str, str]]
    seconds: dict[str, float]
    warning: str
