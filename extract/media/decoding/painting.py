"""Converts PyAV's frames to RGB pictures, upright, on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.media.decoding.orientation import AS_IT_IS, EIGHT, Matrix, nearest_matrix, upright

SIMPLE_PIXELS = ("yuv420p", "yuvj420p")
LARGE_PIXELS = 2**22  # per frame; 1440p has fewer
STAMP = 16  # px


class Painter:
    """Paints the frames of one clip."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter, self._small = VideoReformatter(), VideoReformatter()
        self._matrices: dict[int, Matrix] = {}

    def pixels(self, frame: Any) -> NDArray[np.uint8]:
        """Return a frame as (H, W, 3) uint8 RGB, upright."""
        pixels: Any = _converted(self._reformatter, frame, format="rgb24").to_ndarray()
        return upright(pixels, EIGHT[self.matrix(frame)])

    def matrix(self, frame: Any) -> Matrix:
        """Return how to turn a frame upright, which PyAV leaves to its caller.

        Reading the side data of a frame keeps it from being freed: 12 MB each time in 4K. So they are read from a copy
        the size of a stamp, and only once per rotation, which can be read without them.
        """
        if frame.rotation not in self._matrices:
            stamp = _converted(self._small, frame, format="rgb24", width=STAMP, height=STAMP)
            self._matrices[frame.rotation] = _matrix(stamp)
        return self._matrices[frame.rotation]

    def is_simple(self, frame: Any) -> bool:
        """Return whether decord paints such a frame as PyAV does.

        The two FFmpegs spread colours differently if colours have more than 8 bits, a side has an odd number of pixels,
        or the frame is interlaced. decord also turns mirrored pictures the wrong way, and it keeps too many large
        frames: 4K takes 0.2 GB more.
        """
        return (
            frame.format.name in SIMPLE_PIXELS
            and frame.width % 2 == frame.height % 2 == 0
            and frame.width * frame.height <= LARGE_PIXELS
            and not frame.interlaced_frame
            and self.matrix(frame) == AS_IT_IS
        )


def _matrix(frame: Any) -> Matrix:
    for entry in frame.side_data:
        if entry.type.name == "DISPLAYMATRIX":
            return nearest_matrix(np.frombuffer(bytes(entry), np.int32).tolist())
    return AS_IT_IS


def _converted(reformatter: Any, frame: Any, **wanted: Any) -> Any:
    try:  # without `threads` PyAV starts threads for every frame and keeps them: 17 MB of address space each time
        return reformatter.reformat(frame, threads=1, **wanted)
    except TypeError:  # before version 17 PyAV starts no such threads
        return reformatter.reformat(frame, **wanted)
