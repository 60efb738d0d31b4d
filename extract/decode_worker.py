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

from extract.decoders import get_decoder, read_cover
from extract.frames import FrameUnion, parse_frame_policy
from features.errors import FreezeframeError

GRACE_S = 5  # the parent kills at the limit; should it be dead itself, the kernel does so this much later


def main() -> None:
    """Serve requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    _load_libraries()
    start = _virtual_bytes()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.alarm(math.ceil(request["time_s"]) + GRACE_S)  # without a handler: ends the process even inside C code
        limit = start + int(request["memory_bytes"])
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        _answer(request, replies)
        signal.alarm(0)


def _load_libraries() -> None:
    """Load what decodes now: their code is not to count towards the memory of the first file."""
    for name in ("av", "PIL.Image", "decord"):
        with suppress(ImportError, RuntimeError, OSError):
            importlib.import_module(name)


def _virtual_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _answer(request: Mapping[str, Any], replies: BinaryIO) -> None:
    path = Path(request["path"])
    pixels: NDArray[np.uint8] | None = None
    try:
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        total = 0
        if request["policies"]:
            union = FrameUnion(tuple(parse_frame_policy(text) for text in request["policies"]))
            clip = get_decoder(request["decoder"])(path, union)
            pixels, total = clip.frames, clip.total
        else:
            pixels = read_cover(path)
        reply = {"shape": pixels.shape, "total": total, "digest": digest}
    except FileNotFoundError:
        reply = {"missing": True}
    except MemoryError:
        reply = {"failed": f"{path.name}: it needs more than {request['memory_bytes'] >> 20} MB to decode"}
    except (FreezeframeError, OSError, UnicodeError) as error:
        reply = {"failed": str(error), "kind": type(error).__name__}
    replies.write(json.dumps(reply).encode() + b"\n")
    if pixels is not None and "shape" in reply:
        replies.write(np.ascontiguousarray(pixels).data)
    replies.flush()


if __name__ == "__main__":
    main()
