"""A synthetic corpus in MicroLens layout: real H.264 clips, JPEG covers, titles and interactions with planted tastes.

Everything in it is made up. Each item belongs to a taste, which shows only in its pixels (hue, stripes, motion) and its
words; ids are random numbers and carry no information. Users mostly follow one taste, and popularity is skewed. Some
items are fresh: they occur only as a user's last interaction, so only content can reach them. A few files are broken.
"""

from __future__ import annotations

import colorsys
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import ConfigError

NAME = "synthetic-demo"
SIZES = ((96, 128), (112, 200), (120, 160), (144, 176), (160, 96))  # H, W: landscape and portrait
RATES = (10, 15, 24, 25, 30)
WORDS = (
    "cat kitten purring whiskers paws nap tail meow",
    "pasta recipe kitchen sauce garlic baking dough oven",
    "goal football match stadium keeper striker league pitch",
    "guitar song melody singer chords concert drums stage",
    "makeup lipstick mirror skincare blush eyeliner palette glow",
    "drift engine racing turbo garage wheels lap circuit",
    "beach waves island sunset palm snorkel travel hotel",
    "boss level quest loot arena gamer speedrun combo",
)
FILLER = [
    "my",
    "new",
    "best",
    "of",
    "the",
    "day",
    "watch",
    "this",
    "look",
    "at",
    "first",
    "time",
    "how",
    "to",
    "part",
    "one",
    "two",
]
START_MS = 1_600_000_000_000
DAY_MS = 86_400_000
MIN_LENGTH, MAX_LENGTH = 5, 20  # interactions per user
MIN_ITEMS = 32


@dataclass(frozen=True)
class CorpusSize:
    """How large a corpus to make."""

    items: int = 320
    """Number of items, each with a clip, a cover and a title."""
    users: int = 900
    """Number of users, each with 5 to 20 interactions."""
    fresh: float = 0.15
    """Share of items that occur only as last interactions."""
    fresh_targets: float = 0.3
    """Share of users whose last interaction is with a fresh item."""


@dataclass(frozen=True)
class Corpus:
    """What was planted in a corpus, for tests and for the demo's explanation."""

    folder: Path
    """The dataset folder."""
    taste: dict[str, int]
    """Item id -> number of its taste."""
    fresh: frozenset[str]
    """Ids of the fresh items."""
    broken: dict[str, str]
    """Item id -> what was broken on purpose."""


def make_corpus(
    folder: Path, *, seed: int, size: CorpusSize | None = None, progress: Callable[[int, int], None] | None = None
) -> Corpus:
    """Render a corpus into `folder`, which is made if needed, and return what was planted in it.

    Raises:
        ConfigError: `size` has fewer items or users than a corpus needs.
    """
    size = size or CorpusSize()
    _check_size(size)
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.arange(1, size.items + 1))
    taste = {str(number): row % len(WORDS) for row, number in enumerate(numbers)}
    ids = list(taste)
    fresh = frozenset(ids[: round(size.items * size.fresh)])
    folder.mkdir(parents=True, exist_ok=True)
    _write_interactions(folder, taste, fresh, size, rng)
    videos, covers = folder / f"{NAME}_videos", folder / f"{NAME}_covers"
    videos.mkdir(exist_ok=True)
    covers.mkdir(exist_ok=True)
    for done, item in enumerate(ids):
        frames = render_clip(taste[item], rng)
        write_clip(videos / f"{item}.mp4", frames, rate=int(rng.choice(RATES)))
        write_cover(covers / f"{item}.jpg", frames[0])
        if progress:
            progress(done + 1, len(ids))
    titles = {item: _title(taste[item], rng) for item in ids}
    broken = _break_some(ids[len(fresh) :], videos, covers, titles)
    with (folder / f"{NAME}_titles.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("item", "title"), *sorted(titles.items(), key=lambda pair: int(pair[0]))])
    return Corpus(folder, taste, fresh, broken)


def _check_size(size: CorpusSize) -> None:
    if size.items < MIN_ITEMS:
        raise ConfigError(
            f"a corpus of {size.items} items is too small: a user has up to {MAX_LENGTH} different ones, and some are "
            f"fresh or broken; ask for at least {MIN_ITEMS}"
        )
    if size.users < 1:
        raise ConfigError(f"a corpus of {size.users} users has nobody to recommend to; ask for at least 1")


def render_clip(taste: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return (T, H, W, 3) uint8 RGB frames: moving stripes in the taste's hue, with jitter and noise."""
    height, width = SIZES[rng.integers(len(SIZES))]
    count = int(rng.integers(12, 40))
    angle = np.pi * taste / len(WORDS) + rng.normal(0, 0.08)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    across = (np.cos(angle) * columns + np.sin(angle) * rows) / (6 + 2 * (taste % 4) + rng.normal(0, 0.4))
    phase = np.arange(count, dtype=np.float32)[:, None, None] * (0.2 + 0.15 * (taste % 3))
    stripes = 0.5 + 0.5 * np.sin(across[None] + phase)
    hue = (taste / len(WORDS) + rng.normal(0, 0.02)) % 1.0
    light = np.array(colorsys.hsv_to_rgb(hue, 0.75, 0.95), dtype=np.float32)
    dark = np.array(colorsys.hsv_to_rgb((hue + 0.08) % 1.0, 0.9, 0.35), dtype=np.float32)
    pixels = dark + stripes[..., None] * (light - dark)
    pixels += rng.normal(0, 0.03, (1, height, width, 1)).astype(np.float32)
    frames: NDArray[np.uint8] = (pixels.clip(0, 1) * 255).astype(np.uint8)
    return frames


def write_clip(path: Path, frames: NDArray[np.uint8], *, rate: int, codec: str = "libx264") -> None:
    """Encode (T, H, W, 3) uint8 RGB frames as an mp4 file; H and W must be even."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "preset": "ultrafast", "g": "12"}
        stream.codec_context.thread_count = 1  # starting threads takes longer than encoding these few small frames
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_cover(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB pixels as a JPEG."""
    from PIL import Image

    Image.fromarray(pixels).save(path, quality=90)


def _title(taste: int, rng: np.random.Generator) -> str:
    own = rng.choice(WORDS[taste].split(), size=rng.integers(3, 6), replace=False)
    words = [*own, *rng.choice(FILLER, size=rng.integers(1, 4))]
    return " ".join(str(word) for word in rng.permutation(words))


def _write_interactions(
    folder: Path, taste: dict[str, int], fresh: frozenset[str], size: CorpusSize, rng: np.random.Generator
) -> None:
    """Write `*_pairs.csv`. Users draw items from their taste with probability 0.85, else from any taste.

    Popularity within a taste falls as 1 / rank^1.6.
    """
    pools = [[i for i in taste if taste[i] == kind and i not in fresh] for kind in range(len(WORDS))]
    fresh_pools = [[i for i in taste if taste[i] == kind and i in fresh] for kind in range(len(WORDS))]
    rows: list[tuple[int, str, int]] = []
    for user in range(1, size.users + 1):
        favourite = int(rng.integers(len(WORDS)))
        length = int(np.clip(rng.geometric(0.25) + MIN_LENGTH - 1, MIN_LENGTH, MAX_LENGTH))
        chosen: list[str] = []
        while len(chosen) < length:
            kind = favourite if rng.random() < 0.85 else int(rng.integers(len(WORDS)))
            rank = int(rng.zipf(1.6)) - 1
            if rank < len(pools[kind]) and pools[kind][rank] not in chosen:
                chosen.append(pools[kind][rank])
        if rng.random() < size.fresh_targets and fresh_pools[favourite]:
            chosen[-1] = str(rng.choice(fresh_pools[favourite]))
        times = START_MS + np.sort(rng.integers(0, 90 * DAY_MS, length))
        rows += [(user, item, int(time)) for item, time in zip(chosen, times, strict=True)]
    with (folder / f"{NAME}_pairs.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("user", "item", "timestamp"), *rows])


def _break_some(ids: list[str], videos: Path, covers: Path, titles: dict[str, str]) -> dict[str, str]:
    """Break a few files in ways that occur in practice; return item id -> what was done."""
    video = [videos / f"{item}.mp4" for item in ids]
    video[0].write_bytes(b"")
    video[1].write_bytes(video[1].read_bytes()[:600])
    video[2].write_text("<html>404 Not Found</html>", encoding="utf-8", newline="")
    video[3].unlink()
    (covers / f"{ids[4]}.jpg").write_bytes(b"\xff\xd8\xff garbage")
    (covers / f"{ids[5]}.jpg").unlink()
    titles[ids[6]] = "   "
    what = (
        "video of zero bytes",
        "video cut off after 600 bytes",
        "web page saved as mp4",
        "no video",
        "cover is garbage",
        "no cover",
        "blank title",
    )
    return dict(zip(ids, what, strict=False))
