"""Frame policies: which frames of a video are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.frames import FramePolicy, frame_indices, parse_frame_policy
from features.errors import ConfigError, MediaError

policies = st.one_of(
    st.builds(FramePolicy, st.just("middle"), st.integers(1, 64), st.integers(1, 16)),
    st.builds(FramePolicy, st.just("uniform"), st.integers(1, 64)),
)


@given(policies, st.integers(1, 5000))
def test_indices_are_ascending_inside_and_as_many_as_asked(policy: FramePolicy, total: int) -> None:
    indices = frame_indices(policy, total).tolist()
    assert len(indices) == policy.count
    assert indices == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < total


@given(st.integers(1, 32), st.integers(1, 8), st.integers(1, 5000))
def test_middle_frames_are_evenly_apart_where_the_video_is_long_enough(count: int, stride: int, total: int) -> None:
    indices = frame_indices(FramePolicy("middle", count, stride), total)
    if total > 2 * count * stride:
        assert set((indices[1:] - indices[:-1]).tolist()) <= {stride}
        assert total // 2 in indices


def test_middle_five_are_those_of_the_paper() -> None:
    assert frame_indices(parse_frame_policy("middle:5"), 100).tolist() == [48, 49, 50, 51, 52]
    assert frame_indices(parse_frame_policy("middle:5"), 101).tolist() == [48, 49, 50, 51, 52]


def test_uniform_takes_segment_centres() -> None:
    assert frame_indices(parse_frame_policy("uniform:4"), 100).tolist() == [12, 37, 62, 87]


def test_short_videos_repeat_their_edges() -> None:
    assert frame_indices(parse_frame_policy("middle:5"), 2).tolist() == [0, 0, 1, 1, 1]
    assert frame_indices(parse_frame_policy("uniform:4"), 2).tolist() == [0, 0, 1, 1]


def test_a_video_without_frames_is_refused() -> None:
    with pytest.raises(MediaError, match="no frames"):
        frame_indices(FramePolicy("middle", 5), 0)


@given(policies)
def test_policies_read_back_from_their_text(policy: FramePolicy) -> None:
    assert parse_frame_policy(str(policy)) == policy


@pytest.mark.parametrize("text", ["", "middle", "middle:0", "middle:5x0", "uniform:8x2", "first:5", "middle:-1", "5"])
def test_other_texts_are_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match="frame policy"):
        parse_frame_policy(text)
