"""Whether a file is all there: frames counted from what is left of one come from another part of the clip.

A count in a header proves nothing by itself: an AVI counts frames that its writer dropped, an MP4 those that its edit
list leaves out. Each container has its own witness: the index of an MP4 points to bytes, an AVI tells its size, a
Matroska file the time it ends at. Others have the count alone, which then has to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extract.media.decoding.container import AVI, MATROSKA, MP4, opened
from extract.media.decoding.packet_columns import NO_TIME, Columns
from features.errors import MediaError

LATE_SECONDS, LATE_SHARE = 0.5, 0.02  # by which a video may end before its header says
RIFF_HEAD = 8  # bytes that a RIFF file's own size leaves out
TOP_BOXES = frozenset(b"ftyp styp sidx emsg prft moov moof mdat free skip wide uuid mfra".split())
UNKNOWN = (0, 0xFFFFFFFF)  # sizes in the head of a file that was written to a pipe


def refuse_early_end(path: Path, container: Any, stream: Any, found: Columns, promised: int) -> None:
    """Raise MediaError where a file lacks a part of what it says of itself.

    Args:
        path: the file.
        container: it, opened with PyAV and read to its end.
        stream: its video.
        found: the packets there are.
        promised: packets that its index knew of when it was opened.
    """
    count, kind = len(found.pts), container.format.name
    lost = any(found.damaged) or count < promised
    if kind == MP4:
        lost = lost or max(_index_ends(stream), _fragments_end(path)) > path.stat().st_size
        lost = lost or (count < stream.frames and _without_edits(path) < stream.frames)
    elif kind == AVI:
        lost = lost or (count < stream.frames and _riff_bytes(path) > path.stat().st_size)
    else:
        lost = lost or count < stream.frames
    if lost:
        whole = promised if count < promised else stream.frames
        told = f" of {whole}" if whole > count else ""
        raise MediaError(f"{path.name}: truncated or damaged after frame {count}{told}; fetch it again")
    if kind == MATROSKA and count and NO_TIME not in found.pts:
        _refuse_before(path.name, float(max(found.ends) * stream.time_base), _told_seconds(container, stream))


def _index_ends(stream: Any) -> int:
    """Return the byte behind the last one that an index points to."""
    return max((entry.pos + entry.size for entry in stream.index_entries or ()), default=0)


def _fragments_end(path: Path) -> int:
    """Return where the last head of a fragment says it ends; 0 in an MP4 without fragments.

    A file cut off inside such a head has none of its packets.
    """
    at = ends = 0
    with path.open("rb") as handle:
        while len(head := handle.read(16)) >= 8 and head[4:8] in TOP_BOXES:
            size = int.from_bytes(head[:4], "big")
            if size == 1:
                size = int.from_bytes(head[8:], "big")
            if head[4:8] == b"moof":
                ends = at + size
            if size < 8:  # up to the end of the file
                break
            at += size
            handle.seek(at)
    return ends


def _without_edits(path: Path) -> int:
    """Return how many packets an MP4 has when its edit list is left aside."""
    with opened(path, ignore_editlist="1") as container:
        return len(container.streams.best("video").index_entries or ())


def _riff_bytes(path: Path) -> int:
    """Return how large a RIFF file says its first part is; 0 where it does not say."""
    with path.open("rb") as handle:
        size = int.from_bytes(handle.read(RIFF_HEAD)[4:], "little")
    return 0 if size in UNKNOWN else size + RIFF_HEAD


def _refuse_before(name: str, end: float, told: float | None) -> None:
    if told is not None and end < told - max(LATE_SECONDS, LATE_SHARE * told):
        raise MediaError(f"{name}: truncated or damaged at {end:.1f} of {told:.1f} s; fetch it again")


def _told_seconds(container: Any, stream: Any) -> float | None:
    """Return how long a Matroska file's video is by its header; None where it does not say, or may mean the sound."""
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:  # no tag of its own
        return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None
