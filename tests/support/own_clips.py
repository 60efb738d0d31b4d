"""Sixty short clips with titles, and what viewers watched of them: the folder that a newcomer brings."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from tests.support.media import pictures, write_clip

CLIPS, VIEWERS = 60, 30
WORDS = ("cat", "football", "rice", "drawing", "night drive", "dance")


def own_clips(folder: Path) -> Path:
    """Write `videos/`, `items.csv` and `interactions.csv`; viewers prefer clips of one word."""
    (folder / "videos").mkdir(parents=True)
    names = [f"clip-{number:02}" for number in range(CLIPS)]
    for number, name in enumerate(names):
        write_clip(folder / "videos" / f"{name}.mp4", pictures(12, kind=number))
    titles = [(name, f"{WORDS[number % len(WORDS)]} number {number}") for number, name in enumerate(names)]
    _write(folder / "items.csv", [("item", "title"), *titles])
    rng, rows = np.random.default_rng(0), []
    for viewer in range(VIEWERS):
        liked = np.where(np.arange(CLIPS) % len(WORDS) == viewer % len(WORDS), 8.0, 1.0)
        seen = rng.choice(CLIPS, size=rng.integers(6, 15), replace=False, p=liked / liked.sum())
        rows += [(f"viewer-{viewer}", names[item], 1700000000 + 60 * time) for time, item in enumerate(seen)]
    _write(folder / "interactions.csv", [("user", "item", "timestamp"), *rows])
    return folder


def _write(path: Path, rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)
