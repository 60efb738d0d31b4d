"""Decoders: the same frames from each, the true ones, and one clear line for what cannot be read.

Tolerance: none. decord and PyAV convert yuv to rgb with the same FFmpeg code; no byte differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from extract.media.decoders import DECODERS, get_decoder, list_packets, read_auto, read_decord, read_pyav
from extract.media.decoding import pyav
from extract.media.frames import Decoder, FramePolicy, frame_indices, parse_frame_policy
from features.errors import ConfigError, MediaError
from tests.support.media import CLIPS, NO_CLIPS, cut, pictures, write_clip, write_sound

POLICIES = ["middle:5", "middle:16x4", "uniform:32"]
COUNT = 60
FRAMES = pictures(COUNT)
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=NO_CLIPS)

KINDS: dict[str, Callable[[Path], Path]] = {
    "h264.mp4": lambda path: write_clip(path, FRAMES),
    "h264.mkv": lambda path: write_clip(path, FRAMES),
    "hevc.mp4": lambda path: write_clip(path, FRAMES, codec="libx265", b_frames=0),
    "hevc-open-gop.mp4": lambda path: write_clip(path, FRAMES, codec="libx265"),
    "uneven.mp4": lambda path: write_clip(path, FRAMES, times=[number + 3 * (number // 7) for number in range(COUNT)]),
    "fragments.mp4": lambda path: write_clip(path, FRAMES, options={"movflags": "frag_keyframe+empty_moov"}),
    "first-fragment.mp4": lambda path: write_clip(path, FRAMES, options={"movflags": "frag_keyframe"}),
    "mpeg4.avi": lambda path: write_clip(path, FRAMES, codec="mpeg4"),
    "h264.avi": lambda path: write_clip(path, FRAMES),
    "h264.flv": lambda path: write_clip(path, FRAMES),
    "h264.ts": lambda path: write_clip(path, FRAMES),
    "vp9.webm": lambda path: write_clip(path, FRAMES, codec="libvpx-vp9"),
}
ORDINARY = ["h264.mp4", "h264.mkv", "hevc.mp4", "uneven.mp4", "vp9.webm"]


def usable() -> dict[str, Decoder]:
    """Return the decoders that can start here: torchcodec needs a package and FFmpeg's libraries."""
    found = dict(DECODERS)
    try:
        get_decoder("torchcodec")
    except ConfigError:
        del found["torchcodec"]
    return found


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: make(folder / name) for name, make in KINDS.items()}


def whole(path: Path) -> NDArray[np.uint8]:
    """Return every frame in the order of showing, by plain decoding from the start: the truth."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("name", list(KINDS))
def test_every_frame_is_the_true_one(clips: dict[str, Path], name: str, decoder: str, policy: str) -> None:
    truth = whole(clips[name])
    got = DECODERS[decoder](clips[name], parse_frame_policy(policy))
    assert got.total == len(truth) == COUNT
    assert (got.height, got.width) == (64, 96)
    assert got.frames.dtype == np.uint8
    assert np.array_equal(got.frames, truth[frame_indices(parse_frame_policy(policy), COUNT)])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ORDINARY)
def test_decord_equals_pyav_on_ordinary_files(clips: dict[str, Path], name: str, policy: str) -> None:
    assert list_packets(clips[name]).ordinary
    first, second = (read(clips[name], parse_frame_policy(policy)) for read in (read_decord, read_pyav))
    assert first.total == second.total
    assert np.array_equal(first.frames, second.frames)


@pytest.mark.parametrize("name", list(KINDS))
def test_torchcodec_gives_the_same_frames(clips: dict[str, Path], name: str) -> None:
    if "torchcodec" not in usable():
        pytest.skip("torchcodec or FFmpeg's shared libraries are not installed")
    for policy in map(parse_frame_policy, POLICIES):
        got = DECODERS["torchcodec"](clips[name], policy)
        assert got.total == COUNT
        assert np.array_equal(got.frames, read_pyav(clips[name], policy).frames), str(policy)


def test_torchcodec_that_cannot_start_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ConfigError, match=r"decoder 'torchcodec' cannot start .* FFmpeg's shared libraries"):
        get_decoder("torchcodec")


def test_open_gop_is_kept_from_decord(clips: dict[str, Path]) -> None:
    """The reason for the packet list: decord answers with frames two places on, without an error."""
    policy, truth = FramePolicy("uniform", 60), whole(clips["hevc-open-gop.mp4"])
    assert not list_packets(clips["hevc-open-gop.mp4"]).ordinary
    seen = read_decord(clips["hevc-open-gop.mp4"], FramePolicy("uniform", 8)).frames
    assert not np.array_equal(seen, truth[frame_indices(FramePolicy("uniform", 8), COUNT)])
    assert np.array_equal(read_auto(clips["hevc-open-gop.mp4"], policy).frames, truth)


@needs_clips
@pytest.mark.parametrize(
    ("name", "total", "size"),
    [
        ("archery.mp4", 300, (240, 320)),
        ("v_GGSY1Qvo990.mp4", 355, (240, 320)),
        ("v_ZNVhz7ctTq0.mp4", 420, (360, 480)),
        ("nasa_13013.mp4", 390, (270, 480)),
        ("nasa_13013_rotated.mp4", 17, (480, 270)),
        ("h265_video.mp4", 10, (128, 128)),
        ("av1_video.mkv", 125, (360, 640)),
        ("testsrc2_vp9.webm", 30, (720, 1280)),
    ],
)
def test_real_clips(name: str, total: int, size: tuple[int, int]) -> None:
    policy = FramePolicy("middle", 5)
    got = read_auto(CLIPS / name, policy)
    assert (got.total, got.height, got.width) == (total, *size)
    truth = whole(CLIPS / name)
    turns = 1 if "rotated" in name else 0
    assert np.array_equal(got.frames, np.rot90(truth[frame_indices(policy, total)], turns, axes=(1, 2)))
    if name not in ("h265_video.mp4", "av1_video.mkv"):
        assert np.array_equal(got.frames, read_decord(CLIPS / name, policy).frames)


@needs_clips
def test_which_real_clips_decord_may_read() -> None:
    """Decord is wrong on the open GOP of h265_video.mp4, cannot open AV1, and chooses by itself among several videos.

    What is to be turned is left to PyAV.
    """
    ordinary = {path.name for path in CLIPS.iterdir() if path.suffix != ".md" and list_packets(path).ordinary}
    every = {path.name for path in CLIPS.iterdir() if path.suffix != ".md"}
    others = {"nasa_13013.mp4", "nasa_13013_rotated.mp4"}
    assert every - ordinary == {"h265_video.mp4", "av1_video.mkv"} | others


@needs_clips
def test_decord_cannot_read_av1_and_auto_can() -> None:
    with pytest.raises(MediaError, match=r"^av1_video\.mkv: "):
        read_decord(CLIPS / "av1_video.mkv", FramePolicy("middle", 5))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_short_clips(tmp_path: Path, count: int) -> None:
    path = write_clip(tmp_path / "short.mp4", pictures(count, size=(66, 50)))
    for read in usable().values():
        got = read(path, FramePolicy("middle", 5))
        assert got.total == count
        assert got.frames.shape == (5, 66, 50, 3)


def bad_files(folder: Path) -> dict[str, Path]:
    good = write_clip(folder / "good.mp4", FRAMES)
    front = write_clip(folder / "front.mp4", FRAMES, options={"movflags": "faststart"})
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("<html>404</html>" * 50)
    (folder / "zeros.mp4").write_bytes(bytes(5000))
    return {
        "empty": folder / "empty.mp4",
        "text": folder / "text.mp4",
        "zeros": folder / "zeros.mp4",
        "no index": cut(good, folder / "cut.mp4", 0.6),
        "index first": cut(front, folder / "cutfront.mp4", 0.6),
        "sound only": write_sound(folder / "sound.mp4"),
        "absent": folder / "absent.mp4",
    }


REASONS = {
    "empty": "the file is empty",
    "text": "Invalid data",
    "zeros": "Invalid data",
    "no index": "Invalid data",
    "index first": "truncated or damaged after frame .* of 60",
    "sound only": "no video stream",
    "absent": "No such file",
}


@pytest.mark.parametrize("kind", list(REASONS))
def test_bad_files_say_why_in_one_line(tmp_path: Path, kind: str) -> None:
    path = bad_files(tmp_path)[kind]
    for name, read in usable().items():
        with pytest.raises(MediaError) as caught:
            read(path, FramePolicy("middle", 5))
        message = str(caught.value)
        assert message.startswith(f"{path.name}: ")
        assert "\n" not in message
        if name != "decord":
            with pytest.raises(MediaError, match=REASONS[kind]):
                read(path, FramePolicy("middle", 5))


@pytest.mark.parametrize("damage", ["cut", "hole"])
@pytest.mark.parametrize(("name", "codec"), [("clip.mkv", "libx264"), ("clip.webm", "libvpx-vp9")])
def test_matroska_that_ends_early_is_an_error(tmp_path: Path, name: str, codec: str, damage: str) -> None:
    """Its header counts no frames; frames of what is left would come from another part of the clip."""
    path = write_clip(tmp_path / name, FRAMES, codec=codec)
    assert read_auto(path, FramePolicy("uniform", 5)).total == len(FRAMES)
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    path.write_bytes(content[:half] + (bytes(len(content) - half) if damage == "hole" else b""))
    with pytest.raises(MediaError, match=rf"{name}: truncated or damaged at \d\.\d of 2\.4 s; fetch it again"):
        read_auto(path, FramePolicy("uniform", 5))


def test_a_wanted_frame_that_is_flagged_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken when it is sought, nor when frames are counted from the start."""
    path = write_clip(tmp_path / "clip.mp4", FRAMES)
    original = pyav.opened

    class Flagged:
        """A frame that FFmpeg says is damaged."""

        is_corrupt = True

        def __init__(self, frame: Any) -> None:
            self.pts = frame.pts

    class Container:
        """What `av.open` gives, as far as it is used."""

        def __init__(self, container: Any) -> None:
            self.streams, self.seek = container.streams, container.seek
            self._container = container

        def decode(self, stream: Any) -> Iterator[Any]:
            return map(Flagged, self._container.decode(stream))

        def demux(self, stream: Any) -> Iterator[Any]:
            for packet in self._container.demux(stream):
                frames = [Flagged(frame) for frame in packet.decode()]
                yield SimpleNamespace(pts=packet.pts, decode=lambda frames=frames: frames)

    @contextmanager
    def damaged(path: Path) -> Iterator[Container]:
        with original(path) as container:
            yield Container(container)

    packets = list_packets(path)
    monkeypatch.setattr(pyav, "opened", damaged)
    with pytest.raises(MediaError, match=r"clip\.mp4: damaged at frame \d+ of 60; fetch it again"):
        list(pyav.stream_listed(path, FramePolicy("middle", 5), packets))


def test_a_hole_inside_is_an_error_not_grey_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "hole.mp4", FRAMES, options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    start, end = int(0.5 * len(content)), int(0.7 * len(content))
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"hole\.mp4"):
        read_auto(path, FramePolicy("middle", 5))


def test_unknown_decoder_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'decord'"):
        get_decoder("decrod")
