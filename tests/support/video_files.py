"""Video files that encoders do not write: display matrices, edit lists and data references of MP4, changed by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"dinf")


def with_matrix(source: Path, target: Path, matrix: Sequence[float]) -> Path:
    """Copy an MP4 with the display matrix (a, b, c, d) in its first track."""
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 4
    at += 4 + (32 if content[at] == 1 else 20) + 16  # version and flags; times, id and duration; layer to volume
    a, b, c, d = (round(number * 65536) for number in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(content)
    return target


def with_edit_of(source: Path, target: Path, seconds: float) -> Path:
    """Copy an MP4 whose edit list then ends after some seconds."""
    content = bytearray(source.read_bytes())
    header = content.index(b"mvhd")
    scale = struct.unpack_from(">I", content, header + 16)[0]
    at = content.index(b"elst")
    assert content[at + 4] == 0
    assert struct.unpack_from(">I", content, at + 8)[0] == 1
    struct.pack_into(">I", content, at + 12, round(seconds * scale))
    target.write_bytes(content)
    return target


def with_data_elsewhere(source: Path, target: Path, elsewhere: Path) -> Path:
    """Copy an MP4 (its index behind the data) whose pictures then are in another file, as QuickTime can say it."""
    name = str(elsewhere).encode()
    alias = bytes(10) + bytes([4]) + b"disk".ljust(27, b"\0") + bytes(12)
    alias += bytes([len(elsewhere.name)]) + elsewhere.name.encode().ljust(63, b"\0") + bytes(16)
    alias += struct.pack(">HH", 1, 1) + bytes(16)
    alias += struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2) + struct.pack(">HH", 0xFFFF, 0) + bytes(40)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    content = bytearray(source.read_bytes())
    at = content.index(b"url \0\0\0\1") - 4
    content[at : at + 12] = entry
    for parent in (*PARENTS, b"dref"):
        place = content.rindex(parent, 0, at) - 4
        size = struct.unpack_from(">I", content, place)[0]
        struct.pack_into(">I", content, place, size + len(entry) - 12)
    target.write_bytes(content)
    return target


def every_frame(path: Path) -> NDArray[np.uint8]:
    """Return every frame by plain decoding from the start, not turned: (T, H, W, 3)."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


Turn = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

# What an eye does to a picture that lies in one of the eight ways: display matrix (a, b, c, d), EXIF number, turning.
LYING: dict[str, tuple[tuple[int, int, int, int], int, Turn]] = {
    "as it is": ((1, 0, 0, 1), 1, lambda picture: picture),
    "mirrored": ((-1, 0, 0, 1), 2, np.fliplr),
    "upside down": ((-1, 0, 0, -1), 3, lambda picture: np.rot90(picture, 2)),
    "mirrored, upside down": ((1, 0, 0, -1), 4, np.flipud),
    "mirrored, to the right": ((0, 1, 1, 0), 5, lambda picture: np.fliplr(np.rot90(picture, -1))),
    "to the left": ((0, 1, -1, 0), 6, lambda picture: np.rot90(picture, -1)),
    "mirrored, to the left": ((0, -1, -1, 0), 7, lambda picture: np.fliplr(np.rot90(picture, 1))),
    "to the right": ((0, -1, 1, 0), 8, lambda picture: np.rot90(picture, 1)),
}
