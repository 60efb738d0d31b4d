"""The item catalog: which video, cover and title belong to each item id, and what is missing, known before any work.

Folders are listed once and files matched by stem; an id is never joined into a path, so no id can lead outside.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from features.errors import ConfigError

Modality = Literal["video", "cover", "title"]

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".gif"})
COVER_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True)
class Item:
    """One item: raw id and its sources, None where there is none."""

    id: str
    video: Path | None = None
    cover: Path | None = None
    title: str | None = None

    def source(self, modality: Modality) -> Path | str | None:
        """Return the file or text of a modality; None where there is none or the title is blank."""
        found: Path | str | None = getattr(self, modality)
        return None if isinstance(found, str) and not found.strip() else found

    def stamp(self, modality: Modality) -> str:
        """Return what is known of a source without opening it: 'size:<bytes>', 'blake2b:<hex>' of a title, '' if none.

        A changed stamp means the row is made again.
        """
        source = self.source(modality)
        if source is None:
            return ""
        return f"blake2b:{digest(source.encode())}" if isinstance(source, str) else f"size:{source.stat().st_size}"


@dataclass(frozen=True)
class Catalog:
    """All items of a dataset, in the order of the rows to come."""

    dataset: str
    items: tuple[Item, ...]

    def missing(self, modality: Modality) -> list[str]:
        """Return ids of the items that lack a modality."""
        return [item.id for item in self.items if item.source(modality) is None]


def digest(content: bytes) -> str:
    """Return blake2b-128 as 32 hex characters."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def media_ids(*, videos: Path | None, covers: Path | None) -> list[str]:
    """Return the sorted ids for which a folder holds a video or a cover."""
    return sorted(_by_stem(videos, VIDEO_SUFFIXES).keys() | _by_stem(covers, COVER_SUFFIXES).keys())


def build_catalog(
    dataset: str, ids: Iterable[str], *, videos: Path | None, covers: Path | None, titles: Mapping[str, str]
) -> Catalog:
    """Match ids with the files of two folders and with titles; ConfigError for two files of one id, or no items."""
    video, cover = _by_stem(videos, VIDEO_SUFFIXES), _by_stem(covers, COVER_SUFFIXES)
    items = tuple(Item(item, video.get(item), cover.get(item), titles.get(item)) for item in ids)
    if not items:
        raise ConfigError(f"dataset {dataset!r} has no items: no interactions, titles, videos or covers were found")
    return Catalog(dataset, items)


def _by_stem(folder: Path | None, suffixes: frozenset[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    if folder is None:
        return found
    with os.scandir(folder) as entries:
        paths = sorted(Path(entry.path) for entry in entries if entry.is_file())
    for path in paths:
        if path.suffix.lower() in suffixes:
            if path.stem in found:
                raise ConfigError(f"item {path.stem!r} has two files, {found[path.stem]} and {path}; keep one")
            found[path.stem] = path
    return found
