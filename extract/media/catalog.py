"""The item catalog: each item id with its video, cover and title. Missing ones are known before a file is opened."""

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

Origin = Path | LmdbEntry | PixelEntry  # where a video or a cover is stored


@dataclass(frozen=True)
class Item:
    """One item: its id as the user wrote it, and the sources of its video, cover and title.

    A source is None if it is missing, and `Unusable` if a file has the item's name but cannot be read.
    """

    id: str
    video: Origin | Unusable | None
    cover: Origin | Unusable | None
    title: str | None


@dataclass(frozen=True)
class Catalog:
    """The items of a dataset, in the order their rows will have."""

    dataset: str
    """Name that the feature files carry."""
    items: tuple[Item, ...]
    """The items, one per row of a feature file."""
    partial: bool = False
    """Whether some items were left out on purpose."""
    ignored: Mapping[Modality, Ignored] = field(default_factory=dict)
    """Files in the folders that belong to no item, by modality."""

    def only(self, ids: Sequence[str]) -> Catalog:
        """Return a catalog of these items alone, in the old order; ConfigError for an unknown id or an empty list."""
        known = {item.id for item in self.items}
        unknown = [item for item in ids if item not in known]
        if not ids:
            raise ConfigError(f"the list of items to extract from dataset {self.dataset!r} is empty; list some ids")
        if unknown:
            raise ConfigError(
                f"{len(unknown)} of {len(ids)} items to extract are not in dataset {self.dataset!r}, first "
                f"{unknown[0]!r}; {nearest(unknown[0], sorted(known))}"
            )
        wanted = set(ids)
        return replace(self, items=tuple(item for item in self.items if item.id in wanted), partial=True)

    def count_missing(self) -> dict[Modality, int]:
        """Return how many items have no video, no cover and no title. No file is opened."""
        missing = Counter(kind for item in self.items for kind in MODALITIES if source(item, kind) is None)
        return {kind: missing[kind] for kind in MODALITIES}


def source(item: Item, modality: Modality) -> Origin | str | None:
    """Return an item's source for a modality: a file, a stored entry, a title, or None. A blank title gives None."""
    if modality == "title":
        return item.title if item.title and item.title.strip() else None
    origin = item.video if modality == "video" else item.cover
    return None if isinstance(origin, Unusable) else origin


def why_missing(item: Item, modality: Modality) -> str:
    """Return why an item has no source for a modality: there is none, or its file cannot be read."""
    origin = item.video if modality == "video" else item.cover
    return origin.reason if modality != "title" and isinstance(origin, Unusable) else f"no {modality}"


def stamp(item: Item, modality: Modality) -> str:
    """Return a cheap mark that changes when the source changes; '' if the source is missing.

    - A file: 'size:<bytes>:<time of its last change in ns>'.
    - An LMDB entry: 'lmdb:<bytes>:<16 hex>', with a hash of three places in its value.
    - A row of pixels: 'pixels:<32 hex>', with the hash of what the pixels were decoded from.
    - A title: 'blake2b:<32 hex>'.

    Files are not opened, so a file that is replaced by one of the same size and date goes unnoticed.
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
    """Read a source file now and return the hash of its bytes, as rows store it; '' if there is no such file."""
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
    """Return the ids that have a video or a cover in a folder, LMDB or pixel file; raises as `build_catalog`.

    Ids that differ only in their Unicode form are one id, spelled as in `known` or else in composed form.
    """
    return _one_form({*_listing(videos, "videos")[0], *_listing(covers, "covers")[0]}, known)


def _one_form(found: set[str], known: AbstractSet[str]) -> set[str]:
    """Return the ids with spellings merged that differ only in Unicode form: the known one stays, or the composed."""
    other = {item for item in found - known if not item.isascii()}
    if not other:
        return found
    forms = {_form(item): item for item in known if not item.isascii()}
    return (found - other) | {forms.get(_form(item), _form(item)) for item in other}


def _form(text: str) -> str:
    """Return a text in composed Unicode form (NFC), in which 'e' + accent, as macOS writes it, is one character."""
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

    Each folder is listed once. Files are matched by their stem ('17.mp4' is the video of '17'), first as it is written,
    then in composed Unicode form. An id never becomes part of a path, so no id can reach outside the folders.

    Args:
        dataset: name that the feature files will carry.
        ids: item ids in the order of the rows, or None for all that have a file or a title, in natural order.
        videos: folder of videos named by item id, an LMDB of frames (lmdb_media.py), or a pixel file (pixel_media.py).
        covers: folder of covers named by item id, an LMDB of covers, or a pixel file.
        titles: item id -> title.

    Raises:
        ConfigError: a path that is not a folder, two files for one id, an id given twice, no item at all, or a feature
            file that does not hold such pixels.
        StoreError: a pixel file that is damaged or belongs to another dataset.
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
    """Return the sources under the wanted ids, matched by name as it is written, or else in composed Unicode form.

    Some file systems and programs decompose names: a file written on macOS may not spell an id as the table does.
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
            both = f"two names fit item {items[0]!r}"
            if len(items) > 1:
                both = f"one name fits items {items[0]!r} and {items[1]!r}"
            raise ConfigError(f"{what}: {both}; the names differ only in Unicode form: rename one to the exact id")
        if items:
            found[items[0]] = held[name]
    return found


def _listing(
    place: Path | None, what: str, dataset: str | None = None, *, shared: bool = False
) -> tuple[Mapping[str, Origin | Unusable], Ignored]:
    """Return item id -> source, from a folder, an LMDB or a pixel file; and which files were ignored."""
    if place is None:
        return {}, Ignored()
    if is_lmdb(place):
        return list_entries(place, what), Ignored()
    if is_pixel_file(place):
        return list_pixels(place, what, dataset), Ignored()
    listing = list_folder(place, VIDEO_SUFFIXES if what == "videos" else COVER_SUFFIXES, what, shared=shared)
    return listing.found, listing.ignored
