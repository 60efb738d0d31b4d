"""Real media files for tests: H.264 and HEVC clips and covers; numbered frames carry their number in their pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.data.synthetic import write_clip, write_cover

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clips"


def numbered_frames(count: int, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """Return (T, H, W, 3) frames whose grey level is 8 + 4 * (number mod 60), so that a shifted frame is seen."""
    levels = (8 + 4 * (np.arange(count) % 60)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def frame_numbers(frames: NDArray[np.uint8]) -> list[int]:
    """Return the numbers (mod 60) that the pixels of decoded frames carry."""
    levels = frames.reshape(len(frames), -1).mean(axis=1)
    return [round((float(level) - 8) / 4) for level in levels]


def clip(path: Path, count: int = 20, *, rate: int = 10, codec: str = "libx264", seed: int = 0) -> Path:
    """Write a clip of coloured noise blobs that depends on `seed`."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (1, 4, 6, 3), dtype=np.uint8)
    frames = np.kron(small, np.ones((1, 16, 16, 1), dtype=np.uint8)).repeat(count, axis=0)
    write_clip(path, frames, rate=rate, codec=codec)
    return path


def numbered_clip(path: Path, count: int = 30, *, rate: int = 10, codec: str = "libx264") -> Path:
    """Write a clip of numbered frames."""
    write_clip(path, numbered_frames(count), rate=rate, codec=codec)
    return path


def cover(path: Path, *, seed: int = 0) -> Path:
    """Write a JPEG of coloured blobs."""
    rng = np.random.default_rng(seed)
    write_cover(path, np.kron(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), np.ones((20, 20, 1), dtype=np.uint8)))
    return path
