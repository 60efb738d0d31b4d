"""The item catalog: item id -> video, cover, title; what is missing is known before anything is opened."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from extract.lmdb_media import LmdbEntry, is_lmdb, list_entries
from extract.pixel_media import PixelEntry, is_pixel_file, list_pixels
from features.errors import ConfigError, nearest
from features.paths import no_folder

Origin = Path | LmdbEntry | PixelEntry  # where a video or a cover is
Modality = Literal["video", "cover", "title"]
MODALITIES: tuple[Modality, ...] = ("video", "cover", "title")
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".gif"})
COVER_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True)
class Item:
    """One item: its id as the user has it, and where its video, cover and title are (None where there is none)."""

    id: str
    video: Origin | None
    cover: Origin | None
    title: str | None


@dataclass(frozen=True)
class Catalog:
    """The items of a dataset, in the order their rows will have; `partial` where some were left out on purpose."""

    dataset: str
    items: tuple[Item, ...]
    partial: bool = False

    def only(self, ids: Sequence[str]) -> Catalog:
        """Return the catalog of these items alone, in its own order; ConfigError for an unknown id, or for none."""
        known = {item.id for item in self.items}
        unknown = [item for item in ids if item not in known]
        if unknown or not ids:
            what = f"{len(unknown)} of {len(ids)} items to extract are not" if ids else "no item to extract is"
            first = f", first {unknown[0]!r}; {nearest(unknown[0], sorted(known))}" if unknown else "; list some ids"
            raise ConfigError(f"{what} in dataset {self.dataset!r}{first}")
        wanted = set(ids)
        return replace(self, items=tuple(item for item in self.items if item.id in wanted), partial=True)

    def count_missing(self) -> dict[Modality, int]:
        """Return how many items have no video, cover or title; looks at no file."""
        missing = Counter(kind for item in self.items for kind in MODALITIES if source(item, kind) is None)
        return {kind: missing[kind] for kind in MODALITIES}


def source(item: Item, modality: Modality) -> Origin | str | None:
    """Return what a modality of an item is made from: file, stored entry, title or None (so is a blank title)."""
    if modality == "title":
        return item.title if item.title and item.title.strip() else None
    return item.video if modality == "video" else item.cover


def stamp(item: Item, modality: Modality) -> str:
    """Return a cheap mark that changes with the source: 'size:<bytes>' of a file, 'lmdb:<bytes>:<16 hex>' of an LMDB
    entry (a hash of three places in it), 'pixels:<32 hex>' of a row of pixels (what they were decoded from),
    'blake2b:<32 hex>' of a title, '' if missing.

    Of a file only the size is looked at, so that a catalog of a million files takes seconds and a copied one stays the
    same. An edit that keeps the size is not seen.
    """
    origin = source(item, modality)
    if origin is None:
        return ""
    if isinstance(origin, str):
        return f"blake2b:{hashlib.blake2b(origin.encode(errors='surrogatepass'), digest_size=16).hexdigest()}"
    if isinstance(origin, LmdbEntry):
        return f"lmdb:{origin.mark}"
    if isinstance(origin, PixelEntry):
        return f"pixels:{origin.digest}"
    try:
        return f"size:{origin.stat().st_size}"
    except OSError:  # deleted since it was listed: missing, like one that never was
        return ""


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key under which 'a2' comes before 'a10'.

    >>> sorted(["a10", "a2", "1"], key=natural_key)
    ['1', 'a2', 'a10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return (*((0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts),)


def media_ids(*, videos: Path | None, covers: Path | None) -> set[str]:
    """Return the ids for which a folder, LMDB or file of pixels holds a video or a cover; raises as `build_catalog`."""
    return {*_listing(videos, VIDEO_SUFFIXES, "videos"), *_listing(covers, COVER_SUFFIXES, "covers")}


def build_catalog(
    dataset: str,
    ids: Iterable[str] | None,
    *,
    videos: Path | None = None,
    covers: Path | None = None,
    titles: Mapping[str, str] | None = None,
) -> Catalog:
    """Match item ids with the files of two folders and a table of titles.

    Each folder is listed once and files are matched by their stem ('17.mp4' is the video of '17'). An id is never
    made part of a path, so no id can reach outside the folders.

    Args:
        dataset: name the feature files will carry.
        ids: item ids in the order of the rows, or None for all that have a file or a title, in natural order.
        videos: folder of videos named by item id, an LMDB of frames (extract/lmdb_media.py), or a file of their pixels
            (extract/pixel_media.py).
        covers: folder of covers named by item id, an LMDB, or a file of their pixels.
        titles: item id -> title.

    Raises:
        ConfigError: a folder that is none, two files for one id, an id given twice, or no item at all; a feature file
            of something else.
        StoreError: a file of pixels that is damaged or of another dataset.
    """
    titles = titles or {}
    video = _listing(videos, VIDEO_SUFFIXES, "videos", dataset)
    cover = _listing(covers, COVER_SUFFIXES, "covers", dataset)
    wanted = sorted({*video, *cover, *titles}, key=natural_key) if ids is None else list(ids)
    if not wanted:
        raise ConfigError(
            f"dataset {dataset!r} has no items: no ids, titles or files with a known suffix were given "
            f"({', '.join(sorted(VIDEO_SUFFIXES | COVER_SUFFIXES))}); check the folders"
        )
    twice = [item for item, times in Counter(wanted).items() if times > 1]
    if twice:
        raise ConfigError(f"item id {twice[0]!r} is listed {wanted.count(twice[0])} times; list each id once")
    return Catalog(dataset, tuple(Item(item, video.get(item), cover.get(item), titles.get(item)) for item in wanted))


def _listing(folder: Path | None, suffixes: frozenset[str], what: str, dataset: str | None = None) -> dict[str, Origin]:
    """Return item id -> file of a folder, or entry of an LMDB or of a file of pixels."""
    if folder is None:
        return {}
    if is_lmdb(folder):
        return {**list_entries(folder, what)}
    if is_pixel_file(folder):
        return {**list_pixels(folder, what, dataset)}
    if not folder.is_dir():
        raise ConfigError(f"folder of {what} {folder} {no_folder(folder, 'check the path')}")
    found: dict[str, Origin] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in found:
            raise ConfigError(
                f"item {path.stem!r} has two files in {folder}: {found[path.stem].name} and {path.name}; keep one"
            )
        found[path.stem] = path
    return found
