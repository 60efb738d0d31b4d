"""The eight orientations that a picture may have: one table for the matrices of video containers and for EXIF tags.

A display matrix ((a, b), (c, d)) shows the pixel at column x and row y at column a x + c y and row b x + d y, counted
from whichever corner then comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = tuple[int, int, int, int]
AS_IT_IS: Matrix = (1, 0, 0, 1)


class Orientation(NamedTuple):
    """How to turn a picture upright: first swap rows and columns if `transpose`, then reverse rows, columns or both."""

    transpose: bool
    reverse_rows: bool
    reverse_columns: bool
    exif: int


EIGHT: dict[Matrix, Orientation] = {
    AS_IT_IS: Orientation(False, False, False, exif=1),
    (-1, 0, 0, 1): Orientation(False, False, True, exif=2),
    (-1, 0, 0, -1): Orientation(False, True, True, exif=3),
    (1, 0, 0, -1): Orientation(False, True, False, exif=4),
    (0, 1, 1, 0): Orientation(True, False, False, exif=5),
    (0, 1, -1, 0): Orientation(True, False, True, exif=6),
    (0, -1, -1, 0): Orientation(True, True, True, exif=7),
    (0, -1, 1, 0): Orientation(True, True, False, exif=8),
}
BY_EXIF: dict[int, Orientation] = {orientation.exif: orientation for orientation in EIGHT.values()}


def nearest_matrix(display: Sequence[int]) -> Matrix:
    """Return which of the eight orientations a display matrix means, whatever it scales by.

    Args:
        display: nine numbers, row by row. The first two of the first two rows turn and mirror.

    Returns:
        The nearest of the eight if it turns by another angle; `AS_IT_IS` if it is none, for example all zeros.
    """
    a, b, c, d = (int(display[place]) for place in (0, 1, 3, 4))
    straight = abs(a) + abs(d) >= abs(b) + abs(c)
    found = (_sign(a), 0, 0, _sign(d)) if straight else (0, _sign(b), _sign(c), 0)
    return found if found in EIGHT else AS_IT_IS


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def upright(pixels: NDArray[np.uint8], orientation: Orientation) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) turned upright: (H, W, 3) or (W, H, 3), a view of the same memory."""
    if orientation.transpose:
        pixels = pixels.swapaxes(0, 1)
    if orientation.reverse_rows:
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation.reverse_columns else pixels
