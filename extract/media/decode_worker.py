"""The process that opens media files. It may hang, crash or fill its memory without harming any other process.

sandbox.py starts it and talks to it through its standard streams. A request is one line of JSON. Replies are lines of
JSON, and the raw bytes of a frame follow its line. Frames are sent as they are decoded, so that memory holds only one.
The process does not import torch, so that it starts in a fraction of a second.

The effect of a limit must never be mistaken for a fault of the file:

- Time is processor time: the kernel ends the process (SIGPROF) when it is used up.
- Memory is address space. A library that is refused memory may take this for the end of the file. So the kernel's limit
  lies above the requested one, by more than any library here takes in one piece. If a library was refused memory, the
  process had then passed the requested limit before, which is checked when the file is done.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import math
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from extract.media.covers.image import read_cover
from extract.media.decoders import get_decoder
from extract.media.frames import Begin, Clip, FrameUnion, parse_frame_policy
from extract.media.lmdb_media import LmdbEntry, cover_of, environment_of, frames_of, read_value
from extract.media.this_system import STATUS
from features.errors import FreezeframeError

GRACE_S = 5  # seconds; the parent kills at the limit, and if it is dead itself, the kernel does so this much later
LARGEST_PIECE = 2**31  # bytes; FFmpeg takes less than this in one piece
SPARE = LARGEST_PIECE + 2**26


def main() -> None:
    """Serve requests until standard input ends; the first argument is the pipe that closes when the parent is gone."""
    _end_with(int(sys.argv[1]))
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get in among the replies
    _load_libraries()
    worker = _Worker(replies)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        with _time_limits(request):
            last = worker.answer(request)
        worker.tell(last)  # after this the next request may come


@contextmanager
def _time_limits(request: Mapping[str, Any]) -> Iterator[None]:
    """End the process if its time is up, even inside C code: the signals have no handlers."""
    signal.alarm(math.ceil(request["wall_s"]) + GRACE_S)
    signal.setitimer(signal.ITIMER_PROF, request["time_s"])
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)


def _end_with(watched: int) -> None:
    """Let the kernel end this process (SIGIO, which has no handler) when the other end of a pipe closes.

    Requests must not come by this pipe: the kernel may signal a write after its bytes were read, and a request would
    end the process that serves it. Systems other than Linux ignore SIGIO by default: there a thread waits for the end,
    and inside C code that never returns the alarm ends the process.
    """
    if sys.platform != "linux":
        threading.Thread(target=_exit_at_end, args=(watched,), daemon=True).start()
        return
    fcntl.fcntl(watched, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(watched, fcntl.F_SETFL, fcntl.fcntl(watched, fcntl.F_GETFL) | os.O_ASYNC)


def _exit_at_end(watched: int) -> None:
    os.read(watched, 1)  # nothing is ever written: it returns when the other end closes
    os._exit(1)


def _load_libraries() -> None:
    """Load the decoding libraries now, so that their code does not count as memory of the first file."""
    for name in ("av", "PIL.Image", "simplejpeg", "decord"):
        with suppress(ImportError, RuntimeError, OSError):
            importlib.import_module(name)


def _virtual_bytes(field: str) -> int:
    """Return a size of this process in bytes: VmSize is the current one, VmPeak the largest so far; 0 if not told."""
    with suppress(FileNotFoundError):  # macOS
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) << 10
    return 0


class _Worker:
    """Answers requests, all with the same memory limit. The parent replaces it once it has passed that limit."""

    def __init__(self, replies: BinaryIO) -> None:
        self._replies = replies
        self._idle = _virtual_bytes("VmPeak")
        self._mapped: set[str] = set()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Write the frames of a request. Return the last reply: the source's digest, or why there are no frames."""
        path = Path(request["path"])
        limit = self._limit(request)
        if limit is not None:
            self.tell({"limit_bytes": limit})
        try:
            last: dict[str, Any] = {"digest": self._read(path, request)}
        except FileNotFoundError:
            last = {"missing": True}
        except MemoryError:
            last = {"memory": True}
        except (FreezeframeError, OSError, UnicodeError) as error:
            last = {"failed": str(error)}
        return {"memory": True} if limit is not None and _virtual_bytes("VmPeak") > limit else last

    def _limit(self, request: Mapping[str, Any]) -> int | None:
        """Set the kernel's limit and return the requested one, both in bytes of address space; None if there is none.

        A system that does not tell a process's size, such as macOS, does not hold it to a limit either.
        """
        if not self._idle:
            return None
        if request["key"] is not None and request["path"] not in self._mapped:
            # mapped before the limit is set: an environment of 60 GB takes as much address space, but no memory
            self._mapped.add(request["path"])
            before = _virtual_bytes("VmSize")
            with suppress(Exception):  # the error comes again when an entry is read
                environment_of(request["path"])
            self._idle += _virtual_bytes("VmSize") - before
        limit = self._idle + int(request["memory_bytes"])
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = limit + SPARE if hard == resource.RLIM_INFINITY else min(limit + SPARE, hard)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
        return limit

    def _read(self, path: Path, request: Mapping[str, Any]) -> str:
        digest, clip = _opened_file(path, request) if request["key"] is None else _opened_entry(path, request)
        for part in clip:
            if isinstance(part, Begin):
                self.tell({"total": part.total, "count": part.count})
            else:
                self.tell({"shape": part.shape}, np.ascontiguousarray(part).data)
                signal.alarm(math.ceil(request["wall_s"]) + GRACE_S)  # the parent took the frame, so it is alive
        return digest

    def tell(self, line: dict[str, Any], pixels: memoryview | None = None) -> None:
        """Write a line of JSON, followed by a frame if one is given."""
        self._replies.write(json.dumps(line).encode() + b"\n")
        if pixels is not None:
            self._replies.write(pixels)
        self._replies.flush()


def _opened_file(path: Path, request: Mapping[str, Any]) -> tuple[str, Clip]:
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    if not request["policies"]:
        return digest, iter([Begin(0, 1), read_cover(path)])
    return digest, get_decoder(request["decoder"]).stream(path, _union(request))


def _opened_entry(path: Path, request: Mapping[str, Any]) -> tuple[str, Clip]:
    name = LmdbEntry(path, request["key"], "").name
    value, digest = read_value(str(path), request["key"])
    if not request["policies"]:
        return digest, iter([Begin(0, 1), cover_of(value, name)])
    frames, total = frames_of(value, _union(request), name)
    return digest, iter([Begin(total, len(frames)), *frames])


def _union(request: Mapping[str, Any]) -> FrameUnion:
    return FrameUnion(tuple(parse_frame_policy(text) for text in request["policies"]))


if __name__ == "__main__":
    main()
