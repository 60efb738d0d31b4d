"""Read each item's file or title once for all encoders, in worker processes that run ahead of them.

A clip's frames come one by one and are resized a few at a time. So memory grows with what the encoders see, not with
the length and size of the video.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extract.encoders.preprocess import Inputs, View, chunk_frames, normalise
from extract.jobs.options import ExtractOptions
from extract.media.catalog import Item, source, why_missing
from extract.media.decoding.errors import one_line
from extract.media.frames import Begin, FrameUnion
from extract.media.lmdb_media import LmdbEntry
from extract.media.modality import Modality
from extract.media.pixel_media import PixelEntry, read_pixels
from extract.media.sandbox import End, stream_media
from features.errors import MediaError
from features.store import State

AHEAD = 2  # files decoded ahead per worker, in addition to a batch
AHEAD_BYTES = 2**29  # bytes of waiting views above which reading ahead pauses


@dataclass(frozen=True)
class Request:
    """One item's source to read."""

    item: Item
    """The item."""
    modality: Modality
    """Which of its sources to read."""
    views: tuple[View, ...] = ()
    """What the encoders want to see of it; none for titles, which are taken as they are."""


@dataclass(frozen=True)
class Source:
    """What reading a source gave, or why it gave nothing."""

    views: Mapping[View, Tensor] = field(default_factory=dict)
    """The pixels of each view."""
    title: str = ""
    """The text of a title."""
    digest: str = ""
    """The blake2b hash of the source's bytes, 32 hex characters."""
    state: State = State.DONE
    """What became of it: done, missing or failed."""
    reason: str = ""
    """Why it is not done; '' if it is."""


def read_ahead(requests: Iterable[Request], options: ExtractOptions) -> Generator[Source]:
    """Yield the source of each request, in order, while workers read the next ones; close() stops them.

    A batch and some more sources are read ahead, so that decoding goes on while a batch is encoded. Reading ahead
    pauses while `AHEAD_BYTES` wait.
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
    """Return the bytes of the views that wait in memory."""
    done = [future.result() for future in waiting if future.done() and future.exception() is None]
    return sum(made.nbytes for found in done for made in found.views.values())


def read(request: Request, options: ExtractOptions) -> Source:
    """Read one source; a source that cannot be read costs its row and nothing else."""
    origin = source(request.item, request.modality)
    if origin is None:
        return Source(state=State.MISSING, reason=why_missing(request.item, request.modality))
    try:
        if isinstance(origin, str):
            return Source(title=origin, digest=hashlib.blake2b(origin.encode(), digest_size=16).hexdigest())
        if isinstance(origin, PixelEntry):
            return Source(_views_of_cropped(origin, request, options), digest=origin.digest)
        return _read_media(origin, request, options)
    except FileNotFoundError:  # perhaps its file system is away for a moment: the next run tries again (`passes`)
        return Source(state=State.FAILED, reason=f"{request.item.id}: {request.modality} gone since it was listed")
    except (MediaError, OSError, UnicodeError) as error:
        return Source(state=State.FAILED, reason=one_line(error))


def _views_of_cropped(entry: PixelEntry, request: Request, options: ExtractOptions) -> dict[View, Tensor]:
    """Return the views of pixels that were cropped for them."""
    pixels = _moved(read_pixels(entry), options)
    return {view: pixels if view.cropped else normalise(pixels, view.inputs) for view in request.views}


def _read_media(origin: Path | LmdbEntry, request: Request, options: ExtractOptions) -> Source:
    assembly = _Assembly(request, options)
    digest = ""
    parts = stream_media(origin, options.decode, policies=assembly.policies, decoder=options.decoder)
    with closing(parts):
        for part in parts:
            if isinstance(part, End):
                digest = part.digest
            elif isinstance(part, Begin):
                assembly.begin(part)
            else:
                assembly.take(part)
    return Source(assembly.finish(), digest=digest)


class _Assembly:
    """Makes the views of a clip or a cover as its frames arrive."""

    def __init__(self, request: Request, options: ExtractOptions) -> None:
        self._request, self._options = request, options
        self._union = FrameUnion(tuple(dict.fromkeys(view.frames for view in request.views if view.frames is not None)))
        self._makers: dict[View, Inputs] = {}
        self._views: dict[View, Tensor] = {}
        self._chunk: list[NDArray[np.uint8]] = []

    @property
    def policies(self) -> list[str]:
        """Return the frame policies to ask for; a cover has none."""
        return [str(policy) for policy in self._union.policies]

    def begin(self, begin: Begin) -> None:
        self._chunk = []
        if self._union.policies:
            views = self._request.views
            self._makers = {view: Inputs(view, self._union, begin.total, self._options.device) for view in views}

    def take(self, frame: NDArray[np.uint8]) -> None:
        if not self._makers:
            cover = _moved(frame, self._options)
            self._views = {view: view.made(cover, self._options.device) for view in self._request.views}
            return
        self._chunk.append(frame)
        if len(self._chunk) == chunk_frames(*frame.shape[:2]):
            self._make()

    def _make(self) -> None:
        if self._chunk:
            frames = self._chunk[0][None] if len(self._chunk) == 1 else np.stack(self._chunk)
            self._chunk = []
            moved = _moved(frames, self._options)
            for maker in self._makers.values():
                maker.take(moved)

    def finish(self) -> dict[View, Tensor]:
        self._make()
        return self._views or {view: maker.finish() for view, maker in self._makers.items()}


def _moved(pixels: NDArray[np.uint8], options: ExtractOptions) -> Tensor:
    """Return pixels on the encoder's device; readers' threads call it, so copying overlaps with the GPU's work."""
    tensor = torch.from_numpy(pixels)
    if options.device.startswith("cuda"):
        tensor = tensor.pin_memory()
    return tensor.to(options.device, non_blocking=True)
