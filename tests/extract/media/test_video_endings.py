"""What a file counts and what it holds: dropped frames and edit lists are no damage, and truncated files still are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extract.media.decoders import list_packets, read_auto, read_pyav
from extract.media.frames import FramePolicy, frame_indices
from features.errors import MediaError
from tests.support.media import cut, pictures, write_clip
from tests.support.video_files import every_frame, with_edit_of

POLICY = FramePolicy("uniform", 6)
DROPPED = [number for number in range(90) if number % 3]  # times of an AVI whose writer dropped every third frame


def truth(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    frames = every_frame(path)
    return frames[frame_indices(POLICY, len(frames))]


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_an_avi_with_dropped_frames_is_whole(tmp_path: Path, codec: str) -> None:
    frames = pictures(len(DROPPED))
    path = write_clip(tmp_path / "dropped.avi", frames, codec=codec, times=DROPPED, b_frames=0)
    got = read_auto(path, POLICY)
    assert got.total == len(every_frame(path)) == len(DROPPED) < header_count(path)
    assert np.array_equal(got.frames, truth(path))


def header_count(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        return int(container.streams.video[0].frames)


@pytest.mark.parametrize("share", [0.45, 0.6, 0.9])
@pytest.mark.parametrize("times", [None, DROPPED], ids=["even", "dropped"])
def test_an_avi_that_was_cut_off_is_not(tmp_path: Path, times: list[int] | None, share: float) -> None:
    frames = pictures(len(DROPPED), size=(120, 160))
    path = write_clip(tmp_path / "whole.avi", frames, codec="mpeg4", times=times, b_frames=0)
    with pytest.raises(MediaError, match=r"cut\.avi: truncated or damaged after frame \d+"):
        read_auto(cut(path, tmp_path / "cut.avi", share), POLICY)


def test_an_avi_cut_off_between_two_frames_is_not(tmp_path: Path) -> None:
    """No packet is damaged then; the file's own size tells."""
    path = write_clip(tmp_path / "whole.avi", pictures(60), codec="mpeg4", times=DROPPED, b_frames=0)
    content = path.read_bytes()
    at = content.rindex(b"00dc", 0, content.rindex(b"idx1") - 2000)
    (tmp_path / "cut.avi").write_bytes(content[:at])
    with pytest.raises(MediaError, match=r"cut\.avi: truncated or damaged after frame \d+ of 90; fetch it again"):
        read_auto(tmp_path / "cut.avi", POLICY)


def test_an_avi_with_a_hole_is_not(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "hole.avi", pictures(60, size=(120, 160)), codec="mpeg4", times=DROPPED, b_frames=0)
    content = bytearray(path.read_bytes())
    half, tenth = len(content) // 2, len(content) // 10
    content[half : half + tenth] = bytes(tenth)
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"hole\.avi: truncated or damaged after frame \d+ of 60; fetch it again"):
        read_auto(path, POLICY)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
@pytest.mark.parametrize("seconds", [0.2, 1.0, 1.4, 2.32])
@pytest.mark.parametrize("front", [False, True])
def test_an_edit_list_that_ends_early_shows_what_it_says(
    tmp_path: Path, codec: str, seconds: float, front: bool
) -> None:
    """60 frames of 25 a second with a key frame every 12: where it ends, whole groups leave the index."""
    options = {"movflags": "faststart"} if front else {}
    whole = write_clip(tmp_path / "whole.mp4", pictures(60), codec=codec, options=options)
    path = with_edit_of(whole, tmp_path / "edited.mp4", seconds)
    expected = every_frame(path)
    for read in (read_auto, read_pyav):
        got = read(path, POLICY)
        assert got.total == len(expected) == round(25 * seconds)
        assert np.array_equal(got.frames, truth(path))
    assert np.array_equal(expected, every_frame(whole)[: len(expected)])


@pytest.mark.parametrize("share", [0.3, 0.55])
def test_an_edited_mp4_that_was_cut_off_is_refused_where_it_shows(tmp_path: Path, share: float) -> None:
    """The edit shows the first 1.4 of 2.4 s; what lies behind is not missed."""
    options = {"movflags": "faststart"}
    whole = write_clip(tmp_path / "whole.mp4", pictures(60, size=(120, 160)), options=options)
    path = with_edit_of(whole, tmp_path / "edited.mp4", 2.3)
    with pytest.raises(MediaError, match=r"cut\.mp4: truncated or damaged after frame \d+ of \d+; fetch it again"):
        read_auto(cut(path, tmp_path / "cut.mp4", share), POLICY)


def test_a_fragmented_mp4_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"}
    whole = write_clip(tmp_path / "whole.mp4", pictures(60, size=(120, 160)), options=options)
    for share in (0.35, 0.5, 0.7):
        with pytest.raises(MediaError, match=r"cut\.mp4: truncated or damaged after frame \d+"):
            read_auto(cut(whole, tmp_path / "cut.mp4", share), POLICY)


def test_an_index_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    """The table of sizes counts 60 packets; that of chunks, damaged, places fewer."""
    path = write_clip(tmp_path / "clip.mp4", pictures(60))
    content = bytearray(path.read_bytes())
    at = content.index(b"stts") + 12  # entries of (count, duration)
    assert int.from_bytes(content[at : at + 4], "big") == 60
    content[at : at + 4] = (20).to_bytes(4, "big")
    path.write_bytes(content)
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        held = len(stream.index_entries)
        counted = stream.frames
    if held < counted:
        with pytest.raises(MediaError, match="truncated or damaged"):
            read_auto(path, POLICY)
    else:
        assert list_packets(path).total == held
