"""How a changed source is told: a cheap mark of each, compared first, and a digest of its bytes where marks differ."""

from __future__ import annotations

import hashlib
from pathlib import Path

DIGEST_BYTES = 16


def file_mark(path: Path) -> str:
    """Return 'size:<bytes>:<time of its last change in ns>' of a file; '' where it is gone.

    One look at the file's entry: a catalog of a million files takes seconds.
    """
    try:
        status = path.stat()
    except OSError:  # deleted since it was listed: missing, like one that never was
        return ""
    return f"size:{status.st_size}:{status.st_mtime_ns}"


def file_digest(path: Path) -> str:
    """Return the blake2b (32 hex characters) of a file's bytes, as its row has it; '' where it cannot be read."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
    except OSError:
        return ""
