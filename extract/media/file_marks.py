"""Marks that show whether a source file changed: a cheap one to compare first, and a digest where those differ."""

from __future__ import annotations

import hashlib
from pathlib import Path

DIGEST_BYTES = 16


def file_mark(path: Path) -> str:
    """Return 'size:<bytes>:<time of its last change in ns>' for a file; '' if it is gone.

    The file is not opened, so a catalog of a million files takes seconds.
    """
    try:
        status = path.stat()
    except OSError:  # deleted since it was listed: treated like a file that never existed
        return ""
    return f"size:{status.st_size}:{status.st_mtime_ns}"


def file_digest(path: Path) -> str:
    """Return the blake2b hash (32 hex characters) of a file's bytes, as rows store it; '' if it cannot be read."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
    except OSError:
        return ""
