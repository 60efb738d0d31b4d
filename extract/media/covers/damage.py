"""Finds damage that decoders pass over: libjpeg only warns and fills in grey, libwebp decodes the rest as noise.

A damaged picture would give a vector that looks like any other, which is worse than no vector. docs/extraction.md says
what can be found and what cannot; benchmarks/damage.py measures it.

- JPEG: libjpeg reads it a second time at an eighth of the size, and its warnings count as errors (simplejpeg).
- WebP: the data are coded without gaps, so a decoder that does not need their end has lost its way. The picture is
  decoded again without its last bytes, and that must fail.
- PNG has checksums, which Pillow checks. For the other formats there is only what Pillow finds.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import Any

from features.errors import MediaError

CORRUPT = re.compile(r"corrupt|premature|inconsistent progression", re.IGNORECASE)  # libjpeg also has harmless warnings
CUT_BYTES = 4  # with 2, some intact WebP files still decode, because encoders pad the last bytes
ADVICE = "fetch it again, or save it anew if it looks right"


def check_damage_reader() -> None:
    """Raise ImportError if simplejpeg is not installed: before a run, not once per cover."""
    import simplejpeg  # noqa: F401


def refuse_damage(content: bytes, image: Any, name: str) -> None:
    """Raise MediaError if the bytes of an opened and loaded image show damage that its decoder passed over."""
    if image.format in ("JPEG", "MPO"):
        _refuse_jpeg(content, image.mode, name)
    elif image.format == "WEBP":
        _refuse_webp(content, name)


def _refuse_jpeg(content: bytes, mode: str, name: str) -> None:
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(
            content,
            colorspace="CMYK" if mode == "CMYK" else "gray",
            min_height=1,
            min_width=1,
            min_factor=1,
            strict=True,
        )
    except ValueError as error:
        if CORRUPT.search(str(error)):
            reason = str(error).removeprefix("Corrupt JPEG data: ")
            raise MediaError(f"{name}: damaged ({reason}); {ADVICE}") from error


def _refuse_webp(content: bytes, name: str) -> None:
    from PIL import Image

    found = next((chunk for chunk in _webp_chunks(content) if chunk[0] in (b"VP8 ", b"VP8L")), None)
    if found is None or len(found[1]) <= CUT_BYTES:
        return
    try:
        with Image.open(io.BytesIO(_webp(found[0], found[1][:-CUT_BYTES])), formats=["WEBP"]) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):
        return  # an intact picture must fail without its end
    raise MediaError(f"{name}: damaged (the picture ends before its data); {ADVICE}")


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, data) of a WebP file's chunks, including those inside the frames of an animation."""
    place = 12
    while place + 8 <= len(content):
        kind, size = struct.unpack("<4sI", content[place : place + 8])
        place += 8
        if kind == b"ANMF":
            place += 16  # the frame's header; its own chunks follow
            continue
        yield kind, content[place : place + size]
        place += size + size % 2


def _webp(kind: bytes, data: bytes) -> bytes:
    """Return a WebP file with one chunk."""
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body
