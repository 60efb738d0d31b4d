"""What can be chosen for an extraction, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch

from extract.media.folder_listing import Ignored
from extract.media.frames import FramePolicy
from extract.media.modality import Modality
from extract.media.sandbox import Limits
from features.errors import ConfigError
from features.precision import CosineError, DiskType, disk_type

Precision = Literal["float32", "bf16", "fp16"]

AUTO = 0  # of batch_size
MOST_SEED = 2**63 - 1  # torch takes no larger one
CPU_BATCH = 16


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract. Weights, seed, dtype, frames, decoder, precision, faults and what is stored make a recipe.

    Batch size, workers, threads, device and `compile` leave the numbers alone but for the last bits of a float32.
    """

    out: Path
    """Folder of the feature file."""
    weights: str = "pretrained"
    """'pretrained', 'random', or a folder or file in the publisher's layout."""
    seed: int = 0
    """Of random weights."""
    dtype: DiskType = "float16"
    """Of the vectors on disk."""
    frames: FramePolicy | None = None
    """The frames of a clip to read; None takes the encoder's own."""
    decoder: str = "auto"
    """'auto', 'decord', 'pyav' or 'torchcodec'."""
    precision: Precision = "float32"
    """Of the encoder's arithmetic; 'bf16' and 'fp16' autocast from float32 weights."""
    compile: bool = False
    """Let torch compile the encoder first; minutes once, then faster steps."""
    batch_size: int = CPU_BATCH
    """B, or AUTO for what fits (batch_size.py); halved by itself where a GPU does not hold it."""
    shard_size: int = 256
    """Items per shard; a kill loses at most one shard's work."""
    workers: int = 2
    """Processes that decode ahead."""
    decode: Limits = field(default_factory=Limits)
    """What opening one file may cost."""
    device: str = "cpu"
    """Where to encode, as torch names it."""
    max_failed: float = 0.05
    """Share of items without a vector, in [0, 1], above which no feature file is written."""
    top_blocks: int | None = None
    """T: store the activations below the last T blocks instead of vectors (extract/encoders/cutting.py)."""
    layers: tuple[int, ...] | Literal["all"] | None = None
    """Block numbers from 1, or 'all': store what these blocks give, pooled, instead of vectors."""
    pixels: bool = False
    """Store the decoded, resized and cropped pixels, uint8, and run no encoder; `dtype`, `weights` and `seed` mean
    nothing then."""
    faults: tuple[str, ...] = ()
    """Names in `extract.encoders.faults.FAULTS`, or 'microlens' for all that concern an encoder."""
    retry_failed: bool = False
    """Make rows again that failed in the finished file."""
    stale_s: float = 300.0
    """Seconds without a sign of life after which a worker of a farm counts as dead."""
    command: str = ""
    """The command line, recorded in the file."""

    def __post_init__(self) -> None:
        """Check once; ConfigError names the option, its value and its limit."""
        for name, least in (("batch_size", AUTO), ("shard_size", 1), ("workers", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it needs to be at least 1")
        if not 0 <= self.seed <= MOST_SEED:
            raise ConfigError(f"seed is {self.seed}; it must be from 0 to 2**63 - 1")
        if not 0 <= self.max_failed <= 1:
            raise ConfigError(f"max_failed is {self.max_failed}; it is a share of all items, from 0 to 1")
        self._check_output()
        disk_type(self.dtype)
        if self.precision not in get_args(Precision):
            raise ConfigError(f"precision is {self.precision!r}; the encoder runs in 'float32', 'bf16' or 'fp16'")
        if self.decode.time_s <= 0 or self.decode.memory_mb < 64:
            raise ConfigError(
                f"opening a file may cost {self.decode.time_s:g} s and {self.decode.memory_mb} MB; "
                "give more than 0 s and at least 64 MB"
            )
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ConfigError(f"device {self.device!r} is unknown; use 'cpu', 'cuda' or 'cuda:0'") from error
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device {self.device!r} is not there: torch sees no GPU; use --device cpu")

    def _check_output(self) -> None:
        given = {"--top-blocks": self.top_blocks is not None, "--layers": self.layers is not None}
        asked = [name for name, there in (given | {"--pixels": self.pixels}).items() if there]
        if len(asked) > 1:
            raise ConfigError(f"{' and '.join(asked)} each say what is stored; give one of them")
        wanted = {f"--precision {self.precision}": self.precision != "float32", "--compile": self.compile}
        wanted |= {f"--faults {','.join(self.faults)}": bool(self.faults)}
        idle = next((name for name, there in wanted.items() if there), None)
        if self.pixels and idle is not None:
            raise ConfigError(f"--pixels runs no encoder, which {idle} is for; leave one out")


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did."""

    path: Path
    """The feature file."""
    encoder: str
    """Name of the encoder."""
    modality: Modality
    """What it reads."""
    fingerprint: str
    """Of the recipe, 64 hex characters."""
    counts: dict[str, int]
    """Rows in the file by state: 'done', 'missing', 'failed'."""
    new_rows: int
    """Rows made by this run."""
    unchanged: bool
    """Nothing was to do."""
    bad: list[tuple[str, str, str]]
    """(item id, 'missing' or 'failed', reason) of every row without a vector."""
    cosine_error: CosineError | None
    """What rounding to the disk's type cost, over the rows that know it."""
    seconds: dict[str, float]
    """Wall clock of this run: waiting for decoding and resizing of its modality ('decode'; shared with other encoders
    of the same pass), in 'encode' and in 'write'."""
    warning: str
    """What a user must be told about the weights, or ''."""
    ignored: Ignored = field(default_factory=Ignored)
    """Files in the folder of this modality that are no item's."""
