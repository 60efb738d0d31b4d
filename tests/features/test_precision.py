"""Small stores: what rounding keeps, what it costs, and which rows it cannot hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from features.errors import ConfigError
from features.precision import DISK_TYPES, Stored, cosine_error, summary, to_disk, to_float32

any_floats = st.floats(width=32)
plain_floats = st.floats(-1e6, 1e6, width=32)
shapes = array_shapes(min_dims=2, max_dims=3, max_side=6)
anything = arrays(np.float32, shapes, elements=any_floats)
finite = arrays(np.float32, shapes, elements=plain_floats)


def back(stored: Stored) -> NDArray[np.float32]:
    return to_float32(stored.values, stored.scales)


def flat(array: NDArray[Any]) -> NDArray[np.float64]:
    return array.reshape(len(array), -1).astype(np.float64)


@settings(deadline=None)
@given(vectors=anything, dtype=st.sampled_from(list(DISK_TYPES)))
def test_rows_are_finite_exactly_where_they_are_good(vectors: NDArray[np.float32], dtype: str) -> None:
    before = vectors.copy()
    stored = to_disk(vectors, dtype)
    np.testing.assert_array_equal(vectors, before)  # the caller's array is left alone
    assert stored.values.dtype == DISK_TYPES[dtype]
    assert stored.values.shape == vectors.shape
    read = flat(back(stored))
    np.testing.assert_array_equal(np.isfinite(read).all(axis=1), stored.good)
    assert np.isnan(read[~stored.good]).all()
    limit = 65504 if dtype == "float16" else 3.4028e38
    sound = np.isfinite(flat(vectors)).all(axis=1)
    assert not (stored.good & ~sound).any()
    assert stored.good[sound & (np.abs(flat(vectors)).max(axis=1) <= limit)].all()


@settings(deadline=None)
@given(vectors=finite | arrays(np.float32, shapes, elements=st.floats(0, 2.0**-118, width=32)))
@example(vectors=np.array([[1.3895448e-36], [1.4930e-36], [5.7e-39], [6e-39]], np.float32))
def test_int8_is_off_by_half_a_step_at_most(vectors: NDArray[np.float32]) -> None:
    stored = to_disk(vectors, "int8")
    assert stored.scales is not None
    peaks = np.abs(flat(vectors)).max(axis=1)
    smallest = float(np.finfo(np.float32).tiny)
    scales = np.where(peaks == 0, 0, np.maximum(peaks / 127, smallest))
    np.testing.assert_allclose(stored.scales, scales, rtol=1e-6)
    off = np.abs(flat(back(stored)) - flat(vectors)).max(axis=1)
    assert (off <= 0.5001 * scales).all()
    levels = np.abs(stored.values.astype(int)).reshape(len(vectors), -1).max(axis=1)
    assert (levels[peaks > 127 * smallest] == 127).all()
    assert (levels[peaks < 5.8e-39] == 0).all()


@settings(deadline=None)
@given(vectors=finite, dtype=st.sampled_from(list(DISK_TYPES)))
def test_the_error_is_one_minus_the_cosine_of_what_is_read(vectors: NDArray[np.float32], dtype: str) -> None:
    stored = to_disk(vectors, dtype)
    got = cosine_error(vectors, stored)
    for row, error in enumerate(got):
        a, b = flat(vectors)[row], flat(back(stored))[row] if stored.good[row] else None
        if b is None:
            assert np.isnan(error)
        elif a.any() and b.any():
            scaled_a, scaled_b = a / np.abs(a).max(), b / np.abs(b).max()
            cosine = scaled_a @ scaled_b / np.sqrt((scaled_a @ scaled_a) * (scaled_b @ scaled_b))
            assert error == pytest.approx(1 - cosine, abs=1e-9)
        else:
            assert error == float(a.any() != b.any())


@settings(deadline=None)
@given(vectors=finite, factor=st.sampled_from([2.0**n for n in (-9, -1, 3, 12)]))
def test_int8_does_not_depend_on_a_rows_length(vectors: NDArray[np.float32], factor: float) -> None:
    peaks = np.abs(flat(vectors)).max(axis=1)
    assume(((peaks == 0) | (peaks > 1e-30)).all())
    np.testing.assert_array_equal(to_disk(vectors, "int8").values, to_disk(vectors * np.float32(factor), "int8").values)


def test_zero_tiny_huge_and_broken_rows() -> None:
    rows = np.array([[0, 0], [1e-40, 0], [3e38, -3e38], [np.nan, 1], [np.inf, 1], [1e5, 1]], np.float32)
    eight, half = to_disk(rows, "int8"), to_disk(rows, "float16")
    assert eight.scales is not None
    assert eight.good.tolist() == [True, True, True, False, False, True]
    assert half.good.tolist() == [True, True, False, False, False, False]
    assert eight.scales[0] == 0
    assert np.isnan(eight.scales[[3, 4]]).all()
    assert eight.values[[0, 3, 4]].tolist() == [[0, 0], [0, 0], [0, 0]]
    np.testing.assert_allclose(cosine_error(rows, eight)[[0, 1, 2]], [0, 1, 0], atol=1e-12)
    assert np.isnan(cosine_error(rows, half)[2:]).all()


def test_an_outlier_costs_the_other_numbers_of_its_row() -> None:
    """What int8 per row is bad at, in figures: one number 100 times the others leaves them about one step each."""
    rows = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    even = cosine_error(rows, to_disk(rows, "int8")).mean()
    rows[:, 0] = 300
    one_off = flat(rows)[:, 1:], flat(back(to_disk(rows, "int8")))[:, 1:]
    lost = np.linalg.norm(one_off[0] - one_off[1], axis=1) / np.linalg.norm(one_off[0], axis=1)
    assert even < 1e-4
    assert lost.mean() > 0.3


def test_summaries_leave_out_what_is_not_known() -> None:
    assert summary(np.array([np.nan, 0.5, 0.25], np.float32)) == (2, 0.375, 0.5)
    assert summary(np.array([np.nan], np.float32)) is None
    assert summary(np.array([], np.float32)) is None


def test_unknown_types_are_refused() -> None:
    with pytest.raises(ConfigError, match="dtype 'int4' cannot be stored; choose float16, float32 or int8"):
        to_disk(np.ones((1, 1), np.float32), "int4")
