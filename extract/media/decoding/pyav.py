"""Reads clips with PyAV: everything its FFmpeg knows, frame-exact, one frame in memory at a time.

If packets carry times that are right after a seek, decoding goes from key frame to key frame and skips what no wanted
frame needs. Otherwise frames are counted from the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.media.decoding.container import opened
from extract.media.decoding.errors import media_errors
from extract.media.decoding.packets import Key, PacketList, Step, list_packets
from extract.media.decoding.painting import Painter
from extract.media.decoding.sparse import Around, survey
from extract.media.frames import Begin, Clip, FramePolicy, FrameUnion, wanted_frames
from features.errors import MediaError


class _MissingFrameError(Exception):
    """The decoder does not give a frame that the packets promise."""


def stream_pyav(path: Path, policy: FramePolicy | FrameUnion) -> Clip:
    """Yield a clip's frames as PyAV decodes them."""
    yield from stream_surveyed(path, policy, survey(path, policy))


def stream_surveyed(path: Path, policy: FramePolicy | FrameUnion, found: Around | PacketList) -> Clip:
    """Yield a clip's frames, given what `survey` found."""
    if isinstance(found, Around):
        with media_errors(path.name):
            yield Begin(found.total, len(found.steps))
            try:
                yield from _by_steps(path, found.stream, found.steps, found.first)
                return
            except _MissingFrameError:
                found = list_packets(path)
    yield from stream_listed(path, policy, found)


def stream_listed(path: Path, policy: FramePolicy | FrameUnion, packets: PacketList) -> Clip:
    """Yield a clip's frames, given the list of its packets."""
    with media_errors(path.name):
        numbers = wanted_frames(policy, packets.total)
        steps = packets.steps(numbers)
        if steps is not None:
            yield Begin(packets.total, len(steps))
            try:
                yield from _by_steps(path, packets.stream, steps, packets.key(0))
                return
            except _MissingFrameError:
                pass
        yield from _counted(path, policy, packets.stream)


def _by_steps(path: Path, number: int, steps: Sequence[Step], first: Key) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of some steps, in their order; _MissingFrameError if one does not turn up."""
    with opened(path) as container:
        cursor, painter = _Cursor(container, _stream(container, number)), Painter()
        jumping = True
        for step in steps:
            if jumping and cursor.place < step.key.place:
                cursor.jump(step.key)
            frame = cursor.find(step.pts)
            if frame is None and jumping:  # the key frame was not a real one: decode from the start, without jumps
                jumping = False
                cursor = _Cursor(container, cursor.stream)
                cursor.jump(first)
                frame = cursor.find(step.pts)
            if frame is None:
                raise _MissingFrameError
            yield painter.pixels(frame)


class _Cursor:
    """Decodes from a key packet on. `place` is the next packet's place in the file, or a lower one; -1 at first."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.stream = stream
        self.place = -1
        self._container = container
        self._frames: Iterator[Any] = iter(())
        self._ahead: Any = None

    def jump(self, key: Key) -> None:
        """Go to a key packet or to one before it."""
        self._container.seek(key.target, stream=self.stream, backward=True)
        self._ahead = None
        self._frames = self._decoded(key)

    def _decoded(self, key: Key) -> Iterator[Any]:
        self.place = 0
        for count, packet in enumerate(self._container.demux(self.stream)):
            if count == 0:
                if packet.pts is None or packet.pts > key.pts:  # the index leads past the key packet
                    return
                self.place = key.place if packet.pts == key.pts else 0
            self.place += 1
            yield from packet.decode()

    def find(self, pts: int) -> Any | None:
        """Return the frame shown at a time; None if a later frame, a damaged one or the end comes instead."""
        while True:
            frame = self._ahead if self._ahead is not None else next(self._frames, None)
            self._ahead = None
            if frame is None:
                return None
            if frame.pts is not None and frame.pts >= pts:
                if frame.pts == pts and not frame.is_corrupt:
                    return frame
                self._ahead = frame if frame.pts > pts else None
                return None


def _counted(path: Path, policy: FramePolicy | FrameUnion, number: int) -> Clip:
    """Decode from the start twice: first to count the frames, because packets mislead, then for the wanted ones."""
    total = 0
    with opened(path) as container:
        total = sum(1 for _ in container.decode(_stream(container, number)))
    numbers = wanted_frames(policy, total)
    yield Begin(total, len(numbers))
    wanted, last, painter = set(numbers.tolist()), int(numbers[-1]), Painter()
    with opened(path) as container:
        for at, frame in enumerate(container.decode(_stream(container, number))):
            if at in wanted:
                if frame.is_corrupt:
                    raise MediaError(f"{path.name}: damaged at frame {at} of {total}; fetch it again")
                yield painter.pixels(frame)
            if at == last:
                return


def _stream(container: Any, number: int) -> Any:
    stream = container.streams[number]
    stream.codec_context.thread_count = 1
    return stream
