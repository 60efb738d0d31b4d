"""Error texts for paths that cannot be used: what is there instead, and what to do when a write is refused."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path, PureWindowsPath

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
TAKEN = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
# What Windows takes for a device, or does not accept in a name.
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
REFUSED = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[ .]$')
ROOM = "free some disk space or choose another folder"


def no_file(path: Path, advice: str) -> str:
    """Return the end of an error about a path that is no file: it is a folder, or it does not exist and `advice`."""
    return "is a folder; name a file" if path.is_dir() else f"does not exist; {advice}"


def no_folder(path: Path, advice: str) -> str:
    """Return the end of an error about a path that is no folder: it is a file, or it does not exist and `advice`."""
    return "is a file; name a folder" if path.is_file() else f"does not exist; {advice}"


def readings(text: str) -> list[Path]:
    r"""Return the paths that a text may mean here: as it stands, and as Windows reads it if it holds a backslash.

    Runs and recipes travel between systems. Windows reads '/' as well; elsewhere a backslash is a letter like others,
    so the text as it stands comes first.

    >>> [path.as_posix() for path in readings("data\\f.h5")]
    ['data\\f.h5', 'data/f.h5']
    """
    as_windows = Path(PureWindowsPath(text).as_posix())
    return list(dict.fromkeys([Path(text), as_windows]))


def here(text: str) -> Path:
    """Return the first of a text's `readings` that exists, or the text as it stands."""
    found = readings(text)
    return next((path for path in found if path.exists()), found[0])


def refused_by_windows(name: str) -> bool:
    """Return whether a plain name can be no file or folder on Windows, such as 'a:b', 'con' or 'a.'.

    >>> [refused_by_windows(name) for name in ("id+v[T=2]", "a:b", "NUL.txt", "v.")]
    [False, True, True, True]
    """
    return bool(RESERVED.fullmatch(name) or REFUSED.search(name))


def write_advice(error: BaseException, room: str = ROOM) -> str:
    """Return the next step after a failed write; it is `room` if the disk is full or no other cause is known."""
    number = getattr(error, "errno", None)
    if number in FORBIDDEN and sys.platform == "win32":
        return "close the program that has it open, or check the permissions there"
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
