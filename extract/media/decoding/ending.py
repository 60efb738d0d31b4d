"""Refuses files that end early: frames counted in what is left of a file would come from another part of the clip.

The frame count in a header proves nothing by itself. An AVI also counts frames that its writer dropped, an MP4 those
that its edit list leaves out. So each container is checked in its own way: the index of an MP4 points to bytes, an AVI
states its size, and a Matroska file states when it ends. For other containers the count has to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extract.media.decoding.container import AVI, MATROSKA, MP4, opened
from extract.media.decoding.packet_columns import NO_TIME, Columns
from features.errors import MediaError

LATE_SECONDS, LATE_SHARE = 0.5, 0.02  # a video may end this much before its header says
RIFF_HEAD = 8  # bytes that the size stated in a RIFF file leaves out
TOP_BOXES = frozenset(b"ftyp styp sidx emsg prft moov moof mdat free skip wide uuid mfra".split())
UNKNOWN = (0, 0xFFFFFFFF)  # sizes stated in files that were written to a pipe


def refuse_early_end(path: Path, container: Any, stream: Any, found: Columns, promised: int) -> None:
    """Raise MediaError if a file lacks a part that it claims to have.

    Args:
        path: the file.
        container: the same file, opened with PyAV and read to its end.
        stream: its video stream.
        found: the packets that were read.
        promised: number of packets that its index listed when it was opened.
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
    """Return the offset just after the last byte that an index points to."""
    return max((entry.pos + entry.size for entry in stream.index_entries or ()), default=0)


def _fragments_end(path: Path) -> int:
    """Return the offset at which the last fragment header ends by its own account; 0 in an MP4 without fragments.

    A file that is cut inside such a header has no packet of that fragment.
    """
    at = ends = 0
    with path.open("rb") as handle:
        while len(head := handle.read(16)) >= 8 and head[4:8] in TOP_BOXES:
            size = int.from_bytes(head[:4], "big")
            if size == 1:
                size = int.from_bytes(head[8:], "big")
            if head[4:8] == b"moof":
                ends = at + size
            if size < 8:  # it reaches to the end of the file
                break
            at += size
            handle.seek(at)
    return ends


def _without_edits(path: Path) -> int:
    """Return how many packets an MP4 has when its edit list is ignored."""
    with opened(path, ignore_editlist="1") as container:
        return len(container.streams.best("video").index_entries or ())


def _riff_bytes(path: Path) -> int:
    """Return the size that a RIFF file states for its first part, in bytes; 0 if it states none."""
    with path.open("rb") as handle:
        size = int.from_bytes(handle.read(RIFF_HEAD)[4:], "little")
    return 0 if size in UNKNOWN else size + RIFF_HEAD


def _refuse_before(name: str, end: float, told: float | None) -> None:
    if told is not None and end < told - max(LATE_SECONDS, LATE_SHARE * told):
        raise MediaError(f"{name}: truncated or damaged at {end:.1f} of {told:.1f} s; fetch it again")


def _told_seconds(container: Any, stream: Any) -> float | None:
    """Return the length of a Matroska video by its header, in seconds; None if it is absent or may be the sound's."""
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:  # the stream has no tag of its own
        return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None
