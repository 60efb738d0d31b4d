"""Which moments of a clip to read: pure functions from a policy and a number of frames to frame numbers.

Letters: T frames, H W pixels.
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
EARLY = 2  # frames that the benchmark's script is off
MAX_FRAMES = 512  # 512 frames of 720p are 1.4 GB in one clip: more is a typing error


@dataclass(frozen=True)
class FramePolicy:
    """Which frames of a clip an encoder sees."""

    kind: Literal["middle", "uniform", "microlens"]
    """'middle' takes `count` frames, `stride` apart, around the middle of the clip (MicroLens, arXiv 2309.15379, takes
    5 neighbouring ones); 'uniform' takes the centres of `count` equal segments (TSN, arXiv 1608.00859); 'microlens'
    takes what the benchmark's released script stores when it asks for 'middle': each frame two places too early,
    because it counts from 1 and once before it looks."""
    count: int
    """T, 1 to 512; odd for 'microlens'."""
    stride: int = 1
    """Distance of neighbouring frames, in frames; 'uniform' has none."""

    def __post_init__(self) -> None:
        """Check once; ConfigError names the value and its limit."""
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
    """The frames of several policies, each read once: one pass over a clip serves many encoders."""

    policies: tuple[FramePolicy, ...]


def frame_indices(policy: FramePolicy | FrameUnion, total: int) -> NDArray[np.int64]:
    """Return the frame numbers a policy picks from a clip, (T,) int64 in [0, total), not decreasing.

    'middle' of 5 gives total // 2 - 2 .. total // 2 + 2. In a clip too short for that the numbers beyond an end are
    replaced by that end: its frame is repeated, T stays. 'uniform' repeats frames too when total < T. A union has
    every number once.

    Raises:
        MediaError: `total` is below 1, or too small for 'microlens', whose script repeats no frame and fails.
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
    """(T, H, W, 3) uint8 RGB in [0, 255], in the order of the policy."""
    total: int
    """Number of frames the clip really has."""
    width: int
    """W in pixels, after rotation."""
    height: int
    """H in pixels, after rotation."""


@dataclass(frozen=True)
class Begin:
    """What comes before a clip's frames.

    Should a decoder find out on the way that it must read another way, it begins again: what came before is void.
    """

    total: int
    """Frames the clip has; 0 for a cover."""
    count: int
    """Frames that follow."""


Clip: TypeAlias = Iterator[Begin | NDArray[np.uint8]]  # frames (H, W, 3) uint8 RGB, upright, each once, ascending


def wanted_frames(policy: FramePolicy | FrameUnion, total: int) -> NDArray[np.int64]:
    """Return the frame numbers a policy picks, each once, ascending."""
    return np.unique(frame_indices(policy, total))


@dataclass(frozen=True)
class Decoder:
    """A video decoder: frame by frame, or all frames at once."""

    name: str
    """As users type it."""
    clip: Callable[[Path, FramePolicy | FrameUnion], Clip]
    """Yields what a policy picks from a file, frame by frame."""

    def stream(self, path: Path, policy: FramePolicy | FrameUnion) -> Clip:
        """Yield the frames a policy picks, each once, in ascending order, all of one size.

        Raises:
            MediaError: (file name, reason, one line) when that is not possible.
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
        """Read the frames a policy picks, a frame as often as it is picked; MediaError as `stream`."""
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
