"""Who makes which shard: claims in a shared folder, so that workers on any machines never make one twice.

A claim is a file that only one worker can create. Its owner touches it while it works; one that was not touched for
long, or whose process on this machine is gone, belongs to a dead worker and is taken over: by creating its successor,
under the next number, which again only one can do however many saw it dead, and whenever they did. The dead claim stays
where it is until the run ends, so that nobody who comes later finds the first number free.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from features.errors import StoreError
from features.paths import write_advice

STALE_S = 300.0  # a shared file system may show a touch late; a machine that swaps may touch late
BEATS = 10  # touches per STALE_S


class Claims:
    """The claims of one run.

    Args:
        folder: shared by all workers; made when needed.
        stale_s: seconds without a touch after which an owner counts as dead.
        told: what stands in a claim besides its host and process.
    """

    def __init__(self, folder: Path, *, stale_s: float = STALE_S, told: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._stale_s = stale_s
        self._told = dict(told or {})

    @contextmanager
    def take(self, name: str) -> Iterator[bool]:
        """Yield whether this worker may do `name`; gives the claim back at the end, whatever happens."""
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
            path.unlink(missing_ok=True)

    def owner(self, name: str) -> dict[str, object]:
        """Return what stands in the newest claim: host, process and what was told; {} where that is not known."""
        try:
            found = json.loads(self._path(name, self._numbers(name)[-1]).read_text(encoding="utf-8"))
        except (OSError, ValueError, IndexError):  # given back meanwhile, or being written
            return {}
        return found if isinstance(found, dict) else {}

    def drop_dead(self, name: str) -> None:
        """Remove the claims that came before the newest one, which must be held by the caller."""
        for number in self._numbers(name)[:-1]:
            self._path(name, number).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the folder, to be called when all is made: a claim left in it is that of a worker killed in between.

        A worker that lives and still holds one does not miss it.
        """
        shutil.rmtree(self._folder, ignore_errors=True)

    def _beat(self, path: Path, stop: threading.Event) -> None:
        while not stop.wait(self._stale_s / BEATS):
            with suppress(OSError):
                os.utime(path)

    def _is_stale(self, path: Path) -> bool:
        try:
            age = time.time() - path.stat().st_mtime
            owner = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False  # given back this moment; its shard is done, or the next round finds it free
        except (OSError, ValueError):  # being written, or cut off by a crash: only its age tells
            return age > self._stale_s
        if owner.get("host") == socket.gethostname() and not _alive(int(owner.get("process", 0))):
            return True
        return age > self._stale_s

    def _claim(self, name: str) -> Path | None:
        """Create the first claim, or the successor of a dead worker's; None where another worker has it."""
        numbers = self._numbers(name)
        if numbers and not self._is_stale(self._path(name, numbers[-1])):
            return None
        mine = numbers[-1] + 1 if numbers else 0
        path = self._path(name, mine)
        if not _create(path, self._told):
            return None
        if self._numbers(name)[-1:] > [mine]:  # whose owner was taken for dead, and gave it back meanwhile
            path.unlink(missing_ok=True)
            return None
        return path

    def _numbers(self, name: str) -> list[int]:
        """Return the numbers of the claims there are, ascending."""
        found = (path.name.removeprefix(f"{name}.claim") for path in self._folder.glob(f"{glob.escape(name)}.claim*"))
        return sorted(int(number[1:] or 0) for number in found)

    def _path(self, name: str, number: int) -> Path:
        return self._folder / (f"{name}.claim.{number}" if number else f"{name}.claim")


def _create(path: Path, told: Mapping[str, str]) -> bool:
    """Create a claim; False where there is one, StoreError where none can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # a run that has ended may have removed it just now
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error.strerror}); {write_advice(error)}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            json.dump({"host": socket.gethostname(), "process": os.getpid(), **told}, handle)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path} ({error.strerror}); {write_advice(error)}") from error
    return True


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with suppress(OSError):  # dead, but its parent has not heard yet
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
