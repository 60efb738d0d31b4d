"""What is kept of a file's packets while they are listed."""

from __future__ import annotations

from array import array
from typing import NamedTuple


class Columns(NamedTuple):
    """What is kept of all packets: nothing of their contents, which may be many times the memory there is."""

    pts: array[int]
    """Presentation times; NO_TIME where there is none."""
    dts: array[int]
    """Decoding times, likewise."""
    ends: array[int]
    """When each frame's time is over, likewise."""
    hidden: bytearray
    """Whether the edit list hides it."""
    damaged: bytearray
    """Whether bytes of it are missing."""
    keys: array[int]
    """Places that decoding may start from."""
    clean: bool
    """Every key packet is whole."""
    simple: bool
    """Decord paints the first frame as PyAV does (`Painter.is_simple`)."""


NO_TIME = -(2**63)  # of a packet that carries none
