"""Covers: 8-bit RGB by the rule of each mode, upright, and refused where the file is damaged."""

from __future__ import annotations

import io
import random
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract
from extract.media.catalog import Catalog
from extract.media.covers.image import decode_image, read_cover
from extract.media.covers.modes import rgb_pixels
from extract.media.lmdb_media import cover_of
from features.errors import MediaError
from tests.support.media import cut, write_cover
from tests.support.toy_media import catalog, media, options

__all__ = ["catalog", "media"]  # fixtures


def encoded(image: Image.Image, form: str, **how: Any) -> bytes:
    """Return a picture file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *, between: bytes = b"") -> bytes:
    """Return a PNG by hand; `rows` begin with their filter's number, 0."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + between
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def photograph(seed: int = 0, size: tuple[int, int] = (200, 160)) -> Image.Image:
    """Return something with the detail of a photograph, (width, height) = size."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse, np.float64) + rng.normal(0, 12, (size[1], size[0], 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".avif"])
def test_covers_are_rgb(tmp_path: Path, suffix: str) -> None:
    got = read_cover(write_cover(tmp_path / f"a{suffix}", kind=2))
    assert got.shape == (80, 60, 3)
    assert got.dtype == np.uint8
    assert got.mean(axis=(0, 1)).argmax() == 2  # kind 2 is blue


# Four pixels of which no two are alike, and what a viewer shows for each value of EXIF's orientation.
A, B, C, D = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SHOWN = {
    1: ((A, B), (C, D)),
    2: ((B, A), (D, C)),  # mirrored left to right
    3: ((D, C), (B, A)),  # half a turn
    4: ((C, D), (A, B)),  # mirrored top to bottom
    5: ((A, C), (B, D)),  # mirrored in the falling diagonal
    6: ((C, A), (D, B)),  # a quarter turn clockwise
    7: ((D, B), (C, A)),  # mirrored in the rising diagonal
    8: ((B, D), (A, C)),  # a quarter turn counterclockwise
    0: ((A, B), (C, D)),  # no orientation: as stored
    9: ((A, B), (C, D)),
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", list(SHOWN))
def test_each_orientation_is_undone(orientation: int, form: str) -> None:
    stored = Image.fromarray(np.array(((A, B), (C, D)), np.uint8))
    exif = stored.getexif()
    exif[0x0112] = orientation
    how = {"lossless": True} if form == "WEBP" else {}
    got = decode_image(encoded(stored, form, exif=exif, **how), "a")
    assert got.tolist() == np.array(SHOWN[orientation]).tolist()


def test_jpegs_follow_their_orientation() -> None:
    stored = Image.fromarray(np.kron(np.array(((A, B), (C, D)), np.uint8), np.ones((16, 24, 1), np.uint8)))
    exif = stored.getexif()
    exif[0x0112] = 6
    got = decode_image(encoded(stored, "JPEG", exif=exif, quality=95, subsampling=0), "a")
    assert got.shape == (48, 32, 3)
    corners = got[[[8, 8], [40, 40]], [[8, 24], [8, 24]]]
    assert np.abs(corners.astype(int) - np.array(SHOWN[6])).max() <= 3


def grey16(*levels: int) -> Image.Image:
    return Image.fromarray(np.array([levels], np.uint16))


def palette(mode: str = "P") -> Image.Image:
    image = Image.new(mode, (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), (1, 255) if mode == "PA" else 1)
    return image


def grey(*levels: int) -> list[list[int]]:
    return [[level] * 3 for level in levels]


TWELVE_BITS = {258: (12,), 262: 1}
LAB = Image.new("LAB", (1, 1), (128, 128, 128))  # L* = 50.2, no colour: sRGB 119
# pixels of one row by hand, and what they are in 8-bit RGB
MODES: dict[str, tuple[Callable[[], bytes], list[list[int]]]] = {
    "1": (lambda: encoded(Image.fromarray(np.array([[False, True]])), "PNG"), grey(0, 255)),
    "L": (lambda: encoded(Image.fromarray(np.array([[7, 200]], np.uint8)), "PNG"), grey(7, 200)),
    "grey of 2 bits": (lambda: png(4, 1, 2, 0, b"\0\x1b"), grey(0, 85, 170, 255)),
    "grey of 4 bits": (lambda: png(2, 1, 4, 0, b"\0\x7f"), grey(7 * 17, 255)),
    "LA, see-through": (lambda: png(2, 1, 8, 4, bytes([0, 7, 0, 200, 255])), grey(7, 200)),
    "RGB": (lambda: encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), [[1, 2, 3]]),
    "RGBA, see-through": (lambda: encoded(Image.new("RGBA", (1, 1), (1, 2, 3, 0)), "PNG"), [[1, 2, 3]]),
    "RGBX": (lambda: encoded(Image.new("RGBX", (1, 1), (1, 2, 3, 9)), "TIFF"), [[1, 2, 3]]),
    "P": (lambda: encoded(palette(), "PNG"), [[10, 20, 30], [40, 50, 60]]),
    "P, one colour see-through": (lambda: encoded(palette(), "PNG", transparency=1), [[10, 20, 30], [40, 50, 60]]),
    "P, an alpha per colour": (lambda: encoded(palette(), "PNG", transparency=b"\0\x80"), [[10, 20, 30], [40, 50, 60]]),
    "P of a GIF": (lambda: encoded(palette(), "GIF", transparency=0), [[10, 20, 30], [40, 50, 60]]),
    # R = (255 - K) (255 - C) / 255
    "CMYK": (lambda: encoded(Image.new("CMYK", (1, 1), (10, 200, 30, 40)), "TIFF"), [[207, 46, 190]]),
    # R = Y + 1.402 (Cr - 128), G = Y - 0.344 (Cb - 128) - 0.714 (Cr - 128), B = Y + 1.772 (Cb - 128)
    "YCbCr": (lambda: encoded(Image.new("YCbCr", (1, 1), (128, 100, 138)), "TIFF"), [[142, 130, 78]]),
    "LAB": (lambda: encoded(LAB, "TIFF"), grey(119)),
    "16-bit grey PNG": (lambda: encoded(grey16(0, 127 * 257, 65535, 300, 128), "PNG"), grey(0, 127, 255, 1, 0)),
    "16-bit grey TIFF": (lambda: encoded(grey16(0, 127 * 257, 65535), "TIFF"), grey(0, 127, 255)),
    "16-bit grey TIFF, 0 is white": (
        lambda: encoded(grey16(0, 127 * 257, 65535), "TIFF", tiffinfo={262: 0}),
        grey(255, 128, 0),
    ),
    "16-bit grey TIFF, high byte first": (
        lambda: encoded(Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 127 * 257, 65535)), "TIFF"),
        grey(127, 255),
    ),
    "16-bit PGM": (lambda: b"P5 2 1 65535\n" + struct.pack(">HH", 127 * 257, 65535), grey(127, 255)),
    "12-bit PGM": (lambda: b"P5 2 1 4095\n" + struct.pack(">HH", 127 * 16 + 8, 4095), grey(127, 255)),
    "16-bit RGB PNG": (lambda: png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 127 * 257, 65535, 514)), [[127, 255, 2]]),
    "16-bit RGBA PNG": (
        lambda: png(1, 1, 16, 6, b"\0" + struct.pack(">4H", 127 * 257, 65535, 514, 0)),
        [[127, 255, 2]],
    ),
    "16-bit grey and alpha PNG": (lambda: png(1, 1, 16, 4, b"\0" + struct.pack(">HH", 127 * 257, 0)), grey(127)),
}


@pytest.mark.parametrize("mode", list(MODES))
def test_every_mode_gives_its_own_colours(mode: str) -> None:
    make, expected = MODES[mode]
    assert decode_image(make(), "a").tolist() == [expected]


IN_MEMORY: dict[str, tuple[Any, list[int]]] = {
    "La": (Image.new("LA", (1, 1), (200, 128)).convert("La"), [200] * 3),
    "RGBa": (Image.new("RGBA", (1, 1), (200, 100, 50, 255)).convert("RGBa"), [200, 100, 50]),
    "PA": (palette("PA").crop((1, 0, 2, 1)), [40, 50, 60]),
    "HSV": (Image.new("HSV", (1, 1), (170, 255, 255)), [0, 0, 255]),
}


@pytest.mark.parametrize("mode", list(IN_MEMORY))
def test_modes_that_no_file_here_has(mode: str) -> None:
    image, expected = IN_MEMORY[mode]
    assert image.mode == mode
    got = rgb_pixels(image, ("", {}), "a")[0, 0]
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_twelve_bits_of_a_tiff_are_white_at_4095() -> None:
    image = Image.fromarray(np.array([[0, 2048, 4095]], np.uint16))
    assert rgb_pixels(image, ("TIFF", dict(TWELVE_BITS)), "a")[0].tolist() == grey(0, 128, 255)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_without_a_white_are_refused(dtype: type) -> None:
    content = encoded(Image.fromarray(np.array([[0, 1, 70000]], dtype)), "TIFF")
    with pytest.raises(MediaError, match=r"^a: its pixels are of mode [IF] .*; save it as 8-bit grey or RGB"):
        decode_image(content, "a")


def test_every_mode_of_pillow_is_decided_on() -> None:
    """A mode that Pillow may come to know is refused until somebody looks at it."""
    for mode in ("I", "F", "BGR;15"):
        try:
            image = Image.new(mode, (1, 1))
        except (ValueError, KeyError):
            continue
        with pytest.raises(MediaError, match="of mode"):
            rgb_pixels(image, ("TIFF", {}), "a")


def test_jpegs_in_cmyk_and_grey() -> None:
    """Pillow, like Adobe's programs, stores CMYK the other way round."""
    ink = encoded(Image.new("CMYK", (16, 16), (10, 200, 30, 40)), "JPEG", quality=100)
    assert np.abs(decode_image(ink, "a").astype(int) - [207, 46, 190]).max() <= 2
    assert np.abs(decode_image(encoded(Image.new("L", (16, 16), 99), "JPEG"), "a").astype(int) - 99).max() <= 1


def test_profiles_are_left_alone() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert decode_image(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG", icc_profile=profile), "a").tolist() == [
        [[9, 8, 7]]
    ]


@pytest.mark.parametrize(("form", "how"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_of_an_animation_the_first_picture(form: str, how: dict[str, Any]) -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    content = encoded(red, form, save_all=True, append_images=[blue], duration=100, **how)
    assert (decode_image(content, "a") == [255, 0, 0]).all()


# ---- damage

JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "progressive, restarts": {"progressive": True, "restart_marker_rows": 1},
    "optimised 4:4:4": {"optimize": True, "subsampling": 0},
}
Damage = Callable[[bytes, random.Random], bytes]


def hole(content: bytes, _: random.Random) -> bytes:
    size = min(3000, len(content) // 3)
    start = len(content) // 2
    return content[:start] + bytes(size) + content[start + size :]


def flipped(content: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(content)
    for place in rng.sample(range(len(content) // 4, len(content) - 2), 30):
        spoilt[place] ^= rng.randrange(1, 256)
    return bytes(spoilt)


def closed(content: bytes, _: random.Random) -> bytes:
    return content[: len(content) * 6 // 10] + b"\xff\xd9"


@pytest.mark.parametrize("damage", [hole, flipped, closed])
@pytest.mark.parametrize("kind", list(JPEGS))
def test_damaged_jpegs_are_refused(kind: str, damage: Damage) -> None:
    for seed in range(5):
        content = encoded(photograph(seed), "JPEG", quality=85, **JPEGS[kind])
        assert decode_image(content, "a").shape == (160, 200, 3)
        with pytest.raises(MediaError, match=r"^a: \S"):
            decode_image(damage(content, random.Random(seed)), "a")


@pytest.mark.parametrize("damage", [hole, flipped])
def test_damaged_webps_are_refused(damage: Damage) -> None:
    for seed in range(5):
        content = encoded(photograph(seed), "WEBP", quality=80)
        assert decode_image(content, "a").shape == (160, 200, 3)
        with pytest.raises(MediaError, match=r"^a: \S"):
            decode_image(damage(content, random.Random(seed)), "a")


@pytest.mark.parametrize("how", [{"lossless": True}, {"save_all": True, "append_images": [photograph(9)]}])
def test_webps_with_a_hole_are_refused(how: dict[str, Any]) -> None:
    content = encoded(photograph(), "WEBP", **how)
    assert decode_image(content, "a").shape == (160, 200, 3)
    start = len(content) // 4  # inside the first frame
    with pytest.raises(MediaError, match="damaged"):
        decode_image(content[:start] + bytes(3000) + content[start + 3000 :], "a")


def test_one_changed_byte_of_a_png_is_refused() -> None:
    content = bytearray(encoded(photograph(), "PNG"))
    content[len(content) // 2] ^= 1
    with pytest.raises(MediaError, match=r"^a: "):
        decode_image(bytes(content), "a")


SOUND: dict[str, Callable[[], bytes]] = {
    **{f"JPEG {kind}": lambda how=how: encoded(photograph(), "JPEG", **how) for kind, how in JPEGS.items()},  # type: ignore[misc]
    **{f"JPEG 4:{n}": lambda n=n: encoded(photograph(), "JPEG", subsampling=n) for n in (0, 1, 2)},  # type: ignore[misc]
    "JPEG CMYK": lambda: encoded(photograph().convert("CMYK"), "JPEG"),
    "JPEG CMYK, progressive": lambda: encoded(photograph().convert("CMYK"), "JPEG", progressive=True),
    "JPEG grey": lambda: encoded(photograph().convert("L"), "JPEG"),
    "JPEG RGB": lambda: encoded(photograph(), "JPEG", keep_rgb=True),
    "JPEG flat, optimised": lambda: encoded(Image.new("L", (2000, 1500), 200), "JPEG", optimize=True),
    "JPEG of odd sides": lambda: encoded(photograph(size=(33, 17)), "JPEG"),
    "JPEG of one pixel": lambda: encoded(Image.new("RGB", (1, 1)), "JPEG"),
    "JPEG with bytes behind it": lambda: encoded(photograph(), "JPEG") + b"more" * 100,
    "JPEG with a thumbnail": lambda: encoded(
        photograph(), "JPEG", exif=b"Exif\0\0" + encoded(photograph(1, (80, 64)), "JPEG")
    ),
    "two JPEGs in one": lambda: encoded(photograph(), "MPO", save_all=True, append_images=[photograph(1)]),
    "WebP flat": lambda: encoded(Image.new("RGB", (2000, 1500), (9, 99, 199)), "WEBP"),
    "WebP flat, lossless": lambda: encoded(Image.new("RGB", (2000, 1500), (9, 99, 199)), "WEBP", lossless=True),
    "WebP lossless": lambda: encoded(photograph(), "WEBP", lossless=True),
    "WebP with alpha": lambda: encoded(photograph().convert("RGBA"), "WEBP", quality=50),
    "WebP of one pixel": lambda: encoded(Image.new("RGB", (1, 1)), "WEBP"),
    "WebP with bytes behind it": lambda: encoded(photograph(), "WEBP") + b"more" * 100,
    "WebP, best effort": lambda: encoded(photograph(), "WEBP", method=6, quality=30, exif=photograph().getexif()),
}


@pytest.mark.parametrize("kind", list(SOUND))
def test_sound_pictures_are_not_called_damaged(kind: str) -> None:
    assert decode_image(SOUND[kind](), "a").size > 0


def test_damage_is_looked_for_in_an_lmdb_too() -> None:
    content = encoded(photograph(), "JPEG")
    assert cover_of(content, "a").shape == (160, 200, 3)
    with pytest.raises(MediaError, match=r"^a: damaged \("):
        cover_of(hole(content, random.Random(0)), "a")


def test_broken_covers_say_why(tmp_path: Path) -> None:
    good = write_cover(tmp_path / "good.jpg", size=(300, 300))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    for path in (
        cut(good, tmp_path / "cut.jpg", 0.5),
        tmp_path / "empty.jpg",
        tmp_path / "text.jpg",
        tmp_path / "x.jpg",
    ):
        with pytest.raises(MediaError, match=rf"^{path.name}: \S") as caught:
            read_cover(path)
        assert str(tmp_path) not in str(caught.value)
        assert "0x" not in str(caught.value)  # an address in memory: the same trouble would read otherwise each time


def test_programs_are_not_started_for_a_cover(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(MediaError, match=r"^a\.jpg: it is not a picture that can be read"):
        read_cover(tmp_path / "a.jpg")


def test_without_simplejpeg_a_run_over_covers_does_not_start(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(ImportError, match="simplejpeg"):
        extract(catalog, ENCODERS["resnet-tiny"], options(tmp_path))
    assert not list(tmp_path.iterdir())
