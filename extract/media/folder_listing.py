"""Lists a folder of media files once: which file belongs to which item id, which are ignored, and why.

Files are matched by their stem, in subfolders too ('videos/a/17.mp4' is the video of '17'). Names that begin with a dot
belong to the system and are not counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from features.errors import ConfigError
from features.paths import as_utf8, no_folder, shown

# Common suffixes of files that FFmpeg reads as a video and Pillow as a picture.
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".flv", ".gif", ".ogv"}
    | {".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv", ".asf"}
)
COVER_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff"}
)
UNREAD = {".heic": "convert to JPEG", ".heif": "convert to JPEG", ".svg": "no pixels", ".psd": "convert to PNG"}
FOREIGN_FOLDERS = frozenset({"@eaDir", "__MACOSX", "lost+found"})  # added by NAS boxes, zip programs and disks
KINDS_NAMED = 4


@dataclass(frozen=True)
class Unusable:
    """A file that has an item's name but cannot be read."""

    reason: str
    """Why it cannot be read, as the item's row will say."""


@dataclass(frozen=True)
class Ignored:
    """A count of the files in a folder that belong to no item."""

    count: int = 0
    """Number of ignored files."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Number of files of each kind: a suffix, or what is there instead of a file."""
    first: str = ""
    """Name of the first ignored file."""

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
    """Item id -> its file, or why the file cannot be read."""
    ignored: Ignored = field(default_factory=Ignored)
    """The files that belong to no item."""


def list_folder(folder: Path, suffixes: frozenset[str], what: str, *, shared: bool = False) -> Listing:
    """List the files in a folder that have one of these suffixes, in lower or upper case.

    A broken link or a name that is not UTF-8 costs only its own item, whose row says why the file is missing.

    Args:
        folder: folder of media named by item id.
        suffixes: suffixes in lower case, with their dots.
        what: 'videos' or 'covers'.
        shared: whether the folder also holds media of the other kind, which are then not counted as ignored.

    Raises:
        ConfigError: the path is not a folder, or an id has two files; both are named.
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
                kinds[kind or "not a regular file"] += 1
                first = first or _readable(path.name)
            continue
        item = as_utf8(path.stem) or shown(path.stem)
        if item in names:
            one, other = (_readable(str(each.relative_to(folder))) for each in (names[item], path))
            raise ConfigError(f"item {item!r} has two files in {folder}: {one} and {other}; keep one")
        found[item], names[item] = source, path
    return Listing(found, Ignored(kinds.total(), dict(kinds.most_common()), first))


def _files(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield the visible files in a folder and its subfolders. No folder is read twice, because links may form loops."""
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
    """Return the path, why it cannot be read, or None if it is not a regular file: reading a pipe would never end."""
    if as_utf8(path.name) is None:
        return Unusable(f"the file name {shown(path.name)} is not UTF-8; rename it to the item's id")
    if path.is_file():
        return path
    if path.is_symlink():
        return Unusable(f"{_readable(path.name)} is a broken link (to {_readable(str(path.readlink()))})")
    return None


def _readable(name: str) -> str:
    return as_utf8(name) or shown(name)
