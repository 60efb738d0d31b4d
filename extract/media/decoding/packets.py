"""Lists a file's packets to learn about its frames without decoding them. Files that end too early are refused.

Frame counts in headers are only hints. What matters is which packets there are, which of them the edit list shows, and
whether the bytes that the file's own index points to are there.
"""

from __future__ import annotations

from array import array
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.media.decoding.container import MATROSKA, MP4, opened, starts_like_a_video
from extract.media.decoding.ending import refuse_early_end
from extract.media.decoding.errors import media_errors
from extract.media.decoding.keys import start_at
from extract.media.decoding.packet_columns import NO_TIME, Columns
from extract.media.decoding.painting import Painter
from features.errors import MediaError

DECORD_CODECS = ("h264", "hevc", "vp8", "vp9")


class Key(NamedTuple):
    """A packet that decoding may start from."""

    place: int
    """Place of the packet in the order of the file."""
    pts: int
    """Presentation time of the packet."""
    target: int
    """Time to seek to; it leads to this packet whether seeking goes by presentation or by decoding time."""


class Step(NamedTuple):
    """A frame to find: its presentation time, and the last packet from which decoding reaches it."""

    pts: int
    key: Key


@dataclass(frozen=True)
class PacketList:
    """What the n packets of a file's best video stream say about its frames."""

    stream: int
    """Index of the stream in the file."""
    pts: NDArray[np.int64]
    """Presentation times in the order of the file, (n,) int64; NO_TIME where a packet has none."""
    targets: NDArray[np.int64]
    """Times to seek to in order to reach each packet, (n,) int64, in the order of the file."""
    order: NDArray[np.int64] | None
    """Places of the frames to show, sorted by time, (total,) int64; None if packets carry no usable times."""
    keys: NDArray[np.int64]
    """Places from which decoding may start, (k,) int64."""
    total: int
    """Number of frames to show."""
    indexed: bool
    """Whether times and index are right for all frames, so that a seek finds the frame it looks for."""
    plain: bool
    """Whether there is one video stream, all its key frames are clean starts, no packet is hidden, decord paints the
    first frame as PyAV does, and the file begins like MP4 or Matroska."""
    ordinary: bool
    """Whether decord is exact on this file."""

    def steps(self, numbers: NDArray[np.int64]) -> list[Step] | None:
        """Return how to find frames by their numbers; None if packets carry no usable times."""
        if self.order is None:
            return None
        return [self._step(int(place)) for place in self.order[numbers]]

    def _step(self, place: int) -> Step:
        pts = int(self.pts[place])
        at = int(np.searchsorted(self.keys, place, "right")) - 1
        # a frame that follows a key frame in the file and precedes it on the screen needs the key frame before
        while at > 0 and self.pts[self.keys[at]] > pts:
            at -= 1
        return Step(pts, self.key(int(self.keys[at]) if at >= 0 else 0))

    def key(self, place: int) -> Key:
        """Return the packet at a place as a start for decoding."""
        return Key(place, int(self.pts[place]), int(self.targets[place]))


def best_video(container: Any, name: str) -> Any:
    """Return the video stream to read, set to one thread; MediaError if there is none."""
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        raise MediaError(f"{name}: it holds no video stream")
    stream.codec_context.thread_count = 1
    return stream


def list_packets(path: Path) -> PacketList:
    """List a file's video packets; MediaError if it has no video or ends before its own index or header says."""
    with media_errors(path.name), opened(path) as container:
        return list_opened(path, container, best_video(container, path.name))


def list_opened(path: Path, container: Any, stream: Any) -> PacketList:
    """List the packets of a file that is open at its beginning; MediaError as in `list_packets`."""
    promised = sum(entry.size > 0 for entry in stream.index_entries or ())
    found = _collect(container, stream)
    refuse_early_end(path, container, stream, found, promised)
    return _listed(path, container, stream, found)


def _collect(container: Any, stream: Any) -> Columns:
    pts, dts, ends, keys = array("q"), array("q"), array("q"), array("q")
    hidden, damaged = bytearray(), bytearray()
    codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata
    clean, simple = True, None
    for packet in container.demux(stream):
        if not packet.size:  # a frame dropped by the writer, or the end
            continue
        if packet.is_keyframe:
            start = start_at(packet, codec, extradata)
            clean = clean and start == "clean"
            if start != "none":
                keys.append(len(pts))
        pts.append(NO_TIME if packet.pts is None else packet.pts)
        dts.append(NO_TIME if packet.dts is None else packet.dts)
        ends.append(pts[-1] if packet.pts is None else packet.pts + (packet.duration or 0))
        hidden.append(packet.is_discard)
        damaged.append(packet.is_corrupt)
        if simple is None:
            simple = _starts_simply(packet)
    return Columns(pts, dts, ends, hidden, damaged, keys, clean, bool(simple))


def _starts_simply(packet: Any) -> bool | None:
    """Return whether the first frame is simple; None if this packet does not complete it."""
    with suppress(Exception):  # whatever is wrong with the packet is reported when it is read
        for frame in packet.decode():
            return Painter().is_simple(frame)
        return None
    return False


def _listed(path: Path, container: Any, stream: Any, found: Columns) -> PacketList:
    pts, keys = np.array(found.pts, np.int64), np.array(found.keys, np.int64)
    shown = np.flatnonzero(np.frombuffer(found.hidden, np.uint8) == 0)
    times, codec = pts[shown], stream.codec_context.codec
    usable = (
        # in AVI, FLV and MPEG-TS times are wrong after a seek (measured: frames up to ten places off)
        container.format.name in (MP4, MATROSKA) and NO_TIME not in times and len(np.unique(times)) == len(times) > 0
    )
    # excludes fragmented MP4, and MP4 whose edit list leaves a part out of the index
    indexed = usable and (container.format.name == MATROSKA or stream.frames == len(pts))
    if len(keys) == len(pts) and not codec.intra_only and codec.canonical_name not in DECORD_CODECS:
        keys = keys[:1]  # an MP4 without a list of key frames marks every packet as one
    plain = (
        found.clean
        and found.simple
        and len(shown) == len(pts)
        and len(container.streams.video) == 1
        and starts_like_a_video(path)
    )
    closed = not has_leading_frames(pts, keys)
    return PacketList(
        stream=stream.index,
        pts=pts,
        targets=pts if container.format.name == MATROSKA else seek_targets(np.array(found.dts, np.int64), keys),
        order=shown[np.argsort(times, kind="stable")] if usable else None,
        keys=keys,
        total=len(shown),
        indexed=indexed,
        plain=plain,
        ordinary=indexed and plain and closed and codec.canonical_name in DECORD_CODECS,
    )


def seek_targets(dts: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return times to seek to for each key packet of an MP4: the last decoding time before the next key packet.

    Some versions of FFmpeg seek by decoding time, others by presentation time. The returned time lies after both times
    of the key packet and before both times of the next.
    """
    targets = dts.copy()
    if len(keys):
        targets[keys] = dts[np.append(keys[1:] - 1, len(dts) - 1)]
    return targets


def has_leading_frames(pts: NDArray[np.int64], keys: NDArray[np.int64]) -> bool:
    """Return whether any frame follows a key frame in the file but precedes it on the screen."""
    if not len(keys):
        return False
    first = int(keys[0])
    latest = np.searchsorted(keys, np.arange(first, len(pts)), "right") - 1
    return bool((pts[first:] < pts[keys[latest]]).any())
