"""Write and read feature files by item id; features/layout.py knows their HDF5 layout.

Letters: I items (rows), F feature width, S tokens or positions of cached activations, T frames, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from features.errors import StoreError
from features.feature_rows import MAX_ID_BYTES, FeatureColumns, FeatureRows, State, check_finite, check_ids
from features.layout import (
    FORMAT,
    FORMAT_VERSION,
    map_vectors,
    read_blocks,
    read_contents,
    read_rows,
    remove_leftovers,
    write_file,
)
from features.precision import CosineError, Stored, cosine_error, summary, to_disk, to_float32
from features.provenance import Provenance

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "MAX_ID_BYTES",
    "AbsentPolicy",
    "FeatureColumns",
    "FeatureFile",
    "FeatureRows",
    "State",
    "check_ids",
    "remove_leftovers",
    "write_features",
]

AbsentPolicy = Literal["error", "zero", "mean"]


def write_features(
    path: Path,
    rows: FeatureRows,
    provenance: Provenance,
    *,
    dtype: str | None = None,
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Write one feature file (or shard) atomically: temporary file, flush, fsync, rename.

    Args:
        path: the file to write.
        rows: what to write.
        provenance: what the file says of itself.
        dtype: the type on disk, float16, float32 or int8; `rows.vectors` are then float32, and what rounding costs each
            row is stored, too. None keeps their type, and what float16 has cost is not known. Pixels stay uint8.
        seconds: the time that making the rows took, by stage.

    Raises:
        ConfigError: the dtype is unknown.
        StoreError: the vectors are rounded already, numbers are too large for the dtype, or the file cannot be written
            (disk full, no permission); nothing is left behind.
    """
    given = rows.vectors.dtype
    if dtype not in (None, str(given)) and given != np.float32:
        raise StoreError(f"vectors are {given}; give float32 to store them as {dtype}")
    states = np.asarray(rows.states, dtype=np.uint8)
    done = states == State.DONE
    vectors = _without(rows.vectors, ~done)
    stored = Stored(vectors, None, done) if given == np.uint8 else to_disk(vectors, dtype or str(given))
    if (done & ~stored.good).any():
        first = rows.ids[int(np.argmax(done & ~stored.good))]
        raise StoreError(f"item {first!r} holds numbers too large for {dtype}; store float32, or mark the row failed")
    errors = cosine_error(vectors, stored) if given == np.float32 else None
    texts = (tuple(rows.reasons), tuple(rows.stamps), tuple(rows.digests))
    columns = FeatureColumns(tuple(rows.ids), states, *texts, scales=stored.scales, errors=errors)
    write_file(path, columns, [stored.values], provenance, seconds=seconds)


def _without(vectors: NDArray[Any], blank: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the vectors with NaN in the rows that are `blank`; pixels with 0."""
    empty = 0 if vectors.dtype == np.uint8 else np.nan
    if not np.array_equal(vectors[blank], np.full_like(vectors[blank], empty), equal_nan=empty != 0):
        vectors = vectors.copy()
        vectors[blank] = empty
    return vectors


class FeatureFile:
    """A feature file opened for reading, by item id. It holds no open handle, so it may be sent to other processes.

    Attributes:
        path: the file.
        provenance: what the file says of itself.
        columns: ids, states, reasons, stamps and digests of all rows, and scales and errors if the file has them.
        shape: shape of the vectors, (I, F) or (I, S, F), or of pixels, (I, T, H, W, 3).
        dtype: type of the vectors on disk.
        vectors_sha256: hash of the vectors' bytes as written, and of their scales.
        seconds: time that making the file took, by stage ('decode', 'encode'), over all workers and restarts; {} if it
            is not known.
    """

    def __init__(self, path: Path, *, dataset: str | None = None) -> None:
        """Read and check everything except the vectors; with `dataset`, StoreError for a file of another dataset."""
        contents = read_contents(path)
        self.path = path
        self.provenance = contents.provenance
        self.columns = contents.columns
        self.shape = contents.shape
        self.dtype = contents.dtype
        self._seal = contents.seal
        self.vectors_sha256 = contents.seal[0]
        self.seconds = contents.seconds
        self._row = {item: row for row, item in enumerate(self.columns.ids)}
        if len(self._row) != len(self.columns.ids):
            raise StoreError(f"{path} holds an item id twice; extract it again")
        if dataset is not None and dataset != self.provenance.dataset:
            raise StoreError(
                f"{path} belongs to dataset {self.provenance.dataset!r}, not {dataset!r}; "
                "give the features extracted from this dataset"
            )

    @property
    def width(self) -> int:
        """Return F, the length of a vector."""
        return self.shape[-1]

    @property
    def cosine_error(self) -> CosineError | None:
        """Return what rounding to `dtype` cost, over the DONE rows for which it is known; None if there are none."""
        return None if self.columns.errors is None else summary(self.columns.errors)

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def counts(self) -> dict[str, int]:
        """Return the number of rows in each state, keyed 'done', 'missing', 'failed'."""
        return {state.name.lower(): int((self.columns.states == state).sum()) for state in State}

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each id, -1 if the file has none."""
        return np.array([self._row.get(item, -1) for item in ids], dtype=np.int64)

    def done(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Return which ids have a vector here, (len(ids),) bool."""
        rows = self.rows(ids)
        have = rows >= 0
        have[have] = self.columns.states[rows[have]] == State.DONE
        return have

    def read(self, ids: Sequence[str], *, absent: AbsentPolicy = "error") -> NDArray[np.float32]:
        """Return float32 vectors in the order of `ids`, (len(ids), F) or (len(ids), S, F), or pixels from 0 to 255.

        Args:
            ids: unique item ids.
            absent: what an id without a DONE row gets: 'error' refuses, 'zero' zeros, 'mean' the mean of those read.

        Raises:
            StoreError: an id is asked for twice, or is absent under 'error'; no row has a vector to take the mean of;
                the policy is unknown, the file is damaged or a row is not finite.
        """
        rows = self.locate(ids, absent)
        have = rows >= 0
        result = np.zeros((len(ids), *self.shape[1:]), dtype=np.float32)
        if self.columns.scales is None:
            self.read_stored(rows[have], np.flatnonzero(have), result)
        else:
            values = np.empty((int(have.sum()), *self.shape[1:]), dtype=self.dtype)
            self.read_stored(rows[have], np.arange(len(values)), values)
            result[have] = to_float32(values, self.columns.scales[rows[have]])
        check_finite(result, ids, have)
        if absent == "mean" and not have.all():
            result[~have] = _mean(result, int(have.sum()))
        return result

    def locate(self, ids: Sequence[str], absent: AbsentPolicy) -> NDArray[np.int64]:
        """Return the row of each id's vector, -1 if it has none and `absent` allows that; StoreError as in `read`."""
        if absent not in get_args(AbsentPolicy):
            raise StoreError(f"policy {absent!r} for absent items is unknown; choose error, zero or mean")
        check_ids(ids)
        have, rows = self.done(ids), self.rows(ids)
        if not have.all() and (absent == "error" or (absent == "mean" and not have.any())):
            raise StoreError(self._absence(ids, rows, have))
        return np.where(have, rows, -1)

    def mapped(self) -> NDArray[Any]:
        """Return the vectors as stored, as a read-only memory map, unchecked; rows are read when they are used."""
        return map_vectors(self.path, self._seal)

    def read_stored(self, rows: NDArray[np.int64], targets: NDArray[np.int64], into: NDArray[Any]) -> None:
        """Copy rows by number, as stored and unchecked, into `into[targets]`; fast in any order."""
        read_rows(self.path, self._seal, rows, targets, into, row_bytes=self._row_bytes)

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, vectors) over the whole file, some megabytes at a time, unchecked.

        int8 vectors come as float32, the others as stored.
        """
        scales = self.columns.scales
        for start, block in self._stored_blocks():
            yield start, block if scales is None else to_float32(block, scales[start : start + len(block)])

    def _stored_blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        return read_blocks(self.path, self._seal, self.shape[0], self._row_bytes)

    def _absence(self, ids: Sequence[str], rows: NDArray[np.int64], have: NDArray[np.bool_]) -> str:
        first = int(np.flatnonzero(~have)[0])
        row = int(rows[first])
        if (rows < 0).all() and self.columns.ids:
            return (
                f"{self.path} has rows of none of the {len(ids)} items: its ids look like {self.columns.ids[0]!r}, "
                f"theirs like {ids[0]!r}; give the features of these items"
            )
        fill = "`absent: mean` or `absent: zero`" if have.any() else "`absent: zero`: nothing has a vector to average"
        why = f"not in the file, whose ids look like {self.columns.ids[0]!r}" if self.columns.ids else "no rows at all"
        if row >= 0:
            why = f"{State(self.columns.states[row]).name.lower()}: {self.columns.reasons[row]}"
        return (
            f"{self.path} lacks {int((~have).sum())} of {len(ids)} items, first {ids[first]!r} ({why}); "
            f"extract them, or choose what they get with {fill}"
        )

    def verify(self) -> None:
        """Read every vector; StoreError if the bytes differ from those written or a DONE row is not finite."""
        digest, scales = hashlib.sha256(), self.columns.scales
        bad = ""
        for start, block in self._stored_blocks():
            digest.update(np.ascontiguousarray(block).data)
            part = slice(start, start + len(block))
            try:  # int8 is finite where its scale is
                check_finite(
                    block if scales is None else scales[part, None],
                    self.columns.ids[part],
                    self.columns.states[part] == State.DONE,
                )
            except StoreError as error:  # a changed byte explains the NaN it made, so it is told first
                bad = bad or str(error)
        if scales is not None:
            digest.update(scales.data)
        if digest.hexdigest() != self.vectors_sha256:
            raise StoreError(
                f"{self.path} changed since it was written (sha256 of its vectors differs); "
                "delete it, then copy or extract it again"
            )
        if bad:
            raise StoreError(f"{self.path}: {bad}")


def _mean(vectors: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Return the mean of `count` rows, the others being zero; float64, because float32 sums of a million rows drift."""
    total: NDArray[np.float64] = vectors.sum(axis=0, dtype=np.float64)
    return total / count
