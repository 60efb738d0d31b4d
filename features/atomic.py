"""Write files and folders that appear whole or not at all, even after kill -9, a power cut or a full disk."""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from features.errors import StoreError
from features.paths import write_advice

WAITS_S = (0.1, 0.2, 0.4, 0.8, 1.6) if sys.platform == "win32" else ()


def fsync_file(path: Path) -> None:
    """Make the bytes of a closed file survive a power cut."""
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut; on Windows, which opens no folders, do nothing."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(temporary: Path, target: Path) -> None:
    """Give a finished file or folder the name `target`, in place of an older file of that name.

    Windows refuses this while any program has one of the two open. Virus scanners and indexers open new files for a
    moment, so it is tried again there for up to three seconds.
    """
    for wait_s in WAITS_S:
        with suppress(PermissionError):
            temporary.replace(target)
            return
        time.sleep(wait_s)
    temporary.replace(target)


def remove(path: Path) -> None:
    """Delete a file if it is there; on Windows wait for whoever has it open, as `put_in_place` does."""
    for wait_s in WAITS_S:
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
            return
        time.sleep(wait_s)
    path.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a small text file so that readers see the old or the new content, never a part; safe against kill -9.

    Raises:
        StoreError: the file cannot be written (disk full, no permission); nothing is left behind.
    """
    temporary = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        fsync_file(temporary)
        put_in_place(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error}); {write_advice(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def whole_folder(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield an empty hidden folder beside `target` that takes its place at the end.

    An older `target` is then deleted. Without `replace` it stays, even if it appeared only meanwhile.

    Raises:
        StoreError: the folder cannot be written, or `target` exists and may not be replaced. `target` stays as it was,
            and nothing else is left behind.
    """
    temporary = target.with_name(f".{target.name[:80]}.{uuid.uuid4().hex}.tmp")
    older = temporary.with_suffix(".old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.rglob("*"):
            fsync_folder(path) if path.is_dir() else fsync_file(path)
        fsync_folder(temporary)
        if not replace and target.exists():  # if it appears right after this, the rename fails unless it is empty
            raise StoreError(f"{target} was made by someone else meanwhile; choose another folder")
        if target.exists():  # two renames: POSIX cannot exchange folders in one
            put_in_place(target, older)
        put_in_place(temporary, target)
        fsync_folder(target.parent)
    except OSError as error:
        if older.exists() and not target.exists():
            put_in_place(older, target)
        raise StoreError(f"cannot write {target} ({error}); {write_advice(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(older, ignore_errors=True)


class Sink(io.RawIOBase):
    """A new file for a library (HDF5) to write to, which hides failed writes from it; `check` raises them instead.

    When HDF5 cannot write out what it holds, it cannot close the file either, and crashes at the end of the process.
    So after the first failure everything is accepted and dropped.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("wb+", buffering=0)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first OSError that was hidden, if any."""
        if self._error is not None:
            raise self._error

    def readable(self) -> bool:
        """Return True, because the library reads what it wrote."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset and return the new place, as files do."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place, as files do."""
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, as files do."""
        return self._file.readinto(buffer) or 0

    def write(self, content: Any) -> int:
        """Write all of `content`, or drop it after a failure; return its size in bytes."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        with self._kept():
            while self._error is None and rest:
                rest = rest[self._file.write(rest) :]  # a disk that is nearly full takes only a part
        return size

    def truncate(self, size: int | None = None) -> int:
        """Cut or lengthen the file; keep a failure for `check`."""
        with self._kept():
            self._file.truncate(size)
        return size or 0

    def flush(self) -> None:
        """Do nothing, because nothing is buffered here."""

    def close(self) -> None:
        """Close the file; keep a failure for `check`."""
        with self._kept():
            self._file.close()
        super().close()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or error
