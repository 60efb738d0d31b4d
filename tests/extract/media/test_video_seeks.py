"""PyAV goes from key frame to key frame, and every frame is still the true one; long clips are read in places only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.media.decoders import PacketList, list_packets, read_auto, read_decord, read_pyav
from extract.media.decoding import pyav, sparse
from extract.media.decoding.sparse import Around, survey
from extract.media.frames import FramePolicy, frame_indices
from tests.support.media import pictures, write_clip
from tests.support.video_files import every_frame

COUNT = 120


def written(path: Path, kind: str) -> Path:
    """Write a clip of 120 frames, a key frame every 10."""
    frames = pictures(COUNT)
    uneven = [number + 3 * (number // 7) for number in range(COUNT)]
    name = kind.split(".")[0]
    if name == "refresh":  # no whole picture after the first: a column at a time
        return encoded(path, frames, {"x264-params": "intra-refresh=1:bframes=0:keyint=10"})
    if name == "open":
        return encoded(path, frames, {"x264-params": "open-gop=1:bframes=3:keyint=10:min-keyint=10:scenecut=0"})
    settings: dict[str, dict[str, Any]] = {
        "closed": {},
        "plain": {"b_frames": 0},
        "hevc": {"codec": "libx265"},
        "uneven": {"times": uneven},
        "mpeg4": {"codec": "mpeg4"},
        "ffv1": {"codec": "ffv1"},
        "vp9": {"codec": "libvpx-vp9"},
        "vp8": {"codec": "libvpx"},
        "single": {"keyframes": 1},
    }
    return write_clip(path, frames, **({"keyframes": 10} | settings[name]))


def encoded(path: Path, frames: np.ndarray[Any, np.dtype[np.uint8]], options: dict[str, str]) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


KINDS = [
    *("closed.mp4", "closed.mkv", "plain.mp4", "hevc.mp4", "hevc.mkv", "uneven.mp4", "uneven.mkv", "mpeg4.mp4"),
    *("ffv1.mkv", "vp9.webm", "vp8.webm", "single.mp4", "open.mp4", "open.mkv", "refresh.mp4", "refresh.mkv"),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("seeks")
    return {kind: written(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def truths(clips: dict[str, Path]) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    return {kind: every_frame(path) for kind, path in clips.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["uniform:1", "uniform:3", "uniform:7", "middle:5", "middle:6x17", "uniform:120"])
@pytest.mark.parametrize("long", [False, True])
def test_every_frame_is_the_true_one(
    clips: dict[str, Path],
    truths: dict[str, np.ndarray[Any, np.dtype[np.uint8]]],
    kind: str,
    text: str,
    long: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from extract.media.frames import parse_frame_policy

    if long:
        monkeypatch.setattr(sparse, "MANY", 1)
    policy, truth = parse_frame_policy(text), truths[kind]
    assert len(truth) == COUNT
    for read in (read_pyav, read_auto):
        got = read(clips[kind], policy)
        assert got.total == COUNT
        assert np.array_equal(got.frames, truth[frame_indices(policy, COUNT)]), read.name


@given(kind=st.sampled_from(KINDS), numbers=st.sets(st.integers(0, COUNT - 1), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_any_set_of_frames(
    clips: dict[str, Path],
    truths: dict[str, np.ndarray[Any, np.dtype[np.uint8]]],
    kind: str,
    numbers: set[int],
) -> None:
    packets = list_packets(clips[kind])
    wanted = np.array(sorted(numbers))
    steps = packets.steps(wanted)
    assert steps is not None
    found = list(pyav._by_steps(clips[kind], packets.stream, steps, packets.key(0)))
    assert np.array_equal(np.stack(found), truths[kind][wanted])


def decoded_frames(path: Path, policy: FramePolicy, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many packets PyAV decodes to read a policy's frames."""
    count = 0
    original = pyav._Cursor._decoded

    def counting(cursor: Any, key: Any) -> Any:
        nonlocal count
        for frame in original(cursor, key):
            count += 1
            yield frame

    with monkeypatch.context() as patch:
        patch.setattr(pyav._Cursor, "_decoded", counting)
        read_pyav(path, policy)
    return count


@pytest.mark.parametrize("kind", ["closed.mp4", "closed.mkv", "plain.mp4", "vp9.webm", "hevc.mp4", "single.mp4"])
def test_only_what_a_frame_needs_is_decoded(clips: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three frames in groups of ten: at most two groups and what a decoder holds back for each, not 100 frames."""
    assert decoded_frames(clips[kind], FramePolicy("uniform", 3), monkeypatch) <= 3 * 22
    assert decoded_frames(clips[kind], FramePolicy("uniform", 120), monkeypatch) <= COUNT + 5


def test_neighbouring_frames_are_decoded_in_one_go(clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoded_frames(clips["closed.mp4"], FramePolicy("middle", 5), monkeypatch) <= 20


@pytest.mark.parametrize("kind", ["refresh.mp4", "refresh.mkv", "open.mp4", "open.mkv"])
def test_key_frames_that_are_none_are_kept_from_decord(
    clips: dict[str, Path], truths: dict[str, np.ndarray[Any, np.dtype[np.uint8]]], kind: str
) -> None:
    """The reason: it starts from them and gives smeared frames without a word."""
    assert not list_packets(clips[kind]).ordinary
    if kind.startswith("refresh"):
        seen = read_decord(clips[kind], FramePolicy("uniform", 7)).frames
        assert not np.array_equal(seen, truths[kind][frame_indices(FramePolicy("uniform", 7), COUNT)])


def test_a_long_clip_is_read_in_places(clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "MANY", 100)
    policy = FramePolicy("uniform", 3)
    for kind in ("closed.mp4", "plain.mp4", "single.mp4", "uneven.mp4"):
        around, listed = survey(clips[kind], policy), list_packets(clips[kind])
        assert isinstance(around, Around), kind
        assert around.total == COUNT
        assert [step.pts for step in around.steps] == [
            step.pts for step in listed.steps(frame_indices(policy, COUNT)) or []
        ]
    for kind in (
        "open.mp4",
        "refresh.mp4",
        "mpeg4.mp4",
        "hevc.mp4",
        "closed.mkv",
        "vp9.webm",
    ):  # a doubt is left, or the index is not enough
        assert isinstance(survey(clips[kind], policy), PacketList), kind
    monkeypatch.setattr(sparse, "MANY", COUNT + 1)
    assert isinstance(survey(clips["closed.mp4"], policy), PacketList)


def test_an_index_that_leads_astray_costs_time_only(
    clips: dict[str, Path],
    truths: dict[str, np.ndarray[Any, np.dtype[np.uint8]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a container's seek lands behind what was asked for."""
    policy = FramePolicy("uniform", 4)
    original = pyav._Cursor.jump

    def astray(cursor: Any, key: Any) -> None:
        original(cursor, key._replace(target=key.target + 10**6) if key.place else key)

    monkeypatch.setattr(pyav._Cursor, "jump", astray)
    for kind in ("closed.mp4", "closed.mkv", "hevc.mp4"):
        assert np.array_equal(read_pyav(clips[kind], policy).frames, truths[kind][frame_indices(policy, COUNT)])
