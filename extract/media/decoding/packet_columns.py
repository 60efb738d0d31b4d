"""What is kept of a file's packets while they are listed."""

from __future__ import annotations

from array import array
from typing import NamedTuple


class Columns(NamedTuple):
    """What is kept of all packets: nothing of their contents, which may be many times the memory there is.

    Attributes:
        pts: presentation times; NO_TIME where there is none.
        dts: decoding times, likewise.
        ends: when each frame's time is over, likewise.
        hidden: whether the edit list hides it.
        damaged: whether bytes of it are missing.
        keys: places that decoding may start from.
        clean: every key packet is whole.
        simple: decord paints the first frame as PyAV does (`Painter.is_simple`).
    """

    pts: array[int]
    dts: array[int]
    ends: array[int]
    hidden: bytearray
    damaged: bytearray
    keys: array[int]
    clean: bool
    simple: bool


NO_TIME = -(2**63)  # of a packet that carries none
