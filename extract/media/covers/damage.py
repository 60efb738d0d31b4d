"""Damage that decoders pass over: libjpeg only warns and fills with grey, libwebp decodes what follows as noise.

A damaged picture of a vector that looks like any other is worse than no vector. What can be found, and what cannot, is
in docs/extraction.md; benchmarks/damage.py measures it.

- JPEG: a second reading by libjpeg at an eighth of the size, in which its warnings count (simplejpeg).
- WebP: its data are coded without gaps, so a decoder that needs no end of them has lost its way. The picture is decoded
  again without its last bytes, and that must fail.
- PNG has checksums, which Pillow looks at; the others have nothing but what Pillow finds.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import Any

from features.errors import MediaError

CORRUPT = re.compile(r"corrupt|premature|inconsistent progression", re.IGNORECASE)  # libjpeg has harmless warnings, too
CUT_BYTES = 4  # with 2, some sound WebP files still decode: encoders fill up the last bytes
ADVICE = "fetch it again, or save it anew if it looks right"


def check_damage_reader() -> None:
    """Raise ImportError where simplejpeg is not installed: before a run, not once per cover."""
    import simplejpeg  # noqa: F401


def refuse_damage(content: bytes, image: Any, name: str) -> None:
    """Raise MediaError where the bytes of an opened and loaded image show damage that its decoder passed over."""
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
        return  # as it must be
    raise MediaError(f"{name}: damaged (its picture ends before its data do); {ADVICE}")


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, data) of a WebP file's chunks; of an animation those of its frames, too."""
    place = 12
    while place + 8 <= len(content):
        kind, size = struct.unpack("<4sI", content[place : place + 8])
        place += 8
        if kind == b"ANMF":
            place += 16  # its header; chunks of its own follow
            continue
        yield kind, content[place : place + size]
        place += size + size % 2


def _webp(kind: bytes, data: bytes) -> bytes:
    """Return a file of one chunk."""
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body
