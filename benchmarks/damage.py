"""How much damage to covers is found, how many sound covers are refused, and what the check costs.

    python benchmarks/damage.py                      generated pictures
    python benchmarks/damage.py --covers DIR         your own covers: is each of them read?

Each sound picture is written in every format, then damaged in six ways. Damage counts as found when the picture is
refused. A damaged picture whose pixels did not change (the damage hit metadata) counts as sound.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from extract.media.covers.image import decode_image, read_cover
from features.errors import MediaError

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG baseline": ("JPEG", {"quality": 85}),
    "JPEG progressive": ("JPEG", {"quality": 85, "progressive": True}),
    "JPEG baseline, restarts": ("JPEG", {"quality": 85, "restart_marker_rows": 1}),
    "JPEG progressive, restarts": ("JPEG", {"quality": 85, "progressive": True, "restart_marker_rows": 1}),
    "JPEG optimised 4:4:4": ("JPEG", {"quality": 85, "optimize": True, "subsampling": 0}),
    "WebP lossy": ("WEBP", {"quality": 80}),
    "WebP lossless": ("WEBP", {"lossless": True}),
    "PNG": ("PNG", {}),
    "GIF": ("GIF", {}),
    "AVIF": ("AVIF", {"quality": 60}),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "TIFF, JPEG": ("TIFF", {"compression": "jpeg"}),
    "BMP": ("BMP", {}),
}
Damage = Callable[[bytes, random.Random], bytes]
START = 0.25  # share of a file that is left alone: damage to headers is another question


def hole(content: bytes, _: random.Random) -> bytes:
    """Put 3,000 zero bytes, or a third of the file, into the middle."""
    size, start = min(3000, len(content) // 3), len(content) // 2
    return content[:start] + bytes(size) + content[start + size :]


def flips(count: int) -> Damage:
    """Return a damage that changes `count` bytes."""

    def spoil(content: bytes, rng: random.Random) -> bytes:
        spoilt = bytearray(content)
        for place in rng.sample(range(int(START * len(content)), len(content) - 2), count):
            spoilt[place] ^= rng.randrange(1, 256)
        return bytes(spoilt)

    return spoil


def short(content: bytes, rng: random.Random) -> bytes:
    """Cut the end off."""
    return content[: int(len(content) * rng.uniform(0.3, 0.9))]


def closed(content: bytes, rng: random.Random) -> bytes:
    """Cut the end off and close the file as a JPEG ends."""
    return short(content, rng) + b"\xff\xd9"


def swapped(content: bytes, rng: random.Random) -> bytes:
    """Swap two neighbouring blocks of 512 bytes."""
    first = rng.randrange(int(START * len(content)), len(content) - 1026)
    second = first + 512
    return content[:first] + content[second : second + 512] + content[first:second] + content[second + 512 :]


DAMAGES: dict[str, Damage] = {
    "hole": hole,
    "30 bytes": flips(30),
    "1 byte": flips(1),
    "cut": short,
    "cut, FFD9": closed,
    "swapped": swapped,
}


def made(seed: int) -> Image.Image:
    """Return a picture with the detail of a photograph, 480 x 640."""
    rng = np.random.default_rng(seed)
    total = np.zeros((640, 480, 3))
    for size, weight in ((8, 0.5), (32, 0.3), (120, 0.2)):
        coarse = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        total += weight * np.asarray(coarse.resize((480, 640), Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(total + rng.normal(0, 6, total.shape), 0, 255).astype(np.uint8))


def refused(content: bytes) -> bool:
    """Return whether a cover is refused."""
    try:
        decode_image(content, "cover")
    except MediaError:
        return True
    return False


def plainly(content: bytes) -> np.ndarray[Any, Any] | None:
    """Return the pixels that Pillow alone gives; None where it refuses."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception:  # whatever its readers raise
        return None


def seconds(action: Callable[[bytes], Any], files: list[bytes]) -> float:
    """Return the shortest time per file in three rounds."""
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for content in files:
            action(content)
        rounds.append((time.perf_counter() - start) / len(files))
    return min(rounds)


def row(name: str, pictures: list[Image.Image], tries: int) -> str:
    """Return a line of the table."""
    form, how = FORMATS[name]
    files = []
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, form, **how)
        files.append(buffer.getvalue())
    alarms = sum(map(refused, files))
    cells = []
    for spoil in DAMAGES.values():
        found = harmful = 0
        for number in range(tries):
            content = files[number % len(files)]
            spoilt = spoil(content, random.Random(number))
            pixels = plainly(spoilt)
            same = pixels is not None and np.array_equal(pixels, plainly(content))
            harmful += not same
            found += not same and refused(spoilt)
        cells.append(f"{100 * found / harmful:.1f} %" if harmful else "harmless")
    before, after = 1000 * seconds(plainly, files), 1000 * seconds(refused, files)
    return f"| {name} | {' | '.join(cells)} | {alarms} of {len(files)} | {before:.1f} | {after:.1f} |"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what C libraries print about damaged files."""
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--covers", type=Path, help="folder of sound covers: each is read once as it is")
    parser.add_argument("--tries", type=int, default=200, help="damaged files per format and kind of damage")
    arguments = parser.parse_args()
    if arguments.covers:
        paths = sorted(path for path in arguments.covers.rglob("*") if path.is_file())
        bad = []
        for path in paths:
            try:
                read_cover(path)
            except MediaError as error:
                bad.append(str(error))
        print(f"{len(paths)} files, {len(bad)} refused", *bad[:20], sep="\n")
        return
    pictures = [made(seed) for seed in range(20)]
    print(f"| format | {' | '.join(DAMAGES)} | sound ones refused | ms, Pillow alone | ms, with the check |")
    print("| --- " * (len(DAMAGES) + 4) + "|")
    for name in FORMATS:
        with quiet():
            line = row(name, pictures, arguments.tries)
        print(line, flush=True)


if __name__ == "__main__":
    main()
