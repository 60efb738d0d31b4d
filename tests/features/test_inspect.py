"""The doctor: hand-made sound and sick files, and the figures it gives against slower ways to compute them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from features import inspect
from features.inspect import effective_rank, inspect_features, mean_cosine
from features.store import FeatureFile
from tests.support.stores import write

matrices = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=8), elements=st.integers(-9, 9))


def normal(rows: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def look(folder: Path, vectors: Any, states: Sequence[int] = (), dtype: str = "float32") -> dict[str, Any]:
    rows = np.asarray(vectors, np.float32)
    return inspect_features(write(folder / "f.h5", [f"i{n}" for n in range(len(rows))], rows, states, dtype))


# The verdicts.


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_sound_file_is_called_sound(tmp_path: Path, dtype: str) -> None:
    found = look(tmp_path, normal(200, 32), [1, *[0] * 199], dtype)
    assert found["verdict"] == "sound: 199 of 200 items have a vector"
    assert 25 < found["effective_rank"] <= 32
    assert abs(found["mean_cosine"]) < 0.05
    assert (found["sampled_rows"], found["cosine_error"]["rows"]) == (199, 199)


def test_activations_are_not_compared_as_vectors_are(tmp_path: Path) -> None:
    padded = np.concatenate([20 + normal(100, 32).reshape(100, 4, 8), np.zeros((100, 4, 8))], axis=1)
    assert look(tmp_path, padded)["verdict"] == "sound: 100 of 100 items have a vector"
    assert "columns are constant" in look(tmp_path, padded.reshape(100, 64))["verdict"]
    padded[7] = 0
    assert "1 rows are all zero" in look(tmp_path, padded)["verdict"]


def collapsed() -> NDArray[np.float32]:
    return 20 + normal(100, 32)


def low_rank() -> NDArray[np.float32]:
    return normal(100, 2) @ normal(2, 64, seed=1)


def repeated() -> NDArray[np.float32]:
    rows = normal(100, 32)
    rows[50:60] = rows[:10]
    return rows


def constant() -> NDArray[np.float32]:
    rows = normal(100, 32)
    rows[:, :8] = 1
    return rows


def zeros() -> NDArray[np.float32]:
    rows = normal(100, 32)
    rows[[3, 4]] = 0
    return rows


@pytest.mark.parametrize(
    ("vectors", "states", "said", "advice"),
    [
        (collapsed(), [], "the mean cosine of two items is 0.99", "check that the weights are pretrained"),
        (low_rank(), [], "the effective rank is 2.0 of 64", "check the weights and the frames"),
        (repeated(), [], "10 of 100 rows repeat an earlier one", "look for copied or placeholder media"),
        (constant(), [], "25% of the columns are constant", "check the weights and the preprocessing"),
        (zeros(), [], "2 rows are all zero", "check their sources"),
        (normal(100, 32), [1] * 11 + [0] * 89, "only 89 of 100 items have a vector", "`inspect` lists the reasons"),
    ],
    ids=["collapsed", "low rank", "repeated", "constant", "zero", "missing"],
)
def test_each_sickness_is_named_alone_with_its_figure_and_what_to_do(
    tmp_path: Path, vectors: Any, states: list[int], said: str, advice: str
) -> None:
    verdict = look(tmp_path, vectors, states)["verdict"]
    assert verdict.startswith(f"look at it: {said}")
    assert advice in verdict
    assert "; the " not in verdict
    assert "\n" not in verdict


def test_rounding_that_costs_too_much_is_named(tmp_path: Path) -> None:
    """One number carries half the length of each row: one scale per row leaves few steps for the others."""
    spiky = normal(100, 2048)
    spiky[:, 5] = 45 * np.sign(spiky[:, 5])
    verdict = look(tmp_path, spiky, dtype="int8")["verdict"]
    assert verdict.startswith("look at it: rounding to int8 costs 0.00")
    assert verdict.endswith("at most (store a wider dtype)")
    assert look(tmp_path, spiky, dtype="float16")["verdict"] == "sound: 100 of 100 items have a vector"
    tiny = normal(100, 32) * 3e-8  # all near float16's smallest step
    assert "rounding to float16 costs 0." in look(tmp_path, tiny, dtype="float16")["verdict"]


def test_two_doubts_stand_in_one_line(tmp_path: Path) -> None:
    rows = collapsed()
    rows[:40] = rows[0]
    assert look(tmp_path, rows)["verdict"].count("; ") >= 2
    assert "39 of 100 rows repeat" in look(tmp_path, rows)["verdict"]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    found = look(tmp_path, normal(3, 2), [1, 1, 2])
    assert found["verdict"].startswith("unusable: no item has a vector")
    assert "norm_min" not in found
    file = write(tmp_path / "f.h5", list("abcd"), np.arange(12, dtype=np.float32).reshape(4, 3))
    content = file.path.read_bytes()
    damaged = content.replace(np.float32(11).tobytes(), np.float32(np.inf).tobytes())
    assert damaged != content
    file.path.write_bytes(damaged)
    assert inspect_features(file)["verdict"].startswith("unusable: 1 rows hold NaN or infinity")


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_are_no_reason_for_doubt(tmp_path: Path, rows: int) -> None:
    found = look(tmp_path, 20 + normal(rows, 64))
    assert found["verdict"] == f"sound: {rows} of {rows} items have a vector"
    assert ("mean_cosine" in found) == (rows > 1)


# The figures.


def test_the_numbers_are_those_of_all_done_rows(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("features.layout.BLOCK_BYTES", 8)  # one row at a time
    vectors = np.zeros((40, 2))
    vectors[:, 0] = np.arange(1, 41)
    vectors[:, 1] = vectors[::-1, 0]
    vectors[39] = vectors[0]
    found = look(tmp_path, vectors, [0] * 38 + [1, 0])
    norms = np.linalg.norm(np.delete(vectors, 38, axis=0), axis=1)
    assert found["rows"] == {"done": 39, "missing": 1, "failed": 0}
    assert (found["width"], found["dtype"], found["shape"]) == (2, "float32", [40, 2])
    for name, value in {"min": norms.min(), "mean": norms.mean(), "max": norms.max()}.items():
        assert found[f"norm_{name}"] == pytest.approx(value)
    assert (found["duplicate_rows"], found["constant_columns"], found["zero_rows"]) == (1, 0.0, 0)
    assert (found["dataset"], found["command"], found["recipe"]["encoder"]) == ("micro", "extract", "tiny")


def test_cached_activations_are_looked_at_as_one_long_row(tmp_path: Path) -> None:
    found = look(tmp_path, normal(60, 24).reshape(60, 4, 6))
    flat = look(tmp_path, normal(60, 24))
    for name in ("norm_mean", "effective_rank", "mean_cosine", "constant_columns", "verdict"):
        assert found[name] == flat[name]


def test_the_sample_is_bounded_repeatable_and_tells(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(inspect, "SAMPLE", 50)
    vectors = normal(400, 16)
    first, again = look(tmp_path, vectors), look(tmp_path, vectors)
    assert first["sampled_rows"] == 50
    assert {**first, "created": ""} == {**again, "created": ""}
    with monkeypatch.context() as patched:
        patched.setattr("features.layout.BLOCK_BYTES", 16 * 4 * 7)  # 7 rows at a time: the same rows are sampled
        for name in ("sampled_rows", "effective_rank", "mean_cosine"):
            assert look(tmp_path, vectors)[name] == first[name]
    monkeypatch.setattr(inspect, "SAMPLE_NUMBERS", 16 * 30)
    assert look(tmp_path, vectors)["sampled_rows"] == 30
    assert first["norm_max"] == pytest.approx(float(np.linalg.norm(vectors, axis=1).max()))  # all rows, not the sample


@settings(deadline=None)
@given(vectors=matrices)
def test_effective_rank_is_the_definition(vectors: NDArray[np.float32]) -> None:
    singular = np.linalg.svd(vectors - vectors.mean(axis=0, dtype=np.float64), compute_uv=False)
    got = effective_rank(vectors)
    if np.ptp(vectors, axis=0).max() == 0:
        assert got == 0
        return
    shares = singular[singular > 1e-9 * singular[0]] / singular.sum()
    assert got == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    assert 1 - 1e-6 <= got <= min(len(vectors) - 1, vectors.shape[1]) + 1e-6
    assert effective_rank(vectors * 8) == pytest.approx(got, rel=1e-6)
    assert effective_rank(vectors[::-1]) == pytest.approx(got, rel=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_effective_rank_counts_directions(rank: int) -> None:
    rows = np.zeros((600, 40), np.float32)
    rows[:, :rank] = np.eye(rank, dtype=np.float32)[np.arange(600) % rank] if rank > 1 else normal(600, 1)
    expected = rank - 1 if rank > 1 else 1  # the corners of a simplex less their mean span one direction less
    assert effective_rank(rows + 100) == pytest.approx(expected, rel=1e-3)


@settings(deadline=None)
@given(vectors=matrices)
def test_mean_cosine_is_over_all_pairs(vectors: NDArray[np.float32]) -> None:
    nonzero = vectors[vectors.any(axis=1)].astype(np.float64)
    assume(len(nonzero) > 1)
    pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(nonzero, 2)]
    assert mean_cosine(vectors) == pytest.approx(np.mean(pairs), abs=1e-9)


def test_mean_cosine_of_no_pair_is_zero() -> None:
    assert mean_cosine(np.array([[0, 0], [1, 2]], np.float32)) == 0


def test_what_rounding_cost_is_shown_and_not_invented(tmp_path: Path) -> None:
    vectors = normal(50, 8)
    found = look(tmp_path, vectors, dtype="int8")
    error = FeatureFile(tmp_path / "f.h5").cosine_error
    assert error is not None
    assert found["cosine_error"] == {"rows": 50, "mean": error.mean, "max": error.max}
    assert 0 < error.mean < error.max < 1e-3
    rounded = write(tmp_path / "g.h5", [str(n) for n in range(50)], vectors.astype(np.float16))
    assert inspect_features(rounded)["cosine_error"] is None
