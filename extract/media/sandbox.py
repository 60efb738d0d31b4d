"""Opens media files in worker processes with a time and a memory limit: a bad file costs its own row and no more.

A worker that hangs is killed, and one that crashes is replaced. Each is also replaced after FILES_PER_WORKER files, in
case a decoder leaks. Workers hold no state; idle ones wait for the next extraction in this process.

The time limit counts the worker's processor time, so that a busy machine causes no failures. Waiting has a limit, too,
WAIT times as long. A failure that the machine may have caused can pass (`passes`): the next run tries the file again.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.media.decoding.errors import one_line
from extract.media.frames import Begin
from extract.media.limits import Limits
from extract.media.lmdb_media import LmdbEntry
from features.errors import MediaError

ROOT = Path(__file__).resolve().parents[2]
# Our packages come from beside this file: a user's folders of the same names may stand on the path before them.
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[2]); import freezeframe; del sys.path[0]; "
    "from extract.media.decode_worker import main; main()"
)
FILES_PER_WORKER = 500
WAIT = 10  # seconds that a file may take by the clock for each second of processor time that it may take
LOOK_S = 0.05  # seconds between two looks at a worker's time and memory
PIPE_BYTES = 2**20  # the most a user may ask for; the usual 64 KB would split a clip into many small reads


@dataclass(frozen=True)
class End:
    """Comes after a file's frames."""

    digest: str
    """Hash of the file's bytes (blake2b), 32 hex characters."""


@dataclass(frozen=True)
class Media:
    """The decoded pixels of a file."""

    pixels: NDArray[np.uint8]
    """Frames (U, H, W, 3) or a cover (H, W, 3), uint8 RGB."""
    total: int
    """Number of frames in the clip; 0 for covers."""
    digest: str
    """Hash of the file's bytes (blake2b), 32 hex characters."""


def passes(reason: str) -> bool:
    """Return whether a row's failure may be gone by the next run.

    Its time was up, or its file had disappeared, or an earlier release ended its sound decoder (SIGIO).
    """
    passing = r": decoding took longer than |: (video|cover) gone since it was listed$|: the decoder crashed \(SIGIO\)"
    return re.search(passing, reason) is not None


def read_media(
    origin: Path | LmdbEntry, limits: Limits, *, policies: Sequence[str] = (), decoder: str = "auto"
) -> Media:
    """Read a cover, or the frames that any of `policies` picks from a clip, all at once; else as `stream_media`."""
    frames: list[NDArray[np.uint8]] = []
    total, digest = 0, ""
    for part in stream_media(origin, limits, policies=policies, decoder=decoder):
        if isinstance(part, Begin):
            frames, total = [], part.total
        elif isinstance(part, End):
            digest = part.digest
        else:
            frames.append(part)
    return Media(np.stack(frames) if policies else frames[0], total, digest)


def stream_media(
    origin: Path | LmdbEntry, limits: Limits, *, policies: Sequence[str] = (), decoder: str = "auto"
) -> Generator[Begin | NDArray[np.uint8] | End]:
    """Read a cover, or the frames that any of `policies` picks from a clip, one by one, in a worker process.

    Args:
        origin: a file, or an entry of an LMDB.
        limits: time and memory that opening it may cost.
        policies: frame policies, as text; none for a cover.
        decoder: name of the decoder for a video file.

    Yields:
        `Begin`, then frames (H, W, 3) uint8 RGB of one size, in ascending order, each once, then `End`. `Begin` may
        come again; all frames before it are then void.

    Raises:
        MediaError: the file is broken, the decoder crashed, or a limit was passed; one line that says which.
        FileNotFoundError: the file or entry is gone.
    """
    path, key = (origin.path, origin.key) if isinstance(origin, LmdbEntry) else (origin, None)
    request = {
        "path": str(path.absolute()),  # a worker keeps the working folder it was started in
        "key": key,
        "policies": list(policies),
        "decoder": decoder,
        "time_s": limits.time_s,
        "wall_s": WAIT * limits.time_s,
        "memory_bytes": limits.memory_mb << 20,
    }
    with _worker(limits.memory_mb) as worker, closing(worker.ask(request, origin.name)) as replies:
        for reply, pixels in replies:
            if pixels is not None:
                yield pixels
            elif "total" in reply:
                yield Begin(reply["total"], reply["count"])
            else:
                last = reply
    if last.get("missing"):
        raise FileNotFoundError(origin.name)
    if "failed" in last:
        raise MediaError(one_line(RuntimeError(last["failed"])))
    yield End(last["digest"])


class _OverMemoryError(Exception):
    """A worker is over its memory limit."""


class _Worker:
    """One process that runs extract/media/decode_worker.py; all its files have the same memory limit."""

    def __init__(self, memory_mb: int) -> None:
        self.files = 0
        self.memory_mb = memory_mb
        watched, held = os.pipe()  # nothing is ever written to it: that it closes tells the worker that we are gone
        self._held = os.fdopen(held, "wb", buffering=0)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, str(watched), str(ROOT)],  # -P: not from the working folder
            pass_fds=(watched,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        os.close(watched)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout.fileno()
        self._rest = b""
        self._waited_s = 0.0
        self._limit_bytes: int | None = None
        os.set_blocking(self._out, False)
        _widen(self._out)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], name: str) -> Generator[tuple[dict[str, Any], NDArray[np.uint8] | None]]:
        """Yield the replies to a request, each with its pixels. The last reply has a digest or says why there is none.

        Raises:
            MediaError: the worker crashed or passed a limit; it is ended.
        """
        self.files += 1
        self._waited_s, self._limit_bytes = 0.0, None
        try:
            self._in.write(json.dumps(request).encode() + b"\n")
            while True:
                reply: dict[str, Any] = json.loads(self._line(request["wall_s"]))
                if "limit_bytes" in reply:
                    self._limit_bytes = reply["limit_bytes"]
                elif "shape" in reply:
                    yield reply, self._pixels(reply["shape"], request["wall_s"])
                elif "memory" in reply:
                    raise _OverMemoryError
                else:
                    yield reply, None
                    if "total" not in reply:
                        return
        except (TimeoutError, _OverMemoryError, EOFError, OSError) as error:
            raise MediaError(f"{name}: {self._ended(error, request)}") from error

    def _ended(self, error: Exception, request: dict[str, Any]) -> str:
        """End the worker and return the reason."""
        if not isinstance(error, TimeoutError | _OverMemoryError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1)  # it is ending by itself: wait for its exit code
        self.close()
        code = self._process.returncode
        if isinstance(error, TimeoutError):
            return f"decoding took longer than {request['wall_s']:g} s by the clock, {WAIT} times --decode-seconds"
        if isinstance(error, _OverMemoryError):
            return f"it needs more than {self.memory_mb} MB to decode (--decode-mb)"
        if code == -signal.SIGPROF:
            return f"decoding took longer than {request['time_s']:g} s of processor time (--decode-seconds)"
        how = signal.Signals(-code).name if code and code < 0 else f"exit {code}"
        return f"the decoder crashed ({how}), perhaps because it needs over {self.memory_mb} MB (--decode-mb)"

    def _line(self, wall_s: float) -> bytes:
        """Return the next line; bytes that were read after it stay in `_rest`."""
        while b"\n" not in self._rest:
            self._wait(wall_s)
            part = os.read(self._out, 4096)
            if not part:
                raise EOFError
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _pixels(self, shape: Sequence[int], wall_s: float) -> NDArray[np.uint8]:
        pixels = np.empty(shape, dtype=np.uint8)
        target = pixels.reshape(-1).data
        done = min(len(target), len(self._rest))
        target[:done] = self._rest[:done]
        self._rest = self._rest[done:]
        while done < len(target):
            self._wait(wall_s)
            count = os.readv(self._out, [target[done:]])
            if not count:
                raise EOFError
            done += count
        return pixels

    def _wait(self, wall_s: float) -> None:
        """Wait until there is something to read. Only this waiting counts, not the time spent with the frames."""
        while True:
            start = time.monotonic()
            ready = select.select([self._out], [], [], LOOK_S)[0]
            self._waited_s += time.monotonic() - start
            if ready:
                return
            if self._waited_s > wall_s:
                raise TimeoutError
            if self._limit_bytes is not None and self._virtual_bytes() > self._limit_bytes:
                raise _OverMemoryError

    def _virtual_bytes(self) -> int:
        with suppress(OSError, ValueError, IndexError):  # the process is ending
            return int(Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[0]) * mmap.PAGESIZE
        return 0  # macOS does not tell it either

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._held.close()
        if self._process.stdout:
            self._process.stdout.close()


def _widen(pipe: int) -> None:
    """Let a pipe hold more at a time, where the system offers that; it also limits all pipes together."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl  # absent on Windows, where this module is imported, but starts no worker

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


_idle: list[_Worker] = []
_lock = threading.Lock()


@contextmanager
def _worker(memory_mb: int) -> Iterator[_Worker]:
    with _lock:
        worker = _idle.pop() if _idle else None
    if worker is not None and (worker.memory_mb != memory_mb or not worker.alive):
        worker.close()
        worker = None
    worker = worker or _Worker(memory_mb)
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
