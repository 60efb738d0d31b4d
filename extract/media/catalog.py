"""The item catalog: item id -> video, cover, title; what is missing is known before anything is opened."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path

from extract.media.file_marks import file_digest, file_mark
from extract.media.folder_listing import COVER_SUFFIXES, VIDEO_SUFFIXES, Ignored, Unusable, list_folder
from extract.media.lmdb_media import LmdbEntry, is_lmdb, list_entries
from extract.media.modality import MODALITIES, Modality
from extract.media.pixel_media import PixelEntry, is_pixel_file, list_pixels
from features.errors import ConfigError, nearest

Origin = Path | LmdbEntry | PixelEntry  # where a video or a cover is


@dataclass(frozen=True)
class Item:
    """One item: its id as the user has it, and where its video, cover and title are.

    None where there is none; `Unusable` where a file has its name and cannot be read.
    """

    id: str
    video: Origin | Unusable | None
    cover: Origin | Unusable | None
    title: str | None


@dataclass(frozen=True)
class Catalog:
    """The items of a dataset, in the order their rows will have."""

    dataset: str
    """Name the feature files carry."""
    items: tuple[Item, ...]
    """One per row."""
    partial: bool = False
    """Some items were left out on purpose."""
    ignored: Mapping[Modality, Ignored] = field(default_factory=dict)
    """By modality, files in the folders that are no item's."""

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
    origin = item.video if modality == "video" else item.cover
    return None if isinstance(origin, Unusable) else origin


def why_missing(item: Item, modality: Modality) -> str:
    """Return why there is no source of this modality: none at all, or a file that cannot be one."""
    origin = item.video if modality == "video" else item.cover
    return origin.reason if modality != "title" and isinstance(origin, Unusable) else f"no {modality}"


def stamp(item: Item, modality: Modality) -> str:
    """Return a cheap mark that changes with the source: 'size:<bytes>:<ns of its last change>' of a file,
    'lmdb:<bytes>:<16 hex>' of an LMDB entry (a hash of three places in it), 'pixels:<32 hex>' of a row of pixels (what
    they were decoded from), 'blake2b:<32 hex>' of a title, '' if missing.

    A file is not opened. One that was replaced by another of its size and date is not seen.
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
    return file_mark(origin)


def digest(item: Item, modality: Modality) -> str:
    """Return the hash of a file's bytes as its row has it, read now; '' of what has no file, or where it is gone."""
    origin = source(item, modality)
    return file_digest(origin) if isinstance(origin, Path) else ""


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key under which 'a2' comes before 'a10'.

    >>> sorted(["a10", "a2", "1"], key=natural_key)
    ['1', 'a2', 'a10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return (*((0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts),)


def media_ids(*, videos: Path | None, covers: Path | None, known: AbstractSet[str] = frozenset()) -> set[str]:
    """Return the ids for which a folder, LMDB or file of pixels holds a video or a cover; raises as `build_catalog`.

    An id that is `known`, or that both hold, in another Unicode form is the known one, or the composed one.
    """
    return _one_form({*_listing(videos, "videos")[0], *_listing(covers, "covers")[0]}, known)


def _one_form(found: set[str], known: AbstractSet[str]) -> set[str]:
    """Return ids without those that only differ in Unicode's form from another, or from a known one, which stays."""
    other = {item for item in found - known if not item.isascii()}
    if not other:
        return found
    forms = {_form(item): item for item in known if not item.isascii()}
    return (found - other) | {forms.get(_form(item), _form(item)) for item in other}


def _form(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), in which macOS's 'e' + accent is one letter."""
    return unicodedata.normalize("NFC", text)


def build_catalog(
    dataset: str,
    ids: Iterable[str] | None,
    *,
    videos: Path | None = None,
    covers: Path | None = None,
    titles: Mapping[str, str] | None = None,
) -> Catalog:
    """Match item ids with the files of two folders and a table of titles.

    Each folder is listed once and files are matched by their stem ('17.mp4' is the video of '17'), as it is or else in
    Unicode's composed form. An id is never made part of a path, so no id can reach outside the folders.

    Args:
        dataset: name the feature files will carry.
        ids: item ids in the order of the rows, or None for all that have a file or a title, in natural order.
        videos: folder of videos named by item id, an LMDB of frames (lmdb_media.py), or a file of their pixels
            (pixel_media.py).
        covers: folder of covers named by item id, an LMDB, or a file of their pixels.
        titles: item id -> title.

    Raises:
        ConfigError: a folder that is none, two files for one id, an id given twice, or no item at all; a feature file
            of something else.
        StoreError: a file of pixels that is damaged or of another dataset.
    """
    titles = titles or {}
    shared = videos is not None and videos == covers
    video, ignored_videos = _listing(videos, "videos", dataset, shared=shared)
    cover, ignored_covers = _listing(covers, "covers", dataset, shared=shared)
    found = {*titles, *_one_form({*video, *cover}, titles.keys())} if ids is None else set()
    wanted = sorted(found, key=natural_key) if ids is None else list(ids)
    if not wanted:
        raise ConfigError(_nothing(dataset, ignored_videos, ignored_covers))
    twice = [item for item, times in Counter(wanted).items() if times > 1]
    if twice:
        raise ConfigError(f"item id {twice[0]!r} is listed {wanted.count(twice[0])} times; list each id once")
    video, cover = (_matched(held, wanted, what) for held, what in ((video, "videos"), (cover, "covers")))
    items = tuple(Item(item, video.get(item), cover.get(item), titles.get(item)) for item in wanted)
    return Catalog(dataset, items, ignored={"video": ignored_videos, "cover": ignored_covers})


def _nothing(dataset: str, *ignored: Ignored) -> str:
    passed_over = "; ".join(filter(None, map(str, ignored)))
    return (
        f"dataset {dataset!r} has no items: no ids, titles or files with a known suffix were given "
        f"({', '.join(sorted(VIDEO_SUFFIXES | COVER_SUFFIXES))}){f'; {passed_over}' if passed_over else ''}; "
        "check the folders"
    )


def _matched(
    held: Mapping[str, Origin | Unusable], wanted: Sequence[str], what: str
) -> Mapping[str, Origin | Unusable]:
    """Return what is held under the wanted ids: by their names as they are, or else by their composed forms.

    File systems and programs decompose names: a file written on macOS has another name than the same id in a table.
    """
    known = set(wanted)
    free = [name for name in held if not name.isascii() and name not in known]
    if not free:
        return held
    by_form: defaultdict[str, list[str]] = defaultdict(list)
    for item in wanted:
        if not item.isascii():
            by_form[_form(item)].append(item)
    found = dict(held)
    for name in free:
        items = by_form.get(_form(name), [])
        if len(items) > 1 or (items and items[0] in found):
            both = f"items {items[0]!r} and {items[1]!r} fit one" if len(items) > 1 else f"two fit item {items[0]!r}"
            raise ConfigError(
                f"{what}: {both}: their names differ in Unicode's form alone; rename one of them to the item's id"
            )
        if items:
            found[items[0]] = held[name]
    return found


def _listing(
    place: Path | None, what: str, dataset: str | None = None, *, shared: bool = False
) -> tuple[Mapping[str, Origin | Unusable], Ignored]:
    """Return item id -> file of a folder, or entry of an LMDB or of a file of pixels; and what was passed over."""
    if place is None:
        return {}, Ignored()
    if is_lmdb(place):
        return list_entries(place, what), Ignored()
    if is_pixel_file(place):
        return list_pixels(place, what, dataset), Ignored()
    listing = list_folder(place, VIDEO_SUFFIXES if what == "videos" else COVER_SUFFIXES, what, shared=shared)
    return listing.found, listing.ignored
