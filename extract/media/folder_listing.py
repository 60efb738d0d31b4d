"""A folder of media files, listed once: item id -> file by its stem, and what was passed over and why.

Folders inside it are looked through as well ('videos/a/17.mp4' is the video of '17'). Names that begin with a dot are
the system's own and are not counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from features.errors import ConfigError
from features.paths import as_utf8, no_folder, shown

# What FFmpeg reads as a video and Pillow as a picture, by the names such files commonly have.
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".flv", ".gif", ".ogv"}
    | {".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv", ".asf"}
)
COVER_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff"}
)
UNREAD = {".heic": "convert to JPEG", ".heif": "convert to JPEG", ".svg": "no pixels", ".psd": "convert to PNG"}
FOREIGN_FOLDERS = frozenset({"@eaDir", "__MACOSX", "lost+found"})  # what NAS boxes, zip files and disks put in
KINDS_NAMED = 4


@dataclass(frozen=True)
class Unusable:
    """A file that stands for an item and cannot be its source."""

    reason: str
    """Why, as the item's row tells it."""


@dataclass(frozen=True)
class Ignored:
    """Files of a folder that are no item's, counted."""

    count: int = 0
    """How many."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Their number by kind: a suffix, or what they are instead of a file."""
    first: str = ""
    """Name of the first one."""

    def __str__(self) -> str:
        """Return '37 files ignored: 30 .txt, 7 .heic (convert to JPEG), first a.txt', or ''."""
        if not self.count:
            return ""
        named = [f"{count} {kind}{_advice(kind)}" for kind, count in list(self.kinds.items())[:KINDS_NAMED]]
        rest = self.count - sum(list(self.kinds.values())[:KINDS_NAMED])
        named += [f"{rest} others"] if rest else []
        files = "file" if self.count == 1 else "files"
        return f"{self.count} {files} ignored: {', '.join(named)}, first {self.first}"


def _advice(kind: str) -> str:
    return f" ({UNREAD[kind]})" if kind in UNREAD else ""


@dataclass(frozen=True)
class Listing:
    """What a folder holds."""

    found: dict[str, Path | Unusable]
    """Item id -> file, or why there is none that can be read."""
    ignored: Ignored = field(default_factory=Ignored)
    """The rest."""


def list_folder(folder: Path, suffixes: frozenset[str], what: str, *, shared: bool = False) -> Listing:
    """List the files of a folder that have one of these suffixes, in any case.

    A link to nothing and a name that is not UTF-8 cost the row of their item: it is there, and says why it is missing.

    Args:
        folder: holds media named by item id.
        suffixes: lower case, with their dots.
        what: 'videos' or 'covers'.
        shared: the folder holds media of the other kind, too: they are not counted as ignored.

    Raises:
        ConfigError: no folder, or two files for one id; both are named.
    """
    if not folder.is_dir():
        raise ConfigError(f"folder of {what} {folder} {no_folder(folder, 'check the path')}")
    expected = VIDEO_SUFFIXES | COVER_SUFFIXES if shared else suffixes
    found: dict[str, Path | Unusable] = {}
    names: dict[str, Path] = {}
    kinds: Counter[str] = Counter()
    first = ""
    for path in _files(folder, set()):
        suffix = path.suffix.lower()
        kind = None if suffix in suffixes else _readable(suffix) or "without a suffix"
        source = _source(path) if kind is None else None
        if source is None:
            if kind is None or suffix not in expected:
                kinds[kind or "no regular file"] += 1
                first = first or _readable(path.name)
            continue
        item = as_utf8(path.stem) or shown(path.stem)
        if item in names:
            one, other = (_readable(str(each.relative_to(folder))) for each in (names[item], path))
            raise ConfigError(f"item {item!r} has two files in {folder}: {one} and {other}; keep one")
        found[item], names[item] = source, path
    return Listing(found, Ignored(kinds.total(), dict(kinds.most_common()), first))


def _files(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield all that is not hidden in a folder and the folders in it, each once: links may go round."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as scan:
        entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: entry.name)
    inside = []
    for entry in entries:
        if not entry.is_dir():
            yield Path(entry.path)
        elif entry.name not in FOREIGN_FOLDERS:
            inside.append(Path(entry.path))
    for each in inside:
        yield from _files(each, seen)


def _source(path: Path) -> Path | Unusable | None:
    """Return a file that can be read, why it cannot, or None for what is no file: reading a pipe would never end."""
    if as_utf8(path.name) is None:
        return Unusable(f"the file name {shown(path.name)} is not UTF-8; rename it to the item's id")
    if path.is_file():
        return path
    if path.is_symlink():
        return Unusable(f"{_readable(path.name)} is a link to nothing ({_readable(str(path.readlink()))})")
    return None


def _readable(name: str) -> str:
    return as_utf8(name) or shown(name)
