"""Claims on shards: files in a shared folder that keep workers on any machines from making a shard twice.

Only one worker can create a claim, and touches it while it works. The owner counts as dead if the claim was not touched
for long, or if the owner's process was on this machine and is gone. Another worker then takes the claim over by
creating its successor, under the next number. Only one worker can do that, however many saw the owner dead, and
whenever they did. The dead claim stays until the run ends, so that no latecomer finds the first number free.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from features.atomic import remove
from features.errors import StoreError
from features.paths import write_advice

STALE_S = 300.0  # long: a shared file system may show a touch late, and a machine that swaps may touch late
BEATS = 10  # touches per STALE_S


class Claims:
    """The claims of one run.

    Args:
        folder: the folder that all workers share; it is made when needed.
        stale_s: seconds without a touch after which an owner counts as dead.
        told: what a claim says besides its host and process.
    """

    def __init__(self, folder: Path, *, stale_s: float = STALE_S, told: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._stale_s = stale_s
        self._told = dict(told or {})

    @contextmanager
    def take(self, name: str) -> Iterator[bool]:
        """Yield whether this worker has the claim on `name`; give it back at the end, whatever happens."""
        path = self._claim(name)
        if path is None:
            yield False
            return
        stop = threading.Event()
        heart = threading.Thread(target=self._beat, args=(path, stop), daemon=True)
        heart.start()
        try:
            yield True
        finally:
            stop.set()
            heart.join()
            remove(path)

    def owner(self, name: str) -> dict[str, object]:
        """Return what the newest claim says: host, process and `told`; {} if it cannot be read."""
        try:
            found = json.loads(self._path(name, self._numbers(name)[-1]).read_text(encoding="utf-8"))
        except (OSError, ValueError, IndexError):  # given back meanwhile, or being written
            return {}
        return found if isinstance(found, dict) else {}

    def drop_dead(self, name: str) -> None:
        """Remove the claims before the newest one, which the caller must hold."""
        for number in self._numbers(name)[:-1]:
            remove(self._path(name, number))

    def clear(self) -> None:
        """Remove the folder; call it when everything is made.

        The claims left in it are those of killed workers. A living worker that still holds one does not miss it.
        """
        shutil.rmtree(self._folder, ignore_errors=True)

    def _beat(self, path: Path, stop: threading.Event) -> None:
        while not stop.wait(self._stale_s / BEATS):
            with suppress(OSError):
                os.utime(path)

    def _is_stale(self, path: Path) -> bool:
        try:
            age = time.time() - path.stat().st_mtime
        except OSError:
            return False  # just given back: its shard is done, or the next round finds it free
        try:
            owner = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False  # likewise
        except (OSError, ValueError):  # being written, or cut off by a crash: only its age counts
            return age > self._stale_s
        if owner.get("host") == socket.gethostname() and not _alive(int(owner.get("process", 0))):
            return True
        return age > self._stale_s

    def _claim(self, name: str) -> Path | None:
        """Create the first claim, or the successor of a dead worker's; None if another worker has it."""
        numbers = self._numbers(name)
        if numbers and not self._is_stale(self._path(name, numbers[-1])):
            return None
        mine = numbers[-1] + 1 if numbers else 0
        path = self._path(name, mine)
        if not _create(path, self._told):
            return None
        if self._numbers(name)[-1:] > [mine]:  # its earlier owner, taken for dead, gave it back meanwhile
            remove(path)
            return None
        return path

    def _numbers(self, name: str) -> list[int]:
        """Return the numbers of the existing claims, ascending."""
        found = (path.name.removeprefix(f"{name}.claim") for path in self._folder.glob(f"{glob.escape(name)}.claim*"))
        return sorted(int(number[1:] or 0) for number in found)

    def _path(self, name: str, number: int) -> Path:
        return self._folder / (f"{name}.claim.{number}" if number else f"{name}.claim")


def _create(path: Path, told: Mapping[str, str]) -> bool:
    """Create a claim and return True; False if it exists, StoreError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # a run that has ended may have removed it just now
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error.strerror}); {write_advice(error)}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as handle:
            json.dump({"host": socket.gethostname(), "process": os.getpid(), **told}, handle)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path} ({error.strerror}); {write_advice(error)}") from error
    return True


def _alive(process: int) -> bool:
    """Return whether a process of this machine runs. On Windows nothing is asked: os.kill(n, 0) is Ctrl-C there."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with suppress(OSError):  # a zombie is dead, but its parent has not noticed yet
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return True
