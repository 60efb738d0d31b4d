"""Reads covers: any picture that Pillow decodes, as upright (H, W, 3) RGB. Damaged pictures are refused."""

from __future__ import annotations

import io
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.media.covers.damage import refuse_damage
from extract.media.covers.modes import rgb_pixels
from extract.media.decoding.errors import one_line
from features.errors import FreezeframeError, MediaError

COVER_READER = "covers 2"  # part of recipes: add 1 whenever a cover may give other pixels than before
# EPS and WMF are left out because Pillow starts another program, or asks the system, to show them. The other missing
# formats hold no picture that Pillow itself can decode.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "TGA", "ICO", "PCX")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def read_cover(path: Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB, upright by its EXIF tag; MediaError (file name, reason) if it is broken."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path.name}: {one_line(error)}") from error
    return decode_image(content, path.name)


def decode_image(content: bytes, name: str) -> NDArray[np.uint8]:
    """Decode a picture file to (H, W, 3) uint8 RGB, upright by its EXIF tag. If it holds several, take the first.

    Args:
        content: the bytes of a picture file.
        name: the name that messages use.

    Raises:
        MediaError: not a picture of a known kind, a damaged one, or one in a mode whose colours are not defined.
    """
    if not content:
        raise MediaError(f"{name}: the file is empty (0 bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata; only the pixels matter
        try:
            return _decoded(content, name)
        except (FreezeframeError, MemoryError):
            raise
        except Exception as error:  # the errors of Pillow's readers share no base but Exception
            raise MediaError(f"{name}: {one_line(error)}") from error


def _decoded(content: bytes, name: str) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError as error:
        raise MediaError(f"{name}: {_what_else(content)}") from error
    with opened as image:
        image.load()
        refuse_damage(content, image, name)
        return rgb_pixels(ImageOps.exif_transpose(image), _told(image), name)


def _told(image: Any) -> tuple[str, dict[int, Any]]:
    """Return an image's format and its TIFF tags, which are lost when it is turned."""
    return str(image.format), dict(getattr(image, "tag_v2", {}))


@cache
def _formats() -> tuple[str, ...]:
    """Return those of FORMATS that the installed Pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _what_else(content: bytes) -> str:
    if content[4:8] == b"ftyp" and content[8:12] in HEIC_BRANDS:
        return "it is a HEIC picture, which is not supported; convert it to JPEG, PNG or AVIF"
    return "it is not a picture that can be read (JPEG, PNG, WebP, GIF, AVIF, BMP, TIFF), or its beginning is damaged"
