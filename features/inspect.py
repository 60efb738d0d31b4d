"""Inspect a feature file: figures of what it holds, and one line on whether to trust it and what to do.

All figures except rank and cosine cover all DONE rows, read in blocks. Effective rank and mean cosine cover at most
SAMPLE rows, drawn with a fixed seed, so that inspecting a million rows takes no longer than reading them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.feature_rows import State
from features.store import FeatureFile

SAMPLE = 10_000  # rows for rank and cosine
SAMPLE_NUMBERS = 2**24  # most numbers in the sample, so that it has fewer rows of wide vectors
SEED = 0
FEW = 20  # with fewer rows than this, rank and cosine say nothing about an encoder
LEAST_DONE = 0.9
MOST_CONSTANT = 0.1
MOST_REPEATED = 0.05
MOST_ALIKE = 0.95
LEAST_RANK = 0.1  # share of the rank that the sample's shape allows
MOST_ROUNDED = (1e-3, 1e-2)  # 1 - cosine, mean and max


@dataclass(frozen=True)
class Look:
    """What one pass over a feature file found."""

    facts: dict[str, Any]
    """As `inspect_features` returns them."""
    norms: NDArray[np.float64]
    """(n,) Euclidean norms of the DONE rows; empty for pixels."""
    spectrum: NDArray[np.float64]
    """(s,) singular values of the sample less its mean, as shares of their sum, largest first; empty where the sample
    is too small, or all its vectors are the same."""


def inspect_features(file: FeatureFile) -> dict[str, Any]:
    """Return what a feature file holds and whether it looks sound, as plain data; `verdict` is one line for people.

    - `norm_min`, `norm_mean` and `norm_max` are Euclidean norms of DONE rows.
    - `constant_columns` is the share, in [0, 1], of columns that have one value in all DONE rows.
    - `duplicate_rows` counts rows that equal an earlier one.
    - `effective_rank` is the `effective_rank` of the sample.
    - `mean_cosine`, in [-1, 1], is over all pairs of sampled rows that are not zero; near 1 the vectors hardly differ.
    - `cosine_error` is what rounding to `dtype` cost (rows, mean, max); None if the file does not know it.
    - `seconds` is the time that making the file took; None if it is not known.

    Pixels are not read, because figures of vectors mean nothing for them.

    Raises:
        StoreError: the file is damaged.
    """
    return look(file).facts


def look(file: FeatureFile) -> Look:
    """Return the facts of `inspect_features`, and the norms and singular values behind them; errors are the same."""
    norms, shares, numbers = _numbers(file)
    told, error = file.provenance, file.cosine_error
    facts = {
        "verdict": _verdict(file, numbers),
        "rows": file.counts(),
        "shape": list(file.shape),
        "width": file.width,
        "dtype": str(file.dtype),
        **numbers,
        "cosine_error": None if error is None else error._asdict(),
        "dataset": told.dataset,
        "fingerprint": told.fingerprint,
        "recipe": dict(told.recipe),
        "weights_sha256": told.weights_sha256,
        "libraries": dict(told.libraries),
        "command": told.command,
        "created": told.created,
        "seconds": dict(file.seconds) or None,
    }
    return Look(facts, norms, shares)


@dataclass
class _Pass:
    """Figures that one pass over the vectors gathers; `low` and `high` are per column, (S * F,)."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    norms: list[NDArray[np.float64]] = field(default_factory=list)
    hashes: list[NDArray[np.int64]] = field(default_factory=list)
    sample: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, rows: NDArray[Any], wanted: NDArray[np.bool_]) -> None:
        """Add DONE rows (n, S * F); those `wanted`, (n,) bool, go into the sample."""
        floats = rows.astype(np.float32, copy=False)
        self.norms.append(np.sqrt(np.square(floats, dtype=np.float64).sum(axis=1)))
        self.low = np.minimum(self.low, floats.min(axis=0))
        self.high = np.maximum(self.high, floats.max(axis=0))
        self.hashes.append(np.fromiter((hash(row.tobytes()) for row in rows), dtype=np.int64, count=len(rows)))
        self.sample.append(floats[wanted])


def _numbers(file: FeatureFile) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, Any]]:
    """Return the norms, the sample's singular values as shares, and the figures."""
    none = np.zeros(0)
    if file.dtype == np.uint8:
        return none, none, {}
    done = file.columns.states == State.DONE
    flat = int(np.prod(file.shape[1:]))
    sampled = _sampled(done, flat)
    found = _Pass(np.full(flat, np.inf, np.float32), np.full(flat, -np.inf, np.float32))
    for start, block in file.blocks():
        here = done[start : start + len(block)]
        if here.any():
            found.add(block[here].reshape(-1, flat), sampled[start : start + len(block)][here])
    if not found.norms:
        return none, none, {}
    norms = np.concatenate(found.norms)
    numbers: dict[str, Any] = {
        "norm_min": float(norms.min()),
        "norm_mean": float(norms.mean()),
        "norm_max": float(norms.max()),
        "constant_columns": float((found.low == found.high).mean()),
        "zero_rows": int((norms == 0).sum()),
        "rows_not_finite": int((~np.isfinite(norms)).sum()),
        "duplicate_rows": len(norms) - len(np.unique(np.concatenate(found.hashes))),
        "sampled_rows": int(sampled.sum()),
    }
    if numbers["rows_not_finite"] or numbers["sampled_rows"] < 2:
        return norms, none, numbers
    sample = np.concatenate(found.sample)
    shares = singular_shares(sample)
    return norms, shares, numbers | {"effective_rank": _rank(shares), "mean_cosine": mean_cosine(sample)}


def _sampled(done: NDArray[np.bool_], flat: int) -> NDArray[np.bool_]:
    """Return (I,) bool, the DONE rows to sample: at most SAMPLE rows and SAMPLE_NUMBERS numbers, from a fixed seed."""
    most = min(SAMPLE, max(2, SAMPLE_NUMBERS // flat))
    rows = np.flatnonzero(done)
    if len(rows) > most:
        rows = np.random.default_rng(SEED).choice(rows, most, replace=False)
    sampled = np.zeros(len(done), dtype=np.bool_)
    sampled[rows] = True
    return sampled


def effective_rank(vectors: NDArray[np.float32]) -> float:
    """Return exp of the entropy of the singular values, taken as shares, of (n, F) vectors less their mean.

    It ranges from 1 (all on one line) to min(n - 1, F) (all directions alike); it is 0 if all vectors are the same.
    """
    return _rank(singular_shares(vectors))


def _rank(shares: NDArray[np.float64]) -> float:
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def singular_shares(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the singular values of (n, F) vectors less their mean, as shares of their sum, largest first.

    Values that are rounding are left out; nothing is left if all vectors are the same.
    """
    centred = vectors.astype(np.float64)
    centred -= centred.mean(axis=0)
    largest = np.abs(centred).max(initial=0)
    if largest <= 1e-7 * np.abs(vectors).max(initial=0):  # nothing is left but the rounding of the mean
        return np.zeros(0)
    centred /= largest
    square = centred.T @ centred if len(vectors) >= vectors.shape[1] else centred @ centred.T
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(square), 0))[::-1]
    kept = singular > 1e-7 * singular.max()  # the rest is rounding of the eigenvalues
    shares: NDArray[np.float64] = singular[kept] / singular.sum()
    return shares


def mean_cosine(vectors: NDArray[np.float32]) -> float:
    """Return the mean cosine over all pairs of (n, F) vectors that are not zero; 0 if there are fewer than two."""
    floats = vectors.astype(np.float64)
    norms = np.sqrt(np.square(floats).sum(axis=1))
    units = floats[norms > 0] / norms[norms > 0, None]
    count = len(units)
    # the squared length of the sum holds every pair twice and each vector with itself once
    return float((np.square(units.sum(axis=0)).sum() - count) / (count * (count - 1))) if count > 1 else 0.0


def _verdict(file: FeatureFile, numbers: dict[str, Any]) -> str:
    done, every = file.counts()["done"], file.shape[0]
    if not done:
        return (
            f"unusable: no item has {_holding(file)}; mend the sources (`inspect` lists the reasons) and extract again"
        )
    if numbers.get("rows_not_finite"):
        return f"unusable: {numbers['rows_not_finite']} rows hold NaN or infinity; extract or import them again"
    doubts = _row_doubts(file, numbers, done, every)
    if len(file.shape) == 2:  # activations are padded and alike at equal positions, and nobody compares items by them
        doubts += [*_column_doubts(numbers, done), *_sample_doubts(numbers, file)]
    error = file.cosine_error
    if error is not None and (error.mean > MOST_ROUNDED[0] or error.max > MOST_ROUNDED[1]):
        doubts.append(
            f"rounding to {file.dtype} costs {error.mean:.2g} of the cosine on average and {error.max:.2g} at most "
            "(store a wider dtype)"
        )
    return f"look at it: {'; '.join(doubts)}" if doubts else f"sound: {done} of {every} items have {_holding(file)}"


def _holding(file: FeatureFile) -> str:
    if file.dtype != np.uint8:
        return "a vector"
    frames, height, width = file.shape[1:4]
    return f"pixels, {f'{frames} frames' if frames > 1 else 'one frame'} of {height} x {width}"


def _column_doubts(numbers: dict[str, Any], done: int) -> list[str]:
    if done < 2 or numbers["constant_columns"] <= MOST_CONSTANT:
        return []
    return [f"{numbers['constant_columns']:.0%} of the columns are constant (check the weights and the preprocessing)"]


def _row_doubts(file: FeatureFile, numbers: dict[str, Any], done: int, every: int) -> list[str]:
    doubts = []
    if numbers.get("zero_rows"):
        doubts.append(f"{numbers['zero_rows']} rows are all zero (check their sources, or extract them again)")
    if numbers.get("duplicate_rows", 0) > MOST_REPEATED * done:
        doubts.append(
            f"{numbers['duplicate_rows']} of {done} rows repeat an earlier one (look for copied or placeholder media)"
        )
    if done < LEAST_DONE * every:
        doubts.append(f"only {done} of {every} items have {_holding(file)} (`inspect` lists the reasons)")
    return doubts


def _sample_doubts(numbers: dict[str, Any], file: FeatureFile) -> list[str]:
    count = numbers["sampled_rows"]
    if count < FEW:
        return []
    doubts = []
    if numbers["mean_cosine"] > MOST_ALIKE:
        doubts.append(
            f"the mean cosine of two items is {numbers['mean_cosine']:.3f}, so they hardly differ (check that the "
            "weights are pretrained; subtract the mean before use)"
        )
    possible = min(count - 1, int(np.prod(file.shape[1:])))
    if numbers["effective_rank"] < LEAST_RANK * possible:
        doubts.append(
            f"the effective rank is {numbers['effective_rank']:.1f} of {possible}, so a few directions carry "
            "everything (check the weights and the frames; a narrower vector would do)"
        )
    return doubts
