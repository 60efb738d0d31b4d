"""Tells whether decoding can really start from a packet that its container calls a key frame.

Containers use the word loosely. In H.264 a "key frame" may depend on frames before it (open GOPs), or be complete only
some frames later (periodic intra refresh, as in recorded live streams). FFmpeg recognises these by a mark inside and
leaves out what it cannot decode; decord silently gives smeared frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

Start = Literal["clean", "marked", "none"]

H264_IDR, H264_SEI = 5, 6
RECOVERY_POINT = 6  # message type in an SEI unit
HEVC_STARTS = range(16, 22)  # BLA, IDR and CRA


def start_at(packet: Any, codec: str, extradata: bytes | None) -> Start:
    """Return what decoding from a key packet gives.

    Args:
        packet: a PyAV packet that is flagged as a key frame.
        codec: canonical name of its codec.
        extradata: the codec's settings, as MP4 and Matroska hold them.

    Returns:
        'clean': every frame shown from here on. 'marked': the same without incomplete frames, which FFmpeg leaves out.
        'none': this cannot be told, or the flag is wrong.
    """
    content = memoryview(packet)
    if codec == "h264":
        return _h264(content, extradata)
    if codec == "hevc":
        kinds = [content[at] >> 1 & 63 for at, _ in _units(content, _length_bytes(extradata, 21))]
        return "clean" if any(kind in HEVC_STARTS for kind in kinds) else "none"
    if codec == "vp8":
        return "none" if content[0] & 1 else "clean"
    if codec == "vp9":
        return "none" if content[0] >> 2 & 1 and content[0] >> 4 & 3 != 3 else "clean"
    return "clean"


def _h264(content: memoryview, extradata: bytes | None) -> Start:
    marked = False
    for at, end in _units(content, _length_bytes(extradata, 4)):
        kind = content[at] & 31
        if kind == H264_IDR:
            return "clean"
        marked = marked or (kind == H264_SEI and RECOVERY_POINT in _messages(content[at + 1 : end]))
    return "marked" if marked else "none"


def _length_bytes(extradata: bytes | None, place: int) -> int:
    """Return how many bytes hold the length of a unit; 0 if start codes separate the units."""
    if extradata is None or len(extradata) <= place or extradata[0] != 1:
        return 0
    return (extradata[place] & 3) + 1


def _units(content: memoryview, length_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (first byte, end) of each unit in a packet; nothing if units have no lengths."""
    at = 0
    while length_bytes and at + length_bytes < len(content):
        start = at + length_bytes
        at = start + int.from_bytes(content[at:start], "big")
        yield start, min(at, len(content))


def _messages(content: memoryview) -> Iterator[int]:
    """Yield the types of the messages in a unit of supplemental information."""
    at = 0
    while at + 1 < len(content) and content[at] != 128:  # 128 ends the unit
        numbers = []
        for _ in range(2):
            number = 0
            while at < len(content) and content[at] == 255:
                number += 255
                at += 1
            numbers.append(number + (content[at] if at < len(content) else 0))
            at += 1
        yield numbers[0]
        at += numbers[1]
