"""Which frames of a clip to read: pure functions from a policy and a clip's frame count to frame numbers.

The interface that all video decoders share is here, too. Letters: T frames, H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from features.errors import ConfigError, MediaError

KINDS = ("middle", "uniform", "microlens")
EARLY = 2  # the benchmark's script reads this many frames too early
MAX_FRAMES = 512  # 512 frames of 720p are 1.4 GB for one clip; a larger number is a typing error


@dataclass(frozen=True)
class FramePolicy:
    """Which frames of a clip an encoder sees."""

    kind: Literal["middle", "uniform", "microlens"]
    """How frames are chosen.

    - 'middle': `count` frames, `stride` apart, around the middle of the clip. MicroLens (arXiv 2309.15379) takes 5
      neighbouring ones.
    - 'uniform': the centres of `count` equal segments (TSN, arXiv 1608.00859).
    - 'microlens': what the benchmark's released script stores when it asks for 'middle'. Each frame is two places too
      early, because the script counts from 1 and adds 1 before it compares.
    """
    count: int
    """Number of frames T, 1 to 512; odd for 'microlens'."""
    stride: int = 1
    """Distance between neighbouring frames, in frames; always 1 for 'uniform'."""

    def __post_init__(self) -> None:
        """Check the fields; ConfigError names the value and its limit."""
        if self.kind not in KINDS:
            raise ConfigError(f"frame policy {self.kind!r} is unknown; use 'middle:5', 'middle:16x4' or 'uniform:32'")
        if not 1 <= self.count <= MAX_FRAMES:
            raise ConfigError(f"frame policy '{self}' asks for {self.count} frames; use 1 to {MAX_FRAMES}")
        if self.kind == "microlens" and self.count % 2 == 0:
            raise ConfigError(f"frame policy '{self}' asks for {self.count} frames; 'microlens' takes an odd number")
        if self.stride < 1 or (self.kind == "uniform" and self.stride != 1):
            raise ConfigError(
                f"frame policy '{self}' has stride {self.stride}; 'middle' takes 1 or more, 'uniform' none"
            )

    def __str__(self) -> str:
        """Return the text that `parse_frame_policy` reads."""
        return f"{self.kind}:{self.count}" + (f"x{self.stride}" if self.stride != 1 else "")


def parse_frame_policy(text: str) -> FramePolicy:
    """Read 'middle:5', 'middle:16x4' (16 frames, 4 apart) or 'uniform:32'; ConfigError on anything else."""
    match = re.fullmatch(r"(middle|uniform|microlens):(\d{1,9})(?:x(\d{1,9}))?", text.strip())
    if match is None:
        raise ConfigError(
            f"frame policy {text!r} is not understood; "
            "use 'middle:5', 'middle:16x4' (16 frames, 4 apart) or 'uniform:32'"
        )
    kind, count, stride = match.groups()
    return FramePolicy(cast(Literal["middle", "uniform", "microlens"], kind), int(count), int(stride or 1))


@dataclass(frozen=True)
class FrameUnion:
    """The frames that any of several policies picks, each read once: one pass over a clip serves many encoders."""

    policies: tuple[FramePolicy, ...]


def frame_indices(policy: FramePolicy | FrameUnion, total: int) -> NDArray[np.int64]:
    """Return the frame numbers a policy picks from a clip, (T,) int64 in [0, total), not decreasing.

    'middle:5' gives total // 2 - 2 to total // 2 + 2. If a clip is too short for that, numbers beyond an end are
    replaced by that end: its frame is repeated and T stays. 'uniform' also repeats frames if total < T. A union has
    every number once.

    Raises:
        MediaError: `total` is below 1, or too small for 'microlens', whose script fails instead of repeating frames.
    """
    if total < 1:
        raise MediaError(f"the clip has {total} frames; it needs at least 1: replace the file")
    if isinstance(policy, FrameUnion):
        return np.unique(np.concatenate([frame_indices(part, total) for part in policy.policies]))
    steps = np.arange(policy.count, dtype=np.int64)
    if policy.kind == "uniform":
        return (2 * steps + 1) * total // (2 * policy.count)
    if policy.kind == "microlens":
        found = total // 2 + (steps - policy.count // 2) * policy.stride - EARLY
        if found[0] < 0:
            least = 2 * (policy.count // 2 * policy.stride + EARLY)
            raise MediaError(f"the clip has {total} frames; the benchmark's script needs {least}: use --recipe clean")
        return found
    return np.clip(total // 2 + (steps - policy.count // 2) * policy.stride, 0, total - 1)


@dataclass(frozen=True)
class Frames:
    """Frames of one clip, upright."""

    frames: NDArray[np.uint8]
    """Pixels (T, H, W, 3), uint8 RGB in [0, 255], in the order of the policy."""
    total: int
    """Number of frames in the whole clip."""
    width: int
    """Width W in pixels, after rotation."""
    height: int
    """Height H in pixels, after rotation."""


@dataclass(frozen=True)
class Begin:
    """Comes before a clip's frames.

    A decoder that has to change its way of reading starts again with another `Begin`: all frames before it are void.
    """

    total: int
    """Number of frames in the clip; 0 for a cover."""
    count: int
    """Number of frames that follow."""


Clip: TypeAlias = Iterator[Begin | NDArray[np.uint8]]  # frames (H, W, 3) uint8 RGB, upright, each once, ascending


def wanted_frames(policy: FramePolicy | FrameUnion, total: int) -> NDArray[np.int64]:
    """Return the frame numbers a policy picks, each once, in ascending order."""
    return np.unique(frame_indices(policy, total))


@dataclass(frozen=True)
class Decoder:
    """A video decoder. `stream` gives frames one by one; calling it gives all of them at once."""

    name: str
    """Name as users type it."""
    clip: Callable[[Path, FramePolicy | FrameUnion], Clip]
    """Function that yields the frames a policy picks from a file, one by one."""

    def stream(self, path: Path, policy: FramePolicy | FrameUnion) -> Clip:
        """Yield the frames a policy picks, each once, in ascending order, all of one size.

        Raises:
            MediaError: the frames cannot be read; one line with the file name and the reason.
        """
        shape: tuple[int, ...] | None = None
        for part in self.clip(path, policy):
            if isinstance(part, Begin):
                shape = None
            else:
                shape = shape or part.shape
                _check_shape(path.name, part.shape, shape)
            yield part

    def __call__(self, path: Path, policy: FramePolicy | FrameUnion) -> Frames:
        """Read the frames a policy picks, each as often as it is picked; MediaError as in `stream`."""
        frames: list[NDArray[np.uint8]] = []
        total = 0
        for part in self.stream(path, policy):
            if isinstance(part, Begin):
                frames, total = [], part.total
            else:
                frames.append(part)
        places = np.unique(frame_indices(policy, total), return_inverse=True)[1]
        pixels = np.stack(frames)[places]
        return Frames(pixels, total, width=pixels.shape[2], height=pixels.shape[1])


def _check_shape(name: str, shape: tuple[int, ...], first: tuple[int, ...]) -> None:
    if len(shape) != 3 or shape[-1] != 3 or 0 in shape:
        raise MediaError(f"{name}: the decoder gave a frame of shape {shape}, not (H, W, 3)")
    if shape != first:
        sizes = f"{first[1]}x{first[0]} to {shape[1]}x{shape[0]}"
        raise MediaError(f"{name}: its frames change from {sizes} pixels; convert it to one size")
