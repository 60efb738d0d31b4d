"""Media files are opened in worker processes with a time and a memory limit: a bad file costs its row, no more.

A worker that hangs is killed, one that crashed is replaced, and each is replaced after some hundred files in case a
decoder leaks. Workers hold no state: idle ones wait for the next extraction of this process.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.decoders import one_line
from extract.lmdb_media import LmdbEntry
from features.errors import MediaError

ROOT = Path(__file__).resolve().parents[1]
FILES_PER_WORKER = 500
PIPE_BYTES = 2**20  # the most a user may ask for; a pipe's own 64 KB make many small steps of a clip


@dataclass(frozen=True)
class Limits:
    """What opening one file may cost.

    Attributes:
        time_s: seconds of wall clock, above 0.
        memory_mb: MB (2^20 bytes) of address space above that of an idle worker.
    """

    time_s: float = 60.0
    memory_mb: int = 4096


@dataclass(frozen=True)
class Media:
    """What a file holds.

    Attributes:
        pixels: (U, H, W, 3) frames or (H, W, 3) cover, uint8 RGB.
        total: frames the clip has; 0 for covers.
        digest: blake2b of the file's bytes, 32 hex characters.
    """

    pixels: NDArray[np.uint8]
    total: int
    digest: str


def read_media(
    origin: Path | LmdbEntry, limits: Limits, *, policies: Sequence[str] = (), decoder: str = "auto"
) -> Media:
    """Read a cover, or the frames that any of `policies` picks from a clip, in a worker process.

    Args:
        origin: a file, or an entry of an LMDB.
        limits: of this one.
        policies: of frames; none for a cover.
        decoder: of a file's frames.

    Raises:
        MediaError: the file is broken, or opening it crashed, or cost more than `limits`; one line that says so.
        FileNotFoundError: it is not there.
    """
    path, key = (origin.path, origin.key) if isinstance(origin, LmdbEntry) else (origin, None)
    request = {
        "path": str(path.absolute()),  # workers live on in the folder they were started in
        "key": key,
        "policies": list(policies),
        "decoder": decoder,
        "time_s": limits.time_s,
        "memory_bytes": limits.memory_mb << 20,
    }
    with _worker() as worker:
        reply, pixels = worker.ask(request, origin.name)
    if reply.get("missing"):
        raise FileNotFoundError(origin.name)
    if "failed" in reply or pixels is None:
        raise MediaError(one_line(RuntimeError(reply.get("failed", "no pixels"))))
    return Media(pixels, reply["total"], reply["digest"])


class _Worker:
    """One process of extract/decode_worker.py."""

    def __init__(self) -> None:
        self.files = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from extract.decode_worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        with suppress(OSError):  # more than a system allows for all pipes together
            fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], name: str) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
        """Return a request's reply and pixels; MediaError, and the end of this worker, when none comes in time."""
        self.files += 1
        deadline = time.monotonic() + request["time_s"]
        try:
            self._in.write(json.dumps(request).encode() + b"\n")
            line, rest = self._line(deadline)
            reply: dict[str, Any] = json.loads(line)
            if "shape" not in reply:
                return reply, None
            pixels = np.empty(reply["shape"], dtype=np.uint8)
            self._fill(pixels.reshape(-1).data, rest, deadline)
            return reply, pixels
        except TimeoutError as error:
            self.close()
            raise MediaError(f"{name}: decoding took longer than {request['time_s']:g} s (--decode-seconds)") from error
        except (EOFError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1)  # it is ending by itself: hear how
            self.close()
            code = self._process.returncode
            how = signal.Signals(-code).name if code and code < 0 else f"exit {code}"
            limit = request["memory_bytes"] >> 20
            raise MediaError(f"{name}: the decoder crashed ({how}), perhaps over {limit} MB (--decode-mb)") from error

    def _line(self, deadline: float) -> tuple[bytes, bytes]:
        """Return the reply's first line, and what was read after it."""
        found = b""
        while b"\n" not in found:
            found += self._some(deadline)
        line, _, rest = found.partition(b"\n")
        return line, rest

    def _some(self, deadline: float) -> bytes:
        self._wait(deadline)
        part = os.read(self._out, 4096)
        if not part:
            raise EOFError
        return part

    def _fill(self, target: memoryview, start: bytes, deadline: float) -> None:
        target[: len(start)] = start
        done = len(start)
        while done < len(target):
            self._wait(deadline)
            count = os.readv(self._out, [target[done:]])
            if not count:
                raise EOFError
            done += count

    def _wait(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._out], [], [], left)[0]:
            raise TimeoutError

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._in.close()
        if self._process.stdout:
            self._process.stdout.close()


_idle: list[_Worker] = []
_lock = threading.Lock()


@contextmanager
def _worker() -> Iterator[_Worker]:
    with _lock:
        worker = _idle.pop() if _idle else None
    if worker is None or not worker.alive:
        worker = _Worker()
    try:
        yield worker
    except BaseException:
        worker.close()
        raise
    if worker.files >= FILES_PER_WORKER:
        worker.close()
    else:
        with _lock:
            _idle.append(worker)


@atexit.register
def close_idle() -> None:
    """End the idle workers."""
    with _lock:
        while _idle:
            _idle.pop().close()
