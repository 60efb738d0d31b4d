"""Which moments of a video to read: pure functions of the number of frames."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.errors import ConfigError, MediaError


@dataclass(frozen=True)
class FramePolicy:
    """A rule that picks `count` frames.

    Attributes:
        kind: 'middle' = consecutive frames, `stride` apart, around the middle (MicroLens: 5 at stride 1);
            'uniform' = the centres of `count` equal segments of the whole video.
        count: T, at least 1.
        stride: frames from one to the next; 'middle' only.
    """

    kind: Literal["middle", "uniform"]
    count: int
    stride: int = 1

    def __post_init__(self) -> None:
        """Refuse policies that pick nothing."""
        if self.count < 1 or self.stride < 1 or (self.kind == "uniform" and self.stride != 1):
            raise ConfigError(f"frame policy {self} cannot be: count and stride start at 1, uniform has no stride")

    def __str__(self) -> str:
        """Return the text that `parse_frame_policy` reads."""
        return f"{self.kind}:{self.count}{f'x{self.stride}' if self.stride > 1 else ''}"


def parse_frame_policy(text: str) -> FramePolicy:
    """Read 'middle:5', 'middle:16x4' (16 frames, every 4th) or 'uniform:32'; ConfigError on anything else."""
    match = re.fullmatch(r"(middle|uniform):(\d{1,4})(?:x(\d{1,4}))?", text.strip())
    if not match:
        raise ConfigError(f"frame policy {text!r} is not understood; write middle:5, middle:16x4 or uniform:32")
    kind: Literal["middle", "uniform"] = "middle" if match[1] == "middle" else "uniform"
    return FramePolicy(kind, int(match[2]), int(match[3] or 1))


def frame_indices(policy: FramePolicy, total: int) -> NDArray[np.int64]:
    """Return (T,) ascending frame numbers in [0, total).

    A video shorter than the policy asks for repeats its first and last frames ('middle') or some of all ('uniform'),
    so that T never depends on the video.

    Raises:
        MediaError: total is 0.
    """
    if total < 1:
        raise MediaError("video has no frames")
    steps = np.arange(policy.count, dtype=np.int64)
    if policy.kind == "uniform":
        return (2 * steps + 1) * total // (2 * policy.count)
    wanted = total // 2 + (steps - policy.count // 2) * policy.stride
    return np.clip(wanted, 0, total - 1)
