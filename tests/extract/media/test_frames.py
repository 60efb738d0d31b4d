"""Frame policies: pure functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from extract.encoders.inputs import PixelInput
from extract.encoders.preprocess import Inputs, View
from extract.media.frames import MAX_FRAMES, FramePolicy, FrameUnion, frame_indices, parse_frame_policy
from features.errors import ConfigError, MediaError

counts = st.integers(1, MAX_FRAMES)
totals = st.integers(1, 100_000)


@pytest.mark.parametrize("total", [5, 6, 9, 10, 300])
def test_middle_five_are_the_papers(total: int) -> None:
    half = total // 2
    expected = [half - 2, half - 1, half, half + 1, half + 2]
    assert frame_indices(FramePolicy("middle", 5), total).tolist() == expected


def test_stride_spreads_around_the_middle() -> None:
    assert frame_indices(FramePolicy("middle", 4, 10), 100).tolist() == [30, 40, 50, 60]


def test_uniform_takes_centres_of_equal_segments() -> None:
    assert frame_indices(FramePolicy("uniform", 4), 100).tolist() == [12, 37, 62, 87]
    assert frame_indices(FramePolicy("uniform", 3), 3).tolist() == [0, 1, 2]


def test_short_clips_repeat_edge_frames() -> None:
    assert frame_indices(FramePolicy("middle", 5), 2).tolist() == [0, 0, 1, 1, 1]
    assert frame_indices(FramePolicy("uniform", 4), 2).tolist() == [0, 0, 1, 1]


@given(counts, st.integers(1, 50), totals)
def test_middle_stays_inside_and_in_order(count: int, stride: int, total: int) -> None:
    indices = frame_indices(FramePolicy("middle", count, stride), total)
    assert indices.shape == (count,)
    assert indices.dtype == np.int64
    assert 0 <= indices.min() <= total // 2
    assert indices.max() < total
    assert total // 2 in indices
    steps = np.diff(indices)
    assert ((steps >= 0) & (steps <= stride)).all()
    if (count - 1) * stride < total - stride:  # it fits: nothing is clamped
        assert (steps == stride).all()


@given(counts, totals)
def test_uniform_is_even_and_centred(count: int, total: int) -> None:
    indices = frame_indices(FramePolicy("uniform", count), total)
    assert indices.shape == (count,)
    centres = (np.arange(count) + 0.5) * total / count
    assert (np.abs(indices - centres) <= 1).all()
    assert indices.min() >= 0
    assert indices.max() < total


@given(st.sampled_from(["middle", "uniform"]), counts, st.integers(1, 20))
def test_policies_read_their_own_text(kind: str, count: int, stride: int) -> None:
    policy = FramePolicy(kind, count, stride if kind == "middle" else 1)  # type: ignore[arg-type]
    assert parse_frame_policy(str(policy)) == policy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "middle",
        "middle:",
        "middle:0",
        "middle:-3",
        "uniform:4x2",
        "middle:5x0",
        "last:3",
        "middle:9999",
        "uniform:1e3",
    ],
)
def test_wrong_policies_are_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="frame policy"):
        parse_frame_policy(text)


def test_a_clip_without_frames_is_a_media_error() -> None:
    with pytest.raises(MediaError, match="0 frames"):
        frame_indices(FramePolicy("middle", 5), 0)


def test_a_policy_that_repeats_frames_is_not_taken_for_the_union() -> None:
    """On 8 frames `middle:4x8` wants 0, 0, 4, 7, and four different frames are read for both."""
    policies = (parse_frame_policy("middle:4x8"), parse_frame_policy("middle:2"))
    union = FrameUnion(policies)
    numbers = frame_indices(union, 8)
    assert len(numbers) == policies[0].count
    frames = torch.from_numpy(numbers.astype(np.uint8))[:, None, None, None].expand(-1, 4, 4, 3)
    inputs = PixelInput(4, 4, (0.5,) * 3, (0.5,) * 3)
    for policy in policies:
        maker = Inputs(View(inputs, policy, cropped=True), union, 8, "cpu")
        for part in frames.split(3):  # some of whose parts hold none of a policy's frames
            maker.take(part)
        assert maker.finish()[:, 0, 0, 0].tolist() == frame_indices(policy, 8).tolist()
