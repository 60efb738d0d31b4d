"""Odd video files, each with its right outcome: frames by plain decoding from the start, near to what was drawn; or why
there are none.

What they are made of: `pictures`, of which every frame looks different. A frame is right if it equals the one that
plain decoding gives, and its nearest among all drawn frames is the one of its number.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extract.media.decoders import read_auto, read_pyav
from extract.media.frames import FramePolicy, frame_indices
from extract.media.limits import Limits
from extract.media.sandbox import read_media
from features.errors import MediaError
from tests.support.media import cut, pictures, write_sound
from tests.support.video_files import every_frame, with_edit_of, with_matrix

COUNT = 24
SMALL = (48, 64)
POLICY = FramePolicy("uniform", 5)


def write(
    path: Path,
    codec: str = "libx264",
    *,
    size: tuple[int, int] = SMALL,
    pixels: str = "yuv420p",
    format: str | None = None,  # noqa: A002
    rate: int = 25,
    count: int = COUNT,
    kind: int = 0,
    times: Sequence[int] | None = None,
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    before: Callable[[Any], None] = lambda _: None,
    after: Callable[[Any, Any], None] = lambda _, __: None,
) -> Path:
    """Encode `count` drawn frames; `before` may add streams, `after` may change the stream."""
    with av.open(str(path), "w", format=format, options=dict(container or {})) as target:
        before(target)
        stream = target.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, rate)
        stream.codec_context.gop_size = 6
        stream.codec_context.thread_count = 1
        after(target, stream)
        for number, drawn in enumerate(pictures(count, size=size, kind=kind)):
            frame = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


# ---- what must work: name -> how to write it


def container_case(suffix: str, codec: str, **given: Any) -> Callable[[Path], Path]:
    return lambda folder: write(folder / f"clip.{suffix}", codec, **given)


def _renamed(suffix: str, codec: str, name: str = "clip.mp4", **given: Any) -> Callable[[Path], Path]:
    return lambda folder: write(folder / f"clip.{suffix}", codec, **given).rename(folder / name)


def _junk_behind(folder: Path) -> Path:
    path = write(folder / "clip.mp4")
    path.write_bytes(path.read_bytes() + np.random.default_rng(0).bytes(3000))
    return path


def _zeros_behind(folder: Path) -> Path:
    path = write(folder / "clip.mkv")
    path.write_bytes(path.read_bytes() + bytes(3000))
    return path


def _cover_art(folder: Path) -> Path:
    """Write a clip whose first stream is a picture, as music shops do."""
    picture = io.BytesIO()
    Image.new("RGB", (200, 200), "red").save(picture, "JPEG")

    def before(target: Any) -> None:
        stream = target.add_stream("mjpeg", rate=1)
        stream.height, stream.width, stream.pix_fmt = 200, 200, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        folder_streams.append(stream)

    def after(target: Any, _: Any) -> None:
        packet = av.Packet(picture.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = folder_streams[0], 0, 0, True
        target.mux(packet)

    folder_streams: list[Any] = []
    return write(folder / "clip.mp4", before=before, after=after)


def _two_videos(folder: Path) -> Path:
    """Write a clip with a second, smaller and shorter video behind the first."""
    second: list[Any] = []

    def after(target: Any, _: Any) -> None:
        stream = target.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        second.append(stream)
        for drawn in pictures(6, size=(32, 32), kind=3):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(drawn, format="rgb24")))
        target.mux(stream.encode(None))

    return write(folder / "clip.mp4", after=after)


def _with_sound(folder: Path) -> Path:
    """Write a clip whose sound begins before its picture and goes on behind it."""

    def after(target: Any, _: Any) -> None:
        stream = target.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        target.mux(stream.encode(sound))
        target.mux(stream.encode(None))

    return write(folder / "clip.mp4", after=after)


def _elementary(codec: str, form: str) -> Callable[[Path], Path]:
    """Write a bare stream without a container: its packets carry no times."""
    return lambda folder: write(folder / f"clip.{form}", codec, format=form).rename(folder / "clip.mp4")


def _tagged(after: Callable[[Any, Any], None], suffix: str = "mp4", **given: Any) -> Callable[[Path], Path]:
    return lambda folder: write(folder / f"clip.{suffix}", after=after, **given)


def _wide_pixels(_: Any, stream: Any) -> None:
    stream.codec_context.sample_aspect_ratio = Fraction(4, 3)


def _full_range(_: Any, stream: Any) -> None:
    stream.codec_context.color_range = 2


def _animated(form: str, suffix: str) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        images = [Image.fromarray(drawn) for drawn in pictures(COUNT, size=SMALL)]
        images[0].save(folder / f"clip.{suffix}", form, save_all=True, append_images=images[1:], duration=40, loop=0)
        return folder / f"clip.{suffix}"

    return made


WORKING: dict[str, Callable[[Path], Path]] = {
    "mp4, index behind": container_case("mp4", "libx264"),
    "mp4, index in front": container_case("mp4", "libx264", container={"movflags": "faststart"}),
    "mp4, fragments": container_case("mp4", "libx264", container={"movflags": "frag_keyframe+empty_moov"}),
    "mp4, a fragment per frame": container_case(
        "mp4", "libx264", container={"movflags": "frag_every_frame+empty_moov"}
    ),
    "mp4, hevc": container_case("mp4", "libx265", options={"x265-params": "log-level=none:pools=none:frame-threads=1"}),
    "mp4, mpeg-4": container_case("mp4", "mpeg4"),
    "mov, prores": container_case("mov", "prores_ks", pixels="yuv422p10le"),
    "mov, qtrle with alpha": container_case("mov", "qtrle", pixels="argb"),
    "mov, png": container_case("mov", "png", pixels="rgb24"),
    "mkv, ffv1": container_case("mkv", "ffv1"),
    "mkv, raw": container_case("mkv", "rawvideo"),
    "mkv, vp8": container_case("mkv", "libvpx"),
    "mkv, mpeg-2": container_case("mkv", "mpeg2video"),
    "webm, vp9": container_case("webm", "libvpx-vp9"),
    "webm, vp9 with alpha": container_case("webm", "libvpx-vp9", pixels="yuva420p"),
    "avi, mpeg-4": container_case("avi", "mpeg4"),
    "avi, motion jpeg": container_case("avi", "mjpeg", pixels="yuvj420p"),
    "avi, raw": container_case("avi", "rawvideo", pixels="bgr24"),
    "flv, flash": container_case("flv", "flv"),
    "flv, h264": container_case("flv", "libx264"),
    "ts": container_case("ts", "libx264"),
    "ts, mpeg-2": container_case("ts", "mpeg2video"),
    "mpg": container_case("mpg", "mpeg2video"),
    "mpg, mpeg-1": container_case("mpg", "mpeg1video"),
    "ogv": container_case("ogv", "libvpx"),
    "wmv": container_case("wmv", "wmv2"),
    "3gp": container_case("3gp", "h263", size=(96, 128)),
    "nut": container_case("nut", "mpeg4"),
    "mxf": container_case("mxf", "mpeg2video", size=(96, 128)),
    "gif": _animated("GIF", "gif"),
    "apng called mp4": lambda folder: _animated("PNG", "png")(folder).rename(folder / "clip.mp4"),
    "y4m called mp4": _renamed("y4m", "wrapped_avframe"),
    "ivf called mp4": _renamed("ivf", "libvpx"),
    "mkv called mp4": _renamed("mkv", "libx264"),
    "mp4 called avi": _renamed("mp4", "libx264", "clip.avi"),
    "avi called webm": _renamed("avi", "mpeg4", "clip.webm"),
    "ts called mp4": _renamed("ts", "libx264"),
    "bare h264": _elementary("libx264", "h264"),
    "bare mpeg-4": _elementary("mpeg4", "m4v"),
    "yuv444": container_case("mp4", "libx264", pixels="yuv444p"),
    "yuv422": container_case("mp4", "libx264", pixels="yuv422p"),
    "10 bits": container_case("mp4", "libx264", pixels="yuv420p10le"),
    "10 bits, ffv1": container_case("mkv", "ffv1", pixels="yuv420p10le"),
    "12 bits, ffv1": container_case("mkv", "ffv1", pixels="yuv420p12le"),
    "rgb, h264": container_case("mp4", "libx264rgb", pixels="rgb24"),
    "rgb, 16 bits": container_case("mkv", "ffv1", pixels="gbrp16le"),
    "interlaced": container_case("mp4", "libx264", options={"flags": "+ilme+ildct", "x264-params": "tff=1"}),
    "interlaced, mpeg-2": container_case("mpg", "mpeg2video", options={"flags": "+ilme+ildct"}),
    "17 x 33": container_case("mkv", "ffv1", size=(33, 17), pixels="yuv444p"),
    "17 x 33, h264": container_case("mp4", "libx264", size=(33, 17), pixels="yuv444p"),
    "19 x 21, vp9": container_case("webm", "libvpx-vp9", size=(21, 19)),
    "16 wide": container_case("mp4", "libx264", size=(16, 16)),
    "24 wide, vp9": container_case("webm", "libvpx-vp9", size=(16, 24)),
    "uneven times": container_case("mp4", "libx264", times=[n + 3 * (n // 5) for n in range(COUNT)]),
    "a long last frame": container_case("mkv", "libx264", times=[*range(COUNT - 1), COUNT + 100]),
    "a late start": container_case("mp4", "libx264", times=[n + 250 for n in range(COUNT)]),
    "a late start, mkv": container_case("mkv", "libx264", times=[n + 250 for n in range(COUNT)]),
    "negative times, nut": container_case("nut", "mpeg4", times=[n - 10 for n in range(COUNT)]),
    "dropped frames": container_case("avi", "mpeg4", times=[2 * n for n in range(COUNT)]),
    "1000 frames a second": container_case("mp4", "libx264", rate=1000),
    "1 frame a second": container_case("mkv", "libx264", rate=1),
    "wide pixels": _tagged(_wide_pixels),
    "full range": _tagged(_full_range),
    "full range, vp9": _tagged(_full_range, "webm", codec="libvpx-vp9"),
    "cover art first": _cover_art,
    "two videos": _two_videos,
    "sound on both sides": _with_sound,
    "junk behind": _junk_behind,
    "zeros behind": _zeros_behind,
    "refreshed bit by bit": container_case(
        "mp4", "libx264", options={"x264-params": "intra-refresh=1:bframes=0:keyint=6"}
    ),
    "open groups": container_case(
        "mp4", "libx264", options={"x264-params": "open-gop=1:bframes=3:keyint=6:min-keyint=6"}
    ),
}


def nearest(frame: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> int:
    return int(np.abs(drawn.astype(np.int16) - frame).mean(axis=(1, 2, 3)).argmin())


@pytest.mark.parametrize("name", list(WORKING))
def test_what_must_work(tmp_path: Path, name: str) -> None:
    path = WORKING[name](tmp_path)
    truth = every_frame(path)
    drawn = pictures(COUNT, size=truth.shape[1:3])
    assert len(truth) == COUNT
    numbers = frame_indices(POLICY, COUNT)
    for read in (read_auto, read_pyav):
        got = read(path, POLICY)
        assert got.total == COUNT
        assert np.array_equal(got.frames, truth[numbers]), read.name
    assert [nearest(frame, drawn) for frame in got.frames] == numbers.tolist()
    assert np.abs(got.frames.astype(int) - drawn[numbers]).mean() < 12


# ---- what works in part, or not: name -> how to write it, what is right


def _first_not_key(folder: Path) -> Path:
    """Cut the front off a transport stream: it begins amid a group of pictures."""
    path = write(folder / "clip.ts", size=(96, 128))
    content = path.read_bytes()
    path.write_bytes(content[: 3 * 188] + content[188 * (len(content) // 188 // 8) :])
    return path


def _one_by_one(folder: Path) -> Path:
    return write(folder / "clip.mov", "png", size=(1, 1), pixels="rgb24")


def _still(folder: Path) -> Path:
    Image.fromarray(pictures(1, size=SMALL)[0]).save(folder / "clip.jpg")
    return (folder / "clip.jpg").rename(folder / "clip.mp4")


def test_what_begins_amid_a_group_is_read_from_its_first_whole_frame(tmp_path: Path) -> None:
    path = _first_not_key(tmp_path)
    truth = every_frame(path)
    assert 0 < len(truth) < COUNT
    got = read_auto(path, POLICY)
    assert got.total == len(truth)
    assert np.array_equal(got.frames, truth[frame_indices(POLICY, len(truth))])


def test_the_smallest_pictures(tmp_path: Path) -> None:
    got = read_auto(_one_by_one(tmp_path), POLICY)
    drawn = every_frame(tmp_path / "clip.mov")
    assert got.frames.shape == (5, 1, 1, 3)
    assert np.array_equal(got.frames, drawn[frame_indices(POLICY, COUNT)])


def test_a_picture_called_mp4_is_a_clip_of_one(tmp_path: Path) -> None:
    got = read_auto(_still(tmp_path), POLICY)
    assert got.total == 1
    assert np.abs(got.frames[4].astype(int) - pictures(1, size=SMALL)[0]).mean() < 12


def test_frames_before_time_zero_are_not_shown(tmp_path: Path) -> None:
    """By its edit list: an MP4 begins at 0."""
    path = write(tmp_path / "clip.mp4", times=[number - 10 for number in range(COUNT)])
    truth, drawn = every_frame(path), pictures(COUNT, size=SMALL)
    assert len(truth) == COUNT - 10
    got = read_auto(path, POLICY)
    numbers = frame_indices(POLICY, len(truth))
    assert np.array_equal(got.frames, truth[numbers])
    assert [nearest(frame, drawn) for frame in got.frames] == (10 + numbers).tolist()


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_grey_clips(tmp_path: Path, codec: str) -> None:
    got = read_auto(write(tmp_path / "clip.mkv", codec, pixels="gray"), POLICY)
    assert np.array_equal(got.frames, every_frame(tmp_path / "clip.mkv")[frame_indices(POLICY, COUNT)])
    assert (got.frames == got.frames[..., :1]).all()
    grey = pictures(COUNT, size=SMALL)[frame_indices(POLICY, COUNT)] @ [0.299, 0.587, 0.114]
    assert np.abs(got.frames[..., 0] - grey).mean() < 6


def test_a_rotated_clip_of_odd_size(tmp_path: Path) -> None:
    straight = write(tmp_path / "clip.mp4", size=(33, 17), pixels="yuv444p")
    got = read_auto(with_matrix(straight, tmp_path / "turned.mp4", (0, 1, 1, 0)), POLICY)
    expected = every_frame(straight)[frame_indices(POLICY, COUNT)].swapaxes(1, 2)
    assert np.array_equal(got.frames, expected)


@pytest.mark.parametrize("read", [read_auto, read_pyav], ids=["auto", "pyav"])
@pytest.mark.parametrize(("suffix", "form"), [("h264", "h264"), ("mp4", "h264")])
def test_a_change_of_size_on_the_way_is_said(tmp_path: Path, suffix: str, form: str, read: Any) -> None:
    parts = [write(tmp_path / f"part.{form}", format=form, size=size) for size in [(48, 64)]]
    content = parts[0].read_bytes() + write(tmp_path / f"other.{form}", format=form, size=(64, 96)).read_bytes()
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(content)
    said = rf"^clip\.{suffix}: its frames change from 64x48 to 96x64 pixels; convert it to one size$"
    with pytest.raises(MediaError, match=said):
        read(path, POLICY)
    with pytest.raises(MediaError, match=said):
        read_media(path, Limits(), policies=["uniform:5"])


def _noise(folder: Path) -> Path:
    (folder / "clip.mp4").write_bytes(np.random.default_rng(1).bytes(20000))
    return folder / "clip.mp4"


def _text(content: str) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        (folder / "clip.mp4").write_text(content)
        return folder / "clip.mp4"

    return made


def _short(suffix: str, codec: str, share: float = 0.6, **given: Any) -> Callable[[Path], Path]:
    return lambda folder: cut(
        write(folder / f"whole.{suffix}", codec, size=(96, 128), **given), folder / f"clip.{suffix}", share
    )


FAILING: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (_text(""), "the file is empty"),
    "noise": (_noise, "Invalid data|no video"),
    "a web page": (_text("<!DOCTYPE html><html>404</html>" * 30), "Invalid data"),
    "subtitles": (_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n\n" * 3), "not a known video format"),
    "a playlist": (_text("#EXTM3U\nother.mp4\n"), "may name other files"),
    "sound alone": (lambda folder: write_sound(folder / "clip.mp4"), "it holds no video stream"),
    "sound alone, called mkv": (
        lambda folder: write_sound(folder / "a.mp4").rename(folder / "clip.mkv"),
        "it holds no video stream",
    ),
    "an edit of no length": (
        lambda folder: with_edit_of(write(folder / "clip.mp4"), folder / "none.mp4", 0),
        "the clip has 0 frames",
    ),
    "mp4, cut, index behind": (_short("mp4", "libx264"), "Invalid data"),
    "mp4, cut, index in front": (
        _short("mp4", "libx264", container={"movflags": "faststart"}),
        "truncated or damaged after frame .* of 24",
    ),
    "avi, cut": (_short("avi", "mpeg4", 0.8), "truncated or damaged after frame"),
    "mov, cut": (_short("mov", "prores_ks", pixels="yuv422p10le"), "Invalid data"),
    "flv, cut in a frame": (_short("flv", "libx264"), "truncated or damaged after frame"),
    "ivf, cut": (_short("ivf", "libvpx"), "truncated or damaged after frame"),
    "only a head": (_short("mkv", "libx264", share=0.02), "Invalid data|no video|0 frames|Input/output error"),
}


@pytest.mark.parametrize("name", list(FAILING))
def test_what_must_fail_says_why(tmp_path: Path, name: str) -> None:
    make, reason = FAILING[name]
    path = make(tmp_path)
    for read in (read_auto, read_pyav):
        with pytest.raises(MediaError, match=reason) as caught:
            read(path, POLICY)
        assert str(caught.value).startswith(f"{path.name}: ")
        assert "\n" not in str(caught.value)
