"""Finds frames in a long MP4 by its index and the packets around them: listing all packets would take seconds.

The index knows every packet's place, but not when it is shown. In a group of pictures that is closed on both sides, the
n-th frame in the file is also the n-th one shown. So only packets of the frame's group and the groups beside it are
read.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.media.decoding.container import MP4, opened
from extract.media.decoding.errors import media_errors
from extract.media.decoding.keys import start_at
from extract.media.decoding.packets import Key, PacketList, Step, best_video, list_opened, list_packets, seek_targets
from extract.media.frames import FramePolicy, FrameUnion, wanted_frames

ANY_TIME = 2**62  # presentation time for a key packet whose own does not matter: none comes after it
MANY = 5_000  # packets; listing fewer takes a few hundredths of a second


class Around(NamedTuple):
    """What is known of a long clip: its stream, its frame count, the way to the wanted frames, and its first packet."""

    stream: int
    total: int
    steps: list[Step]
    first: Key


def survey(path: Path, policy: FramePolicy | FrameUnion) -> Around | PacketList:
    """Return how to find a policy's frames in a long MP4; for other files, or in any doubt, the list of all packets.

    Raises:
        MediaError: as in `list_packets`.
    """
    with media_errors(path.name):
        with opened(path) as container:
            stream = best_video(container, path.name)
            index = stream.index_entries
            if container.format.name != MP4 or index is None or not MANY <= len(index) == stream.frames:
                return list_opened(path, container, stream)
            around = _around(path, policy, container, stream)
        return list_packets(path) if around is None else around


def _around(path: Path, policy: FramePolicy | FrameUnion, container: Any, stream: Any) -> Around | None:
    dts, keys = _index(stream.index_entries, path.stat().st_size)
    if not len(keys) or keys[0] != 0:
        return None
    groups = _Groups(container, stream, dts, keys)
    steps = [groups.step(int(number)) for number in wanted_frames(policy, len(dts))]
    found = [step for step in steps if step is not None]
    if len(found) < len(steps):
        return None
    return Around(stream.index, len(dts), found, Key(0, ANY_TIME, int(dts[0])))


def _index(index: Any, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return decoding times and the places of key packets; both empty if a packet is hidden, empty or not there."""
    dts, keys = array("q"), array("q")
    for place, entry in enumerate(index):
        if entry.is_discard or entry.size <= 0 or entry.pos + entry.size > size:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        dts.append(entry.timestamp)
        if entry.is_keyframe:
            keys.append(place)
    return np.array(dts), np.array(keys)


class _Groups:
    """The groups of pictures of a clip, each read when one of its frames is wanted."""

    def __init__(self, container: Any, stream: Any, dts: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
        self._container, self._stream = container, stream
        self._dts, self._keys, self._targets = dts, keys, seek_targets(dts, keys)
        self._known: dict[int, tuple[Key, NDArray[np.int64]] | None] = {}

    def step(self, number: int) -> Step | None:
        """Return how to find a frame; None if its group may not be closed."""
        group = int(np.searchsorted(self._keys, number, "right")) - 1
        if group not in self._known:
            self._known[group] = self._group(group)
        known = self._known[group]
        if known is None:
            return None
        key, times = known
        return Step(int(times[number - key.place]), key)

    def _group(self, group: int) -> tuple[Key, NDArray[np.int64]] | None:
        """Return a group's key packet and the sorted times of its frames; None if the group may not be closed.

        The groups on both sides are read, too.
        """
        bounds = [*self._keys.tolist(), len(self._dts)]
        before, start, end = bounds[max(0, group - 1)], bounds[group], bounds[group + 1]
        pts = self._read(before, bounds[min(group + 2, len(bounds) - 1)], start)
        if pts is None:
            return None
        mine = pts[start - before : end - before]
        closed = (pts[: start - before] < mine[0]).all() and (mine >= mine[0]).all()
        closed = closed and (pts[end - before :] > mine.max()).all() and len(np.unique(mine)) == len(mine)
        return (Key(start, int(mine[0]), int(self._targets[start])), np.sort(mine)) if closed else None

    def _read(self, start: int, end: int, key: int) -> NDArray[np.int64] | None:
        """Return the times of the packets at places [start, end); None if anything differs from the index."""
        self._container.seek(int(self._targets[start]), stream=self._stream, backward=True)
        times = array("q")
        codec = self._stream.codec_context
        for packet in self._container.demux(self._stream):
            place = start + len(times)
            if place == end:
                break
            if packet.dts != self._dts[place] or packet.pts is None or packet.is_corrupt:
                return None
            if place == key and start_at(packet, codec.codec.canonical_name, codec.extradata) != "clean":
                return None
            times.append(packet.pts)
        return np.array(times) if len(times) == end - start else None
