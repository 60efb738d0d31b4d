"""Store vectors as float32, float16, or int8 with one scale per row, and measure what rounding costs.

All functions are pure. Letters: n rows; a row is one item's numbers, (F,) or (S, F).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.errors import ConfigError

DiskType = Literal["float16", "float32", "int8"]
DISK_TYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in ("float16", "float32", "int8")}
BLOCK = 2**23  # how many numbers have their error computed at once
LEVELS = 127  # int8 is used from -127 to 127, symmetrically
# Below it float32 loses digits, and dividing by it would be inexact.
SMALLEST_SCALE = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Stored:
    """Rows as they go to disk."""

    values: NDArray[Any]
    """The numbers on disk, (n, ...) float16, float32 or int8. Rows that are not good hold NaN, or 0 in int8."""
    scales: NDArray[np.float32] | None
    """The factor of each row, (n,) float32, for int8: value = number on disk * scale; None for other types. It is 0 for
    rows of zeros and NaN for rows that are not good."""
    good: NDArray[np.bool_]
    """Whether a reader gets finite numbers back, (n,) bool. False for rows that hold NaN, infinity or numbers too large
    for the type (float16: above 65504)."""


class CosineError(NamedTuple):
    """What rounding cost: 1 - cosine between the float32 vector and what a reader gets."""

    rows: int
    """Rows for which it is known."""
    mean: float
    """Mean over these rows."""
    max: float
    """Maximum over these rows."""


def disk_type(name: str) -> np.dtype[Any]:
    """Return the numpy type of a name; ConfigError if vectors cannot be stored in it."""
    if name not in DISK_TYPES:
        raise ConfigError(f"dtype {name!r} cannot be stored; choose float16, float32 or int8")
    return DISK_TYPES[name]


def to_disk(vectors: NDArray[Any], dtype: str) -> Stored:
    """Return float vectors (n, ...) in the type on disk; rows that do not fit are marked in `good`, not refused.

    int8 has one scale per row: the row's largest magnitude / 127, but at least SMALLEST_SCALE. So a row whose largest
    magnitude is below 127 * SMALLEST_SCALE = 1.493e-36 gets fewer than 127 steps; below 5.8e-39 it becomes zeros.

    Raises:
        ConfigError: `dtype` is unknown.
    """
    if disk_type(dtype) == np.int8:
        return _to_int8(vectors)
    with np.errstate(over="ignore"):  # `good` tells of it
        values = vectors.astype(disk_type(dtype))
    good = np.isfinite(values).all(axis=_inner(values))
    values[~good] = np.nan
    return Stored(values, None, good)


def _to_int8(vectors: NDArray[Any]) -> Stored:
    floats = vectors.astype(np.float32, copy=False)
    peaks = np.abs(floats).max(axis=_inner(floats), initial=0)
    scales: NDArray[np.float32] = np.maximum(peaks / np.float32(LEVELS), SMALLEST_SCALE).astype(np.float32)
    scales[peaks == 0] = 0
    with np.errstate(over="ignore", invalid="ignore"):  # NaN, infinity, and what rounds to infinity
        good = np.isfinite(scales * np.float32(LEVELS))
    scales[~good] = np.nan
    divisors = np.where(good & (scales > 0), scales, np.float32(1))
    with np.errstate(invalid="ignore"):
        levels = np.rint(floats / _per_row(divisors, floats))
    levels[~good] = 0
    return Stored(np.clip(levels, -LEVELS, LEVELS).astype(np.int8), scales, good)


def to_float32(values: NDArray[Any], scales: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return (n, ...) float32 from the numbers on disk; `scales` (n,) are for int8 values, and only for them."""
    floats = values.astype(np.float32)
    if scales is not None:
        floats *= _per_row(scales, floats)
    return floats


def cosine_error(original: NDArray[Any], stored: Stored) -> NDArray[np.float32]:
    """Return (n,) 1 - cosine, in [0, 2], between float vectors (n, ...) and what a reader of `stored` gets back.

    A row of zeros that stays so costs 0; a row rounded to zeros costs 1. Rows that are not good get NaN.
    """
    errors = np.full(len(original), np.nan, dtype=np.float32)
    good = np.flatnonzero(stored.good)
    if stored.values.dtype == original.dtype:
        errors[good] = 0
        return errors
    at_once = max(1, BLOCK // max(1, int(np.prod(original.shape[1:]))))  # fewer rows where they are large
    for start in range(0, len(good), at_once):
        rows = good[start : start + at_once]
        scales = None if stored.scales is None else stored.scales[rows]
        before, zero_before = _units(original[rows])
        after, zero_after = _units(to_float32(stored.values[rows], scales))
        # half the squared distance of unit vectors, because 1 - dot would lose the small digits that matter here
        errors[rows] = np.where(
            zero_before | zero_after, zero_before ^ zero_after, np.square(after - before).sum(axis=1) / 2
        )
    return errors


def summary(errors: NDArray[np.float32]) -> CosineError | None:
    """Return rows, mean and max of (n,) errors, without NaN (not done, or not known); None if all are NaN."""
    known = errors[~np.isnan(errors)].astype(np.float64)
    return CosineError(len(known), float(known.mean()), float(known.max())) if len(known) else None


def _units(rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return rows flat and of length 1 in float64, and which of them are zero (they stay zero)."""
    flat = rows.reshape(len(rows), int(np.prod(rows.shape[1:]))).astype(np.float64)  # -1 fails without rows
    norms = np.sqrt(np.square(flat).sum(axis=1))
    return flat / np.where(norms > 0, norms, 1)[:, None], norms == 0


def _inner(array: NDArray[Any]) -> tuple[int, ...]:
    return tuple(range(1, array.ndim))


def _per_row(column: NDArray[np.float32], like: NDArray[Any]) -> NDArray[np.float32]:
    return column.reshape(-1, *(1 for _ in like.shape[1:]))
