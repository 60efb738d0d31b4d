"""Converts each of Pillow's modes to 8-bit RGB by its own rule, or refuses it; docs/extraction.md lists the rules.

Transparency is ignored: the colours beneath it count. Colour profiles (ICC) are not applied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import MediaError

# Pillow converts these to RGB by the rule of the mode; palettes become their colours.
PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}  # colours multiplied by their opacity: divided by it first
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
SIXTEEN_IN_32 = ("PNG", "PPM", "JPEG2000")  # formats whose mode I holds 0 to 65535
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # two TIFF tags, and a value of the second


def rgb_pixels(image: Any, told: tuple[str, dict[int, Any]], name: str) -> NDArray[np.uint8]:
    """Return an image's pixels as (H, W, 3) uint8 RGB.

    Args:
        image: a Pillow image, loaded.
        told: its format, and its tags if it is a TIFF.
        name: the name that messages use.

    Raises:
        MediaError: the mode does not define which value is white.
    """
    form, tags = told
    if image.mode in PREMULTIPLIED:
        image = image.convert(PREMULTIPLIED[image.mode])
    if image.mode in PLAIN:
        return np.array(image.convert("RGB"))
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and form in SIXTEEN_IN_32):
        return np.repeat(_eight_bits(np.asarray(image), tags)[..., None], 3, axis=2)
    raise MediaError(
        f"{name}: its pixels are of mode {image.mode} (such as 32-bit numbers), which does not define white; save it "
        "as 8-bit grey or RGB"
    )


def _eight_bits(levels: NDArray[Any], tags: dict[int, Any]) -> NDArray[np.uint8]:
    """Return 16-bit grey levels as 8-bit ones, rounded: 65535 (4095 if a TIFF holds 12 bits) becomes 255."""
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    most = 2**bits - 1
    values = levels.astype(np.int64)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts only 8-bit levels
        values = most - values
    eight: NDArray[np.uint8] = ((values * 255 + most // 2) // most).astype(np.uint8)
    return eight
