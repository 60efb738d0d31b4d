"""Video decoders behind one interface, frame-exact and upright, one thread each.

decord and PyAV give the same bytes on ordinary files (measured on H.264, HEVC and VP9: no pixel differs). They part
where a file is not ordinary: decord cannot open AV1, counts frames that an edit list hides, and gives a frame two
places off, without a word, in fragmented MP4 and around key frames that are shown after frames which follow them in
the file ("open GOP": x265's default). `auto` therefore lists the packets of a file first, lets decord
read what is ordinary and PyAV the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.frames import Decoder, FramePolicy, Frames, FrameUnion, frame_indices
from features.errors import ConfigError, FreezeframeError, MediaError, nearest

REASON_CHARS = 160  # with the file name this fits the store's 200 bytes
DECORD_CODECS = ("h264", "hevc", "vp8", "vp9")
# The containers whose packets carry times that hold after a seek; in AVI, FLV and MPEG-TS they do not (measured: frames
# up to ten places off), so those are decoded from the start.
MP4, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
LATE_SECONDS, LATE_SHARE = 0.5, 0.02  # by which a video may end before its header says


def one_line(error: BaseException) -> str:
    """Return an error's message on one line of at most 160 characters, without error numbers, stacks and C++ places."""
    text = getattr(error, "strerror", None) or str(error).split("Stack trace")[0]
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: ", "", text)
    text = re.sub(r"'[^']*/([^'/]+)'", r"'\1'", text)  # a folder says nothing about the file and differs by machine
    return " ".join(text.split())[:REASON_CHARS] or type(error).__name__


@contextmanager
def _media_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a MediaError: their exception classes share no base but Exception."""
    try:
        yield
    except (FreezeframeError, MemoryError):
        raise
    except Exception as error:
        raise MediaError(f"{name}: {one_line(error)}") from error


@dataclass(frozen=True)
class PacketList:
    """What the packets of a file's best video stream say, without decoding one.

    Attributes:
        stream: index of the stream in the file.
        times: presentation times of the frames to show, in the stream's unit, sorted; None where packets carry no
            usable times.
        total: number of frames to show.
        indexed: times and index hold for all frames, so that a seek finds the frame it looks for.
        ordinary: decord is exact on this file.
    """

    stream: int
    times: tuple[int, ...] | None
    total: int
    indexed: bool
    ordinary: bool


def _check_not_empty(path: Path) -> None:
    if path.stat().st_size == 0:
        raise MediaError(f"{path.name}: the file is empty (0 bytes)")


def _opened(path: Path) -> Any:
    """Open a container. Absolute, so that a name like 'http:x' stays a file; a playlist in it reaches only files."""
    import av

    _check_not_empty(path)
    return av.open(str(path.absolute()), options={"protocol_whitelist": "file"})


def list_packets(path: Path) -> PacketList:
    """List a file's video packets; MediaError when it has no video or ends before its own header says."""
    with _media_errors(path.name), _opened(path) as container:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise MediaError(f"{path.name}: it holds no video stream")
        packets = [packet for packet in container.demux(stream) if packet.size]
        # A file cut off in transfer still opens when its index stands first; frames counted from what is left would
        # come from another part of the clip without a word.
        if len(packets) < stream.frames or any(packet.is_corrupt for packet in packets):
            whole = f" of {stream.frames}" if stream.frames else ""
            raise MediaError(f"{path.name}: truncated or damaged after frame {len(packets)}{whole}; fetch it again")
        _refuse_early_end(path.name, container, stream, packets)
        shown = [packet.pts for packet in packets if not packet.is_discard]
        usable = container.format.name in (MP4, MATROSKA) and None not in shown and len(set(shown)) == len(shown)
        indexed = usable and (container.format.name == MATROSKA or stream.frames == len(packets))  # no fragmented MP4
        ordinary = (
            indexed
            and stream.codec_context.codec.canonical_name in DECORD_CODECS
            and len(shown) == len(packets)
            and not _has_leading_frames([(packet.pts, packet.is_keyframe) for packet in packets])
        )
        times = tuple(sorted(shown)) if usable else None
        return PacketList(stream.index, times, len(shown), indexed, ordinary)


def _refuse_early_end(name: str, container: Any, stream: Any, packets: Sequence[Any]) -> None:
    """Raise MediaError where a Matroska file ends before its header says: it counts no frames, but tells the time."""
    told = _told_seconds(container, stream)
    if told is None or not packets or any(packet.pts is None for packet in packets):
        return
    end = float(max(packet.pts + (packet.duration or 0) for packet in packets) * stream.time_base)
    if end < told - max(LATE_SECONDS, LATE_SHARE * told):
        raise MediaError(f"{name}: truncated or damaged at {end:.1f} of {told:.1f} s; fetch it again")


def _told_seconds(container: Any, stream: Any) -> float | None:
    """Return how long a Matroska file's video is by its header; None for other files, and where sound may be meant."""
    if container.format.name != MATROSKA:
        return None
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:  # no tag of its own
        return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None


def _has_leading_frames(packets: Sequence[tuple[int, bool]]) -> bool:
    """Return whether a frame follows a key frame in the file and precedes it on the screen; (time, is key) each."""
    key: int | None = None
    for time, is_key in packets:
        if is_key:
            key = time
        elif key is not None and time < key:
            return True
    return False


def read_decord(path: Path, policy: FramePolicy | FrameUnion) -> Frames:
    """Read with decord (0.6): quick and exact on ordinary files; no AV1, wrong where edit lists hide frames."""
    import decord

    with _media_errors(path.name):
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        indices = frame_indices(policy, len(reader))
        unique, inverse = np.unique(indices, return_inverse=True)
        frames = reader.get_batch(unique.tolist()).asnumpy()
        return _frames(path, frames[inverse], len(reader))


def _torchcodec() -> Any:
    """Return its reader class; ConfigError where the package or FFmpeg's libraries are not there."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"decoder 'torchcodec' cannot start ({one_line(error)[:80]}); install the package torchcodec and FFmpeg's "
            "shared libraries (4 to 8), or use --decoder auto"
        ) from error
    return VideoDecoder


def read_torchcodec(path: Path, policy: FramePolicy | FrameUnion) -> Frames:
    """Read with torchcodec (0.17) in exact mode; needs FFmpeg's libraries. PyAV reads what it would read wrongly.

    Exact mode too gives frames up to ten places off in fragmented MP4, AVI, FLV and MPEG-TS, and counts what is left of
    a truncated file; the approximate mode is off wherever frame rates vary.
    """
    video_decoder = _torchcodec()
    packets = list_packets(path)
    if not packets.indexed:
        return _read_listed(path, policy, packets)
    with _media_errors(path.name):
        reader = video_decoder(
            str(path.absolute()),
            stream_index=packets.stream,
            seek_mode="exact",
            num_ffmpeg_threads=1,
            dimension_order="NHWC",
        )
        total = len(reader)
        unique, inverse = np.unique(frame_indices(policy, total), return_inverse=True)
        frames = reader.get_frames_at(unique.tolist()).data.numpy()
        return _frames(path, frames[inverse], total)


def read_pyav(path: Path, policy: FramePolicy | FrameUnion) -> Frames:
    """Read with PyAV: everything its FFmpeg knows, AV1 included. Seeks, then decodes on."""
    return _read_listed(path, policy, list_packets(path))


def _read_listed(path: Path, policy: FramePolicy | FrameUnion, packets: PacketList) -> Frames:
    with _media_errors(path.name):
        indices = frame_indices(policy, packets.total)
        unique, inverse = np.unique(indices, return_inverse=True)
        found = _seek(path, packets, unique)
        if found is not None:
            return _frames(path, found[inverse], packets.total)
        return _read_all(path, policy, packets)


def _seek(path: Path, packets: PacketList, numbers: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """Find frames by their times; None when one does not turn up, or the packets carry no usable times."""
    if packets.times is None:
        return None
    wanted = {packets.times[number]: place for place, number in enumerate(numbers.tolist())}
    # A frame before a key frame of an open GOP cannot be decoded from there: then from the start.
    for start in (packets.times[int(numbers[0])], packets.times[0]):
        found: dict[int, NDArray[np.uint8]] = {}
        with _opened(path) as container:
            stream = container.streams[packets.stream]
            stream.codec_context.thread_count = 1
            container.seek(start, stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.pts in wanted and not frame.is_corrupt:
                    found[wanted[frame.pts]] = _upright(frame)
                if len(found) == len(wanted):
                    return np.stack([found[place] for place in range(len(wanted))])
    return None


def _read_all(path: Path, policy: FramePolicy | FrameUnion, packets: PacketList) -> Frames:
    """Decode from the start: once for the frames wanted, and once before that to count where packets mislead."""

    def decoded() -> Iterator[Any]:
        with _opened(path) as container:
            stream = container.streams[packets.stream]
            stream.codec_context.thread_count = 1
            yield from container.decode(stream)

    total = sum(1 for _ in decoded())
    indices = frame_indices(policy, total)
    unique, inverse = np.unique(indices, return_inverse=True)
    wanted = set(unique.tolist())
    frames = []
    for number, frame in enumerate(decoded()):
        if number in wanted:
            if frame.is_corrupt:
                raise MediaError(f"{path.name}: damaged at frame {number} of {total}; fetch it again")
            frames.append(_upright(frame))
    return _frames(path, np.stack(frames)[inverse], total)


def _upright(frame: Any) -> NDArray[np.uint8]:
    """Return a frame as (H, W, 3) RGB, turned as its display matrix says (PyAV leaves that to the caller)."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, round(frame.rotation / 90) % 4)


def _frames(path: Path, frames: NDArray[np.uint8], total: int) -> Frames:
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise MediaError(f"{path.name}: the decoder gave frames of shape {frames.shape}, not (T, H, W, 3)")
    return Frames(frames, total, width=frames.shape[2], height=frames.shape[1])


def read_auto(path: Path, policy: FramePolicy | FrameUnion) -> Frames:
    """Read with decord where that is exact; with PyAV what is not ordinary or what decord fails on."""
    packets = list_packets(path)
    if packets.ordinary:
        try:
            frames = read_decord(path, policy)
            if frames.total == packets.total:
                return frames
        except (MediaError, ImportError):  # decord has no wheels for some machines
            pass
    return _read_listed(path, policy, packets)


DECODERS: dict[str, Decoder] = {
    "auto": read_auto,
    "decord": read_decord,
    "pyav": read_pyav,
    "torchcodec": read_torchcodec,
}


def get_decoder(name: str) -> Decoder:
    """Return the decoder of a name; ConfigError when it is unknown or cannot start here."""
    if name not in DECODERS:
        raise ConfigError(f"decoder {name!r} is unknown; {nearest(name, DECODERS)}")
    if name == "torchcodec":
        _torchcodec()
    return DECODERS[name]
