"""The process that opens media files: it may hang, crash or fill its memory, and takes nothing with it.

It is started by extract/sandbox.py and speaks through its standard streams: a line of JSON in, a line of JSON out,
followed by the pixels as raw bytes. It imports no torch: it starts in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from extract.covers.image import read_cover
from extract.decoders import get_decoder
from extract.frames import FrameUnion, parse_frame_policy
from extract.lmdb_media import LmdbEntry, cover_of, environment_of, frames_of, read_value
from features.errors import FreezeframeError

GRACE_S = 5  # the parent kills at the limit; should it be dead itself, the kernel does so this much later


def main() -> None:
    """Serve requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    _load_libraries()
    start, mapped = _virtual_bytes(), set()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.alarm(math.ceil(request["time_s"]) + GRACE_S)  # without a handler: ends the process even inside C code
        if request["key"] is not None and request["path"] not in mapped:
            # before the limit: an environment of 60 GB takes as much address space, but no memory
            mapped.add(request["path"])
            start += _map_environment(request["path"])
        limit = start + int(request["memory_bytes"])
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        _answer(request, replies)
        signal.alarm(0)


def _load_libraries() -> None:
    """Load what decodes now: their code is not to count towards the memory of the first file."""
    for name in ("av", "PIL.Image", "simplejpeg", "decord"):
        with suppress(ImportError, RuntimeError, OSError):
            importlib.import_module(name)


def _virtual_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _map_environment(path: str) -> int:
    before = _virtual_bytes()
    with suppress(Exception):  # it is told when an entry is read
        environment_of(path)
    return _virtual_bytes() - before


def _answer(request: Mapping[str, Any], replies: BinaryIO) -> None:
    path, pixels = Path(request["path"]), None
    try:
        pixels, total, digest = _read_file(path, request) if request["key"] is None else _read_entry(path, request)
        reply: dict[str, Any] = {"shape": pixels.shape, "total": total, "digest": digest}
    except FileNotFoundError:
        reply = {"missing": True}
    except MemoryError:
        most = request["memory_bytes"] >> 20
        reply = {"failed": f"{request['key'] or path.name}: it needs more than {most} MB to decode"}
    except (FreezeframeError, OSError, UnicodeError) as error:
        reply = {"failed": str(error), "kind": type(error).__name__}
    replies.write(json.dumps(reply).encode() + b"\n")
    if pixels is not None and "shape" in reply:
        replies.write(np.ascontiguousarray(pixels).data)
    replies.flush()


def _read_file(path: Path, request: Mapping[str, Any]) -> tuple[NDArray[np.uint8], int, str]:
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    if not request["policies"]:
        return read_cover(path), 0, digest
    clip = get_decoder(request["decoder"])(path, _union(request))
    return clip.frames, clip.total, digest


def _read_entry(path: Path, request: Mapping[str, Any]) -> tuple[NDArray[np.uint8], int, str]:
    name = LmdbEntry(path, request["key"], "").name
    value, digest = read_value(str(path), request["key"])
    if not request["policies"]:
        return cover_of(value, name), 0, digest
    return *frames_of(value, _union(request), name), digest


def _union(request: Mapping[str, Any]) -> FrameUnion:
    return FrameUnion(tuple(parse_frame_policy(text) for text in request["policies"]))


if __name__ == "__main__":
    main()
