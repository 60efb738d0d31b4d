"""Error texts for paths that cannot be used: what is there instead, and what to do when a write is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
TAKEN = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
ROOM = "free some disk space or choose another folder"


def no_file(path: Path, advice: str) -> str:
    """Return the end of an error about a path that is no file: it is a folder, or it does not exist and `advice`."""
    return "is a folder; name a file" if path.is_dir() else f"does not exist; {advice}"


def no_folder(path: Path, advice: str) -> str:
    """Return the end of an error about a path that is no folder: it is a file, or it does not exist and `advice`."""
    return "is a file; name a folder" if path.is_file() else f"does not exist; {advice}"


def write_advice(error: BaseException, room: str = ROOM) -> str:
    """Return the next step after a failed write; it is `room` if the disk is full or no other cause is known."""
    number = getattr(error, "errno", None)
    if number in FORBIDDEN:
        return "check the permissions there or choose another folder"
    if number in TAKEN:
        return "something else is there; choose another path"
    return room


def shortest(path: Path) -> str:
    """Return a path from the working folder on, if it lies in there, else as it is."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def shown(name: str) -> str:
    r"""Return a name that every file format and terminal accepts; bytes that are not UTF-8 become '\xe9' and the like.

    >>> shown("caf\udce9.mp4")
    'caf\\xe9.mp4'
    """
    if name.isascii():
        return name
    try:
        name.encode()
    except UnicodeEncodeError:
        return "".join(_visible(character) for character in name)
    return name


def as_utf8(name: str) -> str | None:
    """Return a file's name decoded as UTF-8, whatever encoding the system uses for names; None if it is not UTF-8."""
    if name.isascii():
        return name
    try:
        return os.fsencode(name).decode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        return None


def _visible(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that it could not decode
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if 0xD800 <= code <= 0xDFFF else character
