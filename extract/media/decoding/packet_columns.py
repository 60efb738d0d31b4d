"""The columns that are kept while a file's packets are listed."""

from __future__ import annotations

from array import array
from typing import NamedTuple


class Columns(NamedTuple):
    """Facts about every packet of a file. Contents are not kept: they may be many times larger than the memory."""

    pts: array[int]
    """Presentation time of each packet; NO_TIME if it has none."""
    dts: array[int]
    """Decoding time of each packet; NO_TIME if it has none."""
    ends: array[int]
    """Time at which each packet's frame is over; NO_TIME if the packet has no presentation time."""
    hidden: bytearray
    """Whether the edit list hides each packet."""
    damaged: bytearray
    """Whether bytes of each packet are missing."""
    keys: array[int]
    """Places of the packets from which decoding may start."""
    clean: bool
    """Whether every key packet is a clean start (`start_at`)."""
    simple: bool
    """Whether decord paints the first frame as PyAV does (`Painter.is_simple`)."""


NO_TIME = -(2**63)  # stands for the time of a packet that carries none
