"""Rows of a feature file in memory: what they are made of and what may enter the store.

Letters: I items (rows), F feature width, S tokens or positions of cached activations, T frames, H W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import StoreError

MAX_ID_BYTES = 4096  # the limit of stamps and digests, too
VECTOR_TYPES = (np.dtype(np.float16), np.dtype(np.float32))  # of rows in memory; on disk there is also int8


class State(IntEnum):
    """What became of an item's row. Only DONE rows hold a vector; the others hold NaN, or 0 in int8 and uint8."""

    DONE = 0
    MISSING = 1
    FAILED = 2


@dataclass(frozen=True)
class FeatureColumns:
    """The columns of a feature file except its vectors; the first five are those of `FeatureRows`."""

    ids: tuple[str, ...]
    """Item ids."""
    states: NDArray[np.uint8]
    """The `State` of each row, (I,)."""
    reasons: tuple[str, ...]
    """Why each row is not done; "" if it is."""
    stamps: tuple[str, ...]
    """The stamp of each row's source."""
    digests: tuple[str, ...]
    """The digest of each row's source."""
    scales: NDArray[np.float32] | None = None
    """The scale of each row, (I,) float32, if the vectors are int8 (features/precision.py); None otherwise."""
    errors: NDArray[np.float32] | None = None
    """What rounding to the type on disk cost each row, as 1 - cosine, (I,) float32. NaN in rows that are not DONE and
    where it is not known; None if it is known of no row."""


@dataclass(frozen=True)
class FeatureRows:
    """Rows on their way to disk."""

    ids: Sequence[str]
    """Item ids as the user has them, unique."""
    vectors: NDArray[Any]
    """Vectors (I, F) or (I, S, F), float16 or float32; or pixels (I, T, H, W, 3), uint8. Rows that are not DONE are
    stored as NaN, or 0, whatever they hold here."""
    states: NDArray[np.uint8]
    """The `State` of each row, (I,)."""
    reasons: Sequence[str]
    """Why each row is not done; "" if it is."""
    stamps: Sequence[str]
    """What the catalog knew of each source without opening it: size and date of a file, hash of a text, "" if missing.
    A row whose stamp has changed is made again, unless its source is found to have the same bytes."""
    digests: Sequence[str]
    """The blake2b-128 hash (32 hex characters) of the bytes each row was made from, "" if there were none."""

    def __post_init__(self) -> None:
        """Check once, where rows enter the store."""
        columns = {"vectors": self.vectors, "states": self.states, "reasons": self.reasons}
        for name, column in {**columns, "stamps": self.stamps, "digests": self.digests}.items():
            if len(column) != len(self.ids):
                raise StoreError(f"{len(self.ids)} ids but {len(column)} {name}; every column needs one entry per id")
        check_ids(self.ids)
        for name, texts in {"stamp": self.stamps, "digest": self.digests}.items():
            check_texts(texts, name, fewest=0)
        states = np.asarray(self.states)
        if not np.isin(states, list(State)).all():
            raise StoreError(f"row states are {np.unique(states)[:9]}; they are 0 done, 1 missing, 2 failed")
        check_shape(self.vectors.shape, self.vectors.dtype)
        check_finite(self.vectors, self.ids, states == State.DONE)


def check_shape(shape: tuple[int, ...], dtype: np.dtype[Any], *, scaled: bool = False) -> None:
    """Raise StoreError unless rows of this shape and type can be stored; only int8 has scales, and needs them."""
    if dtype == np.uint8 and not scaled:
        if len(shape) != 5 or shape[-1] != 3 or 0 in shape[1:]:
            raise StoreError(f"pixels are of shape {shape}; give (I, T, H, W, 3), T, H and W >= 1")
        return
    if not (dtype == np.int8 if scaled else dtype in VECTOR_TYPES) or len(shape) not in (2, 3) or 0 in shape[1:]:
        types = "int8" if scaled else "float16 or float32"
        raise StoreError(
            f"vectors are {dtype} of shape {shape}; give {types} of shape (I, F) or (I, S, F), F and S >= 1"
        )


def check_ids(ids: Sequence[str]) -> None:
    """Raise StoreError unless ids are unique, non-empty, valid Unicode without NUL and at most MAX_ID_BYTES long."""
    check_texts(ids, "item id", fewest=1)
    if len(set(ids)) != len(ids):
        item, count = Counter(ids).most_common(1)[0]
        times = "twice" if count == 2 else f"{count} times"
        raise StoreError(f"item id {item[:80]!r} occurs {times}; keep one of its rows")


def check_texts(texts: Sequence[str], what: str, *, fewest: int) -> None:
    """Raise StoreError on the first text that cannot be stored: no str, no Unicode, with NUL, too short or too long."""
    if not len(texts):
        return
    with suppress(TypeError, UnicodeEncodeError):  # all at once first, because a loop over a million takes a second
        sizes = [len(text) for text in "\0".join(texts).encode().split(b"\0")]
        if len(sizes) == len(texts) and min(sizes) >= fewest and max(sizes) <= MAX_ID_BYTES:
            return
    for text in texts:
        if not _storable(text, fewest):
            shown = repr(text[:40]) if isinstance(text, str) else repr(text)
            raise StoreError(
                f"{what} {shown} ({type(text).__name__}) cannot be stored; "
                f"it must be a str of {fewest} to {MAX_ID_BYTES} bytes in valid UTF-8 without NUL"
            )


def _storable(text: object, fewest: int) -> bool:
    if not isinstance(text, str) or "\0" in text:
        return False
    try:
        return fewest <= len(text.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:  # lone surrogates, e.g. from file names that are not UTF-8
        return False


def check_finite(vectors: NDArray[Any], ids: Sequence[str], done: NDArray[np.bool_]) -> None:
    """Raise StoreError, naming the first item, when a row that is `done` ((I,) bool) holds NaN or infinity."""
    if vectors.dtype == np.uint8:  # pixels can hold neither
        return
    bad = done & ~np.isfinite(vectors).all(axis=tuple(range(1, vectors.ndim)))
    if bad.any():
        raise StoreError(
            f"{int(bad.sum())} of {int(done.sum())} rows hold NaN or infinity, first item "
            f"{ids[int(np.argmax(bad))]!r}; remove or repair them (float16 overflows above 65504: store float32)"
        )
