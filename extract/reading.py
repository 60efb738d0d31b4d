"""What an item's file or title holds, read ahead of the encoders by worker processes, once for all of them."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.catalog import Item, Modality, source, why_missing
from extract.decoders import one_line
from extract.frames import FramePolicy, FrameUnion
from extract.lmdb_media import LmdbEntry
from extract.options import ExtractOptions
from extract.pixel_media import PixelEntry, read_pixels
from extract.sandbox import read_media
from features.errors import MediaError
from features.store import State

AHEAD = 2  # files decoded ahead per worker, beside a batch
AHEAD_BYTES = 2**29  # of pixels; 32 frames of 1080p are 200 MB


@dataclass(frozen=True)
class Request:
    """One item's source to read: for videos, the frames that any of `policies` picks."""

    item: Item
    modality: Modality
    policies: tuple[FramePolicy, ...] = ()


@dataclass(frozen=True)
class Source:
    """What was found, or why nothing was.

    Attributes:
        content: (U, H, W, 3) frames or (H, W, 3) cover as uint8 RGB, or a title; None where there is none.
        cropped: `content` is what `extract.preprocess.crop` gives, of the one policy's frames.
        digest: blake2b of the bytes, 32 hex characters.
        union: which policies' frames `content` has; None but for videos.
        total: frames the clip has.
        state: done, missing or failed.
        reason: why it is not done.
    """

    content: Tensor | str | None = None
    cropped: bool = False
    digest: str = ""
    union: FrameUnion | None = None
    total: int = 0
    state: State = State.DONE
    reason: str = ""

    def frames_of(self, policy: FramePolicy) -> Tensor:
        """Return the frames of one policy, (T, H, W, 3)."""
        assert isinstance(self.content, Tensor)
        assert self.union is not None
        places = self.union.places(self.union.policies.index(policy), self.total)
        if np.array_equal(places, np.arange(len(self.content))):
            return self.content  # the union is this policy's own frames, in order
        return self.content[torch.from_numpy(places).to(self.content.device)]


def read_ahead(requests: Iterable[Request], options: ExtractOptions) -> Generator[Source]:
    """Yield what each request finds, in order, while workers read the next ones; close() stops them.

    A batch and some more are read ahead, so that decoding goes on while a batch is encoded, but not more than some
    hundred MB of pixels.
    """
    waiting: deque[Future[Source]] = deque()
    remaining = iter(requests)
    most = options.batch_size + AHEAD * options.workers
    with ThreadPoolExecutor(options.workers, thread_name_prefix="read") as pool:
        try:
            while True:
                while len(waiting) <= options.workers or (len(waiting) < most and _bytes(waiting) < AHEAD_BYTES):
                    request = next(remaining, None)
                    if request is None:
                        break
                    waiting.append(pool.submit(read, request, options))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _bytes(waiting: Iterable[Future[Source]]) -> int:
    """Return the size of the pixels that wait in memory."""
    done = [future.result().content for future in waiting if future.done() and future.exception() is None]
    return sum(content.nbytes for content in done if isinstance(content, Tensor))


def read(request: Request, options: ExtractOptions) -> Source:
    """Read one source; every trouble of its media costs this row and nothing else."""
    origin = source(request.item, request.modality)
    if origin is None:
        return Source(state=State.MISSING, reason=why_missing(request.item, request.modality))
    try:
        if isinstance(origin, str):
            return Source(origin, digest=hashlib.blake2b(origin.encode(), digest_size=16).hexdigest())
        if isinstance(origin, PixelEntry):
            return Source(_pinned(read_pixels(origin), options), cropped=True, digest=origin.digest)
        return _read_media(origin, request, options)
    except FileNotFoundError:  # or its file system is away for a moment: to be tried again, as missing rows are not
        return Source(state=State.FAILED, reason=f"{request.item.id}: {request.modality} gone since it was listed")
    except (MediaError, OSError, UnicodeError) as error:
        return Source(state=State.FAILED, reason=one_line(error))


def _read_media(origin: Path | LmdbEntry, request: Request, options: ExtractOptions) -> Source:
    texts = [str(policy) for policy in request.policies]
    media = read_media(origin, options.decode, policies=texts, decoder=options.decoder)
    union = FrameUnion(request.policies) if request.policies else None
    return Source(_pinned(media.pixels, options), digest=media.digest, union=union, total=media.total)


def _pinned(pixels: NDArray[np.uint8], options: ExtractOptions) -> Tensor:
    tensor = torch.from_numpy(pixels)
    # in this thread: the copy to the GPU then runs beside its work
    return tensor.pin_memory() if options.device.startswith("cuda") else tensor
