"""Real media for the tests, made on the spot: H.264 and HEVC clips, JPEGs, and files that only look like them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "clips"
NO_CLIPS = "the real clips (../shared/data/clips) are not next to this checkout"

COLOURS = ((200, 40, 40), (40, 180, 60), (50, 60, 210), (210, 200, 60), (30, 30, 30), (220, 220, 220))


def pictures(count: int, *, size: tuple[int, int] = (64, 96), kind: int = 0) -> NDArray[np.uint8]:
    """Return (T, H, W, 3) of a box moving over a coloured ground; every frame and every kind looks different."""
    height, width = size
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    frames[:] = COLOURS[kind % len(COLOURS)]
    side = max(4, height // 4)
    for number, frame in enumerate(frames):
        left = number * (2 + kind) % (width - side)
        top = (number * 3 + 5 * kind) % (height - side)
        frame[top : top + side, left : left + side] = (number * 37 % 256, 255 - number * 11 % 256, 128)
    return frames


def write_clip(
    path: Path,
    frames: NDArray[np.uint8],
    *,
    codec: str = "libx264",
    fps: int = 25,
    keyframes: int = 12,
    b_frames: int = 2,
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
) -> Path:
    """Encode frames; `times` (ascending, in 1/fps) makes an uneven frame rate, `options` go to the container."""
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.gop_size = keyframes
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1
        if codec == "libx265":
            # no threads: with a pool of one the encoder was seen to wait for itself, once in thousands of clips
            settings = f"log-level=none:pools=none:frame-threads=1:keyint={keyframes}:bframes={b_frames}"
            stream.options = {"x265-params": settings}
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_covers(folder: Path, count: int) -> Path:
    """Write a dataset folder of small covers, named 00.png, 01.png and so on."""
    (folder / "covers").mkdir(parents=True)
    for number in range(count):
        write_cover(folder / "covers" / f"{number:02}.png", kind=number, size=(40, 40))
    return folder


def write_sound(path: Path) -> Path:
    """Write an MP4 that holds a second of silence and no video."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return path


def write_cover(path: Path, *, kind: int = 0, size: tuple[int, int] = (80, 60)) -> Path:
    """Write a coloured picture with a box in it, in the format its suffix names."""
    from PIL import Image

    Image.fromarray(pictures(1, size=size, kind=kind)[0]).save(path)
    return path


def cut(path: Path, target: Path, share: float) -> Path:
    """Write the first `share` of a file's bytes, as a broken transfer leaves them."""
    content = path.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


def jpeg(kind: int) -> bytes:
    """Return an encoded cover."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pictures(1, kind=kind)[0]).save(buffer, "JPEG")
    return buffer.getvalue()


def write_lmdb(path: Path, values: Mapping[str, bytes], *, subdir: bool = True) -> Path:
    """Write an LMDB with the bookkeeping keys of the benchmark's layouts; return its path."""
    import lmdb

    path.parent.mkdir(parents=True, exist_ok=True)
    environment = lmdb.open(str(path), map_size=2**30, subdir=subdir)
    with environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
        transaction.put(b"__keys__", pickle.dumps([b"0", b"1"]))
        transaction.put(b"__len__", pickle.dumps(2))
    environment.close()
    return path
