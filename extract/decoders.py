"""Reading frames and covers. All decoders seek exactly: the same file and policy give the same frames.

decord is the default for ordinary files. It cannot open some codecs (AV1) and misplaces frames of some files; PyAV,
with its own FFmpeg, takes those over in 'auto'.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.frames import FramePolicy, frame_indices
from features.errors import ConfigError, MediaError, nearest

Pixels = NDArray[np.uint8]
Decoder = Callable[[Path, FramePolicy], Pixels]


def get_decoder(name: str) -> Decoder:
    """Return a decoder by name; ConfigError offering the nearest name.

    A decoder takes a file and a policy and returns (T, H, W, 3) uint8 RGB frames, upright; it raises MediaError with a
    one-line reason for whatever is wrong with the file.
    """
    if name not in DECODERS:
        raise ConfigError(f"unknown decoder {name!r}; {nearest(name, DECODERS)}")
    return DECODERS[name]


def read_decord(path: Path, policy: FramePolicy) -> Pixels:
    """Decode with decord, one thread: many readers at once are faster than many threads in one."""
    try:
        import decord
    except ImportError as error:
        raise ConfigError("decord is not installed here; use --decoder pyav") from error
    _refuse_empty(path)
    try:
        decord.logging.set_level(decord.logging.QUIET)  # the reason goes into the row, not to the terminal
        reader = decord.VideoReader(str(path), num_threads=1)
        frames: Pixels = reader.get_batch(frame_indices(policy, len(reader))).asnumpy()
    except MediaError:
        raise
    except Exception as error:  # decord raises its own and several built-in kinds
        raise MediaError(f"decord cannot read {path.name}: {_reason(error, path)}") from error
    return frames


def read_pyav(path: Path, policy: FramePolicy) -> Pixels:
    """Decode with PyAV: list the packets' times, seek to the key frame before the first wanted one, decode on."""
    import av

    _refuse_empty(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError(f"{path.name} has no video stream")
            stream = container.streams.best("video")
            times = _frame_times(container, stream, path)
            wanted = [times[index] for index in frame_indices(policy, len(times)).tolist()]
            frames = _decode(container, stream, set(wanted), min(wanted))
            if len(frames) < len(set(wanted)):  # open groups of pictures lean on the group before: take all of them
                frames = _decode(container, stream, set(wanted), times[0])
    except MediaError:
        raise
    except Exception as error:  # FFmpeg's errors come as many built-in kinds
        raise MediaError(f"PyAV cannot read {path.name}: {_reason(error, path)}") from error
    lost = [time for time in wanted if time not in frames]
    if lost:
        raise MediaError(f"{path.name}: {len(lost)} of {len(wanted)} wanted frames do not decode")
    return np.stack([frames[time] for time in wanted])


def read_auto(path: Path, policy: FramePolicy) -> Pixels:
    """Decode with decord where the packets show that its frame numbers are right, else with PyAV."""
    _refuse_empty(path)
    if _suits_decord(path):
        with suppress(MediaError, ConfigError):
            return read_decord(path, policy)
    return read_pyav(path, policy)


def _suits_decord(path: Path) -> bool:
    """Return whether decord numbers this file's frames rightly.

    After a seek into an open group of pictures (usual in HEVC) it silently returns frames up to three places late, and
    it counts frames that an edit list hides. Packets tell both without any decoding.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    except Exception:  # whatever it is, the decoder that is used will say so
        return False
    key = None
    for packet in packets:
        if packet.is_discard or (key is not None and packet.pts < key):
            return False
        key = packet.pts if packet.is_keyframe else key
    return True


def _frame_times(container: Any, stream: Any, path: Path) -> list[int]:
    """Return presentation times of all frames, in order, from the packets alone (no decoding)."""
    packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    if stream.frames and len(packets) < stream.frames:
        raise MediaError(f"{path.name} is cut off: {len(packets)} of {stream.frames} frames are there")
    return sorted(packet.pts for packet in packets if not packet.is_discard)


def _decode(container: Any, stream: Any, wanted: set[int], start: int) -> dict[int, Pixels]:
    """Return the frames at the wanted times, upright, decoding from the key frame before time `start`."""
    container.seek(start, stream=stream, backward=True)
    last = max(wanted)
    frames: dict[int, Pixels] = {}
    for frame in container.decode(stream):
        if frame.pts in wanted:
            pixels = frame.to_ndarray(format="rgb24")
            frames[frame.pts] = np.rot90(pixels, k=round(frame.rotation / 90) % 4) if frame.rotation else pixels
        if frame.pts is not None and frame.pts >= last and len(frames) == len(wanted):
            break
    return frames


DECODERS: dict[str, Decoder] = {"auto": read_auto, "decord": read_decord, "pyav": read_pyav}


def read_cover(path: Path) -> Pixels:
    """Return (H, W, 3) uint8 RGB pixels of an image file, turned as its EXIF says; MediaError with the reason."""
    from PIL import Image, ImageOps

    _refuse_empty(path)
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and its own kinds
        raise MediaError(f"cannot read cover {path.name}: {_reason(error, path)}") from error


def _refuse_empty(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise MediaError(f"{path.name} cannot be opened: {error.strerror}") from error
    if size == 0:
        raise MediaError(f"{path.name} is empty (0 bytes)")


def _reason(error: Exception, path: Path) -> str:
    """Return the first line of an exception, short, without the folder; native stack traces are left out."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).replace(str(path), path.name)[:160]
