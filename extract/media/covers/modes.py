"""Pillow's modes as 8-bit RGB: each by a rule of its own, or refused; docs/extraction.md lists them.

Transparency is left out: the colours that stand beneath it count. Colour profiles (ICC) are not applied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import MediaError

# Pillow converts these to RGB by the rule of the mode; palettes give their colours.
PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}  # colours times their opacity: divided by it first
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
SIXTEEN_IN_32 = ("PNG", "PPM", "JPEG2000")  # formats whose mode I holds 0 to 65535
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value


def rgb_pixels(image: Any, told: tuple[str, dict[int, Any]], name: str) -> NDArray[np.uint8]:
    """Return an image's pixels as (H, W, 3) uint8 RGB.

    Args:
        image: as Pillow opens it, loaded.
        told: its format, and its tags where it is a TIFF.
        name: how the message calls it.

    Raises:
        MediaError: a mode of numbers of which nobody says which one is white.
    """
    form, tags = told
    if image.mode in PREMULTIPLIED:
        image = image.convert(PREMULTIPLIED[image.mode])
    if image.mode in PLAIN:
        return np.array(image.convert("RGB"))
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and form in SIXTEEN_IN_32):
        return np.repeat(_eight_bits(np.asarray(image), tags)[..., None], 3, axis=2)
    raise MediaError(
        f"{name}: its pixels are of mode {image.mode} (32-bit numbers, or another kind of which it is not known which "
        "value is white); save it as 8-bit grey or RGB"
    )


def _eight_bits(levels: NDArray[Any], tags: dict[int, Any]) -> NDArray[np.uint8]:
    """Return 16-bit grey levels as 8-bit ones: 65535 (4095 where a TIFF holds 12 bits) becomes 255, rounded."""
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    most = 2**bits - 1
    values = levels.astype(np.int64)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow turns round 8-bit levels alone
        values = most - values
    eight: NDArray[np.uint8] = ((values * 255 + most // 2) // most).astype(np.uint8)
    return eight
