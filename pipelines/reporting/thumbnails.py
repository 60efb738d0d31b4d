"""Small pictures of items, as data that stands in the page: covers, or a frame from the middle of a video."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from extract.media.catalog import Catalog, Item, source
from extract.media.limits import Limits
from extract.media.pixel_media import PixelEntry, read_pixels
from extract.media.sandbox import read_media
from features.errors import FreezeframeError
from features.installation import install_extra
from pipelines.progress import progress

SIDE = 112  # pixels, the longer side
QUALITY = 60  # of WebP, 0 to 100
READERS = 2
LIMITS = Limits(time_s=20.0)
FRAME = "middle:1"


@dataclass
class Pictures:
    """The pictures that could be made."""

    made: dict[str, str] = field(default_factory=dict)
    """Item id -> address of its picture, 'data:image/webp;base64,...'."""
    without: int = 0
    """How many items have neither cover nor video."""
    unreadable: list[str] = field(default_factory=list)
    """Why a picture could not be read, one line per item."""


def pictures(catalog: Catalog, items: Sequence[str]) -> Pictures:
    """Return small pictures of some items, each opened in a worker process under limits.

    Raises:
        ImportError: Pillow is not installed.
    """
    import PIL.Image  # noqa: F401 (before any file is opened)

    known = {item.id: item for item in catalog.items}
    found = Pictures()
    with ThreadPoolExecutor(READERS) as pool, progress("make thumbnails", unit="pictures") as advance:
        made = pool.map(_picture, [known.get(item) for item in items])
        for number, (item, (address, why)) in enumerate(zip(items, made, strict=True), 1):
            if address:
                found.made[item] = address
            elif why:
                found.unreadable.append(why)
            else:
                found.without += 1
            advance(number, len(items), len(found.unreadable))
    return found


def without_pillow() -> str:
    """Return the line about pictures where Pillow is not installed."""
    return f"pictures: they need Pillow; {install_extra('extract')}"


def _picture(item: Item | None) -> tuple[str, str]:
    """Return the address of an item's picture, and why there is none: '' where it has neither cover nor video."""
    whys = []
    for modality in ("cover", "video"):
        origin = None if item is None else source(item, modality)
        if origin is None or isinstance(origin, str):
            continue
        try:
            if isinstance(origin, PixelEntry):
                pixels = read_pixels(origin)
            else:
                pixels = read_media(origin, LIMITS, policies=(FRAME,) if modality == "video" else ()).pixels
            return _address(_one(np.asarray(pixels))), ""
        except (FreezeframeError, OSError) as error:
            whys.append(str(error))
    return "", "; ".join(whys)


def _one(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return one frame (H, W, 3): pixels themselves, or the middle one of (T, H, W, 3)."""
    return pixels[len(pixels) // 2] if pixels.ndim == 4 else pixels


def _address(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((SIDE, SIDE))
    written = io.BytesIO()
    image.save(written, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"
