"""Odd covers, from a file in a folder to the pixels an encoder gets or the reason of its row: one table, by values.

Each goes the whole way: the folder is listed, the file opened in a worker process. `test_covers.py` has the
modes, orientations and kinds of damage one by one.
"""

from __future__ import annotations

import os
import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from extract.jobs.reading import Request, read
from extract.media.catalog import build_catalog
from extract.media.limits import Limits
from extract.media.sandbox import read_media
from features.store import State
from tests.extract.media.test_covers import closed, encoded, flipped, grey16, hole, palette, photograph, png
from tests.support.toy_media import options

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ROW = Image.fromarray(np.array([[RED, GREEN, BLUE]], np.uint8))
PLAIN = np.asarray(ROW).tolist()
BLACK = Image.new("RGB", (3, 1))
INK = (10, 200, 30, 40)
LOSSLESS = {"lossless": True, "exact": True}


@dataclass(frozen=True)
class Odd:
    """A cover: the name of its file, its bytes, and what comes of them."""

    name: str
    content: Callable[[], bytes]
    pixels: Any = None  # (H, W, 3)
    within: int = 0
    state: State = State.DONE
    reason: str = ""


def turned(orientation: int, form: str = "PNG") -> bytes:
    exif = ROW.getexif()
    exif[0x0112] = orientation
    return encoded(ROW, form, exif=exif)


def failed(name: str, content: Callable[[], bytes], reason: str) -> Odd:
    return Odd(name, content, state=State.FAILED, reason=reason)


def spoilt(damage: Callable[[bytes, random.Random], bytes], form: str, **how: Any) -> Callable[[], bytes]:
    return lambda: damage(encoded(photograph(), form, **how), random.Random(0))


CASES = [
    # names
    Odd("suffix in capitals.PNG", lambda: encoded(ROW, "PNG"), PLAIN),
    Odd("a.b.c.png", lambda: encoded(ROW, "PNG"), PLAIN),
    Odd("a picture of another kind.jpg", lambda: encoded(ROW, "PNG"), PLAIN),
    Odd("-rf.png", lambda: encoded(ROW, "PNG"), PLAIN),
    Odd("cafe\u0301.png", lambda: encoded(ROW, "PNG"), PLAIN),
    Odd("\U0001f600 \u732b.png", lambda: encoded(ROW, "PNG"), PLAIN),
    Odd("new\nline.png", lambda: encoded(ROW, "PNG"), PLAIN),
    # containers
    Odd("one.gif", lambda: encoded(ROW, "GIF"), PLAIN),
    Odd("one.bmp", lambda: encoded(ROW, "BMP"), PLAIN),
    Odd("one.tif", lambda: encoded(ROW, "TIFF"), PLAIN),
    Odd("one.tiff", lambda: encoded(ROW, "TIFF", compression="tiff_lzw"), PLAIN),
    Odd("one.webp", lambda: encoded(ROW, "WEBP", **LOSSLESS), PLAIN),
    Odd("one.jfif", lambda: encoded(Image.new("RGB", (9, 9), (10, 200, 30)), "JPEG"), [[[10, 200, 30]] * 9] * 9, 3),
    Odd("one.avif", lambda: encoded(Image.new("RGB", (9, 9), (10, 200, 30)), "AVIF"), [[[10, 200, 30]] * 9] * 9, 4),
    Odd("moving.gif", lambda: encoded(ROW, "GIF", save_all=True, append_images=[BLACK]), PLAIN),
    Odd("moving.webp", lambda: encoded(ROW, "WEBP", save_all=True, append_images=[BLACK], **LOSSLESS), PLAIN),
    Odd("moving.png", lambda: encoded(ROW, "PNG", save_all=True, append_images=[BLACK]), PLAIN),
    Odd("pages.tif", lambda: encoded(ROW, "TIFF", save_all=True, append_images=[BLACK]), PLAIN),
    # modes
    Odd("grey16.png", lambda: encoded(grey16(0, 127 * 257, 65535), "PNG"), [[[v] * 3 for v in (0, 127, 255)]]),
    Odd("grey16.tif", lambda: encoded(grey16(0, 127 * 257, 65535), "TIFF"), [[[v] * 3 for v in (0, 127, 255)]]),
    Odd("rgb16.png", lambda: png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 32639, 65535, 0)), [[[127, 255, 0]]]),
    Odd("black and white.png", lambda: encoded(Image.new("1", (2, 1), 1), "PNG"), [[WHITE, WHITE]]),
    Odd("palette.png", lambda: encoded(palette(), "PNG", transparency=0), [[[10, 20, 30], [40, 50, 60]]]),
    Odd("see-through.png", lambda: encoded(Image.new("RGBA", (1, 1), (9, 8, 7, 0)), "PNG"), [[[9, 8, 7]]]),
    Odd(
        "see-through.webp", lambda: encoded(Image.new("RGBA", (1, 1), (9, 8, 7, 0)), "WEBP", **LOSSLESS), [[[9, 8, 7]]]
    ),
    Odd("ink.jpg", lambda: encoded(Image.new("CMYK", (8, 8), INK), "JPEG"), [[[207, 46, 190]] * 8] * 8, 3),
    Odd("ink.tif", lambda: encoded(Image.new("CMYK", (1, 1), INK), "TIFF"), [[[207, 46, 190]]]),
    Odd("lab.tif", lambda: encoded(Image.new("LAB", (1, 1), (128, 128, 128)), "TIFF"), [[[119] * 3]]),
    failed("whole numbers.tif", lambda: encoded(Image.new("I", (1, 1), 70000), "TIFF"), "mode I .*save it as 8-bit"),
    failed("floats.tif", lambda: encoded(Image.new("F", (1, 1), 0.5), "TIFF"), "mode F .*save it as 8-bit"),
    # orientations of one row
    Odd("turned2.png", lambda: turned(2), [[BLUE, GREEN, RED]]),
    Odd("turned6.png", lambda: turned(6), [[RED], [GREEN], [BLUE]]),
    Odd("turned8.tif", lambda: turned(8, "TIFF"), [[BLUE], [GREEN], [RED]]),
    Odd("turned99.png", lambda: turned(99), PLAIN),
    Odd("bad exif.png", lambda: encoded(ROW, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), PLAIN),
    # sizes
    Odd("one pixel.png", lambda: encoded(Image.new("RGB", (1, 1), RED), "PNG"), [[RED]]),
    Odd("one pixel.jpg", lambda: encoded(Image.new("L", (1, 1), 200), "JPEG"), [[[200] * 3]], 2),
    failed("no pixel.png", lambda: png(0, 5, 8, 2, b""), "not a picture that can be read"),
    failed("bomb.png", lambda: png(60000, 60000, 8, 2, b"\0"), "decompression bomb"),
    # no pictures
    failed("empty.png", lambda: b"", r"the file is empty \(0 bytes\)"),
    failed("page.jpg", lambda: b"<html>404</html>" * 9, "not a picture that can be read"),
    failed("telephone.jpg", lambda: b"\0\0\0\x18ftypheic" + bytes(99), "a HEIC picture.*convert it to JPEG"),
    failed(
        "script.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture that can be read"
    ),
    # damage
    failed("cut.jpg", spoilt(lambda content, _: content[:2000], "JPEG"), "truncated"),
    failed("cut and closed.jpg", spoilt(closed, "JPEG"), r"damaged \(.*fetch it again"),
    failed("hole.jpg", spoilt(hole, "JPEG"), r"damaged \(.*fetch it again"),
    failed("hole progressive.jpg", spoilt(hole, "JPEG", progressive=True), r"damaged \(.*fetch it again"),
    failed("flipped.jpg", spoilt(flipped, "JPEG"), r"\S"),
    failed("hole.webp", spoilt(hole, "WEBP"), r"\S"),
    failed("hole lossless.webp", spoilt(hole, "WEBP", lossless=True), r"\S"),
    failed("flipped.png", spoilt(flipped, "PNG"), r"\S"),
    failed("cut.gif", spoilt(lambda content, _: content[:9000], "GIF"), "truncated"),
]


@pytest.mark.parametrize("odd", CASES, ids=lambda odd: odd.name.encode("ascii", "backslashreplace").decode())
def test_odd_covers(tmp_path: Path, odd: Odd) -> None:
    covers = tmp_path / "covers"
    covers.mkdir()
    (covers / odd.name).write_bytes(odd.content())
    (item,) = build_catalog("odd", None, covers=covers).items
    found = read(Request(item, "cover"), options(tmp_path))
    assert found.state == odd.state, found.reason
    if odd.state == State.DONE:
        assert isinstance(item.cover, Path)
        got = read_media(item.cover, Limits()).pixels
        assert got.shape == np.shape(odd.pixels)
        assert np.abs(got.astype(int) - np.array(odd.pixels)).max() <= odd.within
        assert len(found.digest) == 32
    else:
        assert re.search(odd.reason, found.reason), found.reason
        assert "\n" not in found.reason
        assert str(tmp_path) not in found.reason


def test_an_undecodable_name_is_a_missing_row(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded(ROW, "PNG"))
    (item,) = build_catalog("odd", None, covers=tmp_path).items
    found = read(Request(item, "cover"), options(tmp_path))
    assert (item.id, found.state) == (r"caf\xe9", State.MISSING)
    assert found.reason == r"the file name caf\xe9.png is not UTF-8; rename it to the item's id"
