"""What can be chosen for an extraction, and what it reports.

The options of the verb `extract` are declared here, and nowhere else: the docstring under a field is its help
text. Nothing heavy is imported at the top, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from extract.media.limits import Limits
from features.errors import ConfigError

if TYPE_CHECKING:
    from extract.media.frames import FramePolicy
    from features.precision import DiskType

Precision = Literal["float32", "bf16", "fp16"]

AUTO = 0  # of batch_size
MOST_SEED = 2**63 - 1  # torch takes no larger one
CPU_BATCH = 16


def parse_batch_size(text: str) -> int:
    """Read a number above 0, or 'auto' as AUTO; ConfigError for anything else."""
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise ConfigError(f"--batch-size is {text!r}, neither a number above 0 nor auto")
    return AUTO if text == "auto" else int(text)


def parse_layers(text: str) -> tuple[int, ...] | Literal["all"]:
    """Read 'all' or block numbers such as '3,6,12'; ConfigError for anything else."""
    from extract.encoders.pooled_layers import parse_layers

    return parse_layers(text)


def parse_frames(text: str) -> FramePolicy:
    """Read a frame policy such as 'uniform:16'; ConfigError for anything else."""
    from extract.media.frames import parse_frame_policy

    return parse_frame_policy(text)


def parse_names(text: str) -> tuple[str, ...]:
    """Read names that commas separate."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract. Weights, seed, dtype, frames, decoder, precision, faults and what is stored make a recipe.

    Batch size, workers, threads, device and `compile` leave the numbers alone but for the last bits of a float32.
    """

    out: Path
    """Folder for the feature files."""
    weights: str = "pretrained"
    """Where weights come from: pretrained, random, or a local folder or file in the publisher's layout."""
    seed: int = 0
    """Seed for random weights."""
    faults: tuple[str, ...] = field(default=(), metadata={"parse": parse_names, "metavar": "NAMES"})
    """Single faults of the microlens recipe, comma-separated (docs/microlens-recipe.md)."""
    frames: FramePolicy | None = field(default=None, metadata={"parse": parse_frames})
    """Which frames of a clip to read: middle:5, middle:16x4, uniform:16 and so on; without it the encoder's own."""
    top_blocks: int | None = field(default=None, metadata={"metavar": "T"})
    """Store the activations below the last T blocks, tokens x width per item, instead of vectors."""
    layers: tuple[int, ...] | Literal["all"] | None = field(
        default=None, metadata={"parse": parse_layers, "metavar": "NUMBERS"}
    )
    """Store what these blocks give, each pooled, instead of vectors: all, or numbers from 1 such as 3,6,12."""
    pixels: bool = False
    """Store the frames and covers that these encoders see, resized and cropped, as uint8, for items.kind e2e; no
    encoder runs."""
    decoder: str = "auto"
    """Video decoder: auto, decord, pyav or torchcodec."""
    decode: Limits = field(default_factory=Limits)
    """What opening one file may cost."""
    precision: Precision = "float32"
    """Arithmetic of the encoder: float32, bf16 or fp16; the last two autocast from float32 weights."""
    compile: bool = False
    """Compile the encoder first: this takes minutes once, then every batch is faster."""
    dtype: str = "auto"
    """Type on disk: float16, float32 or int8; auto takes float16 for vectors and float32 for --top-blocks. Pixels are
    uint8."""
    batch_size: int = field(default=CPU_BATCH, metadata={"parse": parse_batch_size, "metavar": "N|auto"})
    """Clips, covers or titles per forward pass; auto takes what the GPU's memory holds (16 without one)."""
    shard_size: int = 256
    """Rows per shard, the most that a crash can cost."""
    workers: int = 2
    """Processes that decode ahead."""
    device: str = field(default="cpu", metadata={"command_default": "auto"})
    """Where to encode: cpu, cuda, cuda:1 and so on; auto takes a GPU where there is one."""
    max_failed: float = 0.05
    """Share of items without a vector, from 0 to 1, above which no feature file is written."""
    retry_failed: bool = False
    """Try rows again that failed in earlier runs."""
    stale_s: float = field(default=300.0, metadata={"hidden": True})
    """Seconds without a sign of life after which a worker of a farm counts as dead."""
    command: str = field(default="", metadata={"hidden": True})
    """Command line, as the feature file records it."""

    def __post_init__(self) -> None:
        """Settle the device and check the rest once; ConfigError names the option, its value and its limit."""
        import torch

        from features.precision import disk_type

        for name, least in (("batch_size", AUTO), ("shard_size", 1), ("workers", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it needs to be at least 1")
        if not 0 <= self.seed <= MOST_SEED:
            raise ConfigError(f"seed is {self.seed}; it must be from 0 to 2**63 - 1")
        if not 0 <= self.max_failed <= 1:
            raise ConfigError(f"max_failed is {self.max_failed}; it is a share of all items, from 0 to 1")
        self._check_output()
        disk_type(self.disk_dtype)
        if self.precision not in get_args(Precision):
            raise ConfigError(f"precision is {self.precision!r}; the encoder runs in 'float32', 'bf16' or 'fp16'")
        if self.decode.time_s <= 0 or self.decode.memory_mb < 64:
            raise ConfigError(
                f"opening a file may cost {self.decode.time_s:g} s and {self.decode.memory_mb} MB; "
                "give more than 0 s and at least 64 MB"
            )
        if self.device == "auto":
            object.__setattr__(self, "device", "cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ConfigError(f"device {self.device!r} is unknown; use 'cpu', 'cuda' or 'cuda:0'") from error

    def refuse_absent_device(self) -> None:
        """Raise ConfigError where the device is not on this machine; a Slurm script is written on others."""
        import torch

        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device {self.device!r} is not there: torch sees no GPU; use --device cpu")
        if torch.device(self.device).type == "mps" and not torch.backends.mps.is_available():
            raise ConfigError(f"device {self.device!r} is not there: torch sees no Apple GPU; use --device cpu")

    @property
    def disk_dtype(self) -> DiskType:
        """Return the type on disk of vectors, layers and activations.

        Activations are trained on as if they were computed: they are not rounded unless somebody says so.
        """
        auto: DiskType = "float16" if self.top_blocks is None else "float32"
        return auto if self.dtype == "auto" or self.pixels else cast("DiskType", self.dtype)

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
