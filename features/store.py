"""Feature files by item id: write, read, merge. Their HDF5 layout is the business of features/layout.py.

Letters: I items (rows), F feature width, S tokens or positions of cached activations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from features.errors import StoreError
from features.layout import FORMAT, FORMAT_VERSION, read_blocks, read_contents, read_rows, remove_leftovers, write_file
from features.provenance import Provenance
from features.rows import MAX_ID_BYTES, FeatureColumns, FeatureRows, State, check_finite, check_ids

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
    "merge",
    "remove_leftovers",
    "write_features",
]

MERGE_BYTES = 2**28  # a merge holds this much of the result in memory; parts are opened once per such window

AbsentPolicy = Literal["error", "zero", "mean"]


def write_features(path: Path, rows: FeatureRows, provenance: Provenance) -> None:
    """Write one feature file (or shard) atomically: temporary file, flush, fsync, rename.

    Raises:
        StoreError: it cannot be written (disk full, no permission); nothing is left behind.
    """
    states = np.asarray(rows.states, dtype=np.uint8)
    vectors = rows.vectors
    if not np.isnan(vectors[states != State.DONE]).all():
        vectors = vectors.copy()
        vectors[states != State.DONE] = np.nan
    columns = FeatureColumns(tuple(rows.ids), states, tuple(rows.reasons), tuple(rows.stamps), tuple(rows.digests))
    write_file(path, columns, [vectors], provenance)


class FeatureFile:
    """A feature file opened for reading, by item id. It holds no open handle: it may be copied to other processes.

    Attributes:
        path: the file.
        provenance: what the file says of itself.
        columns: ids, states, reasons, stamps and digests of all rows.
        shape: of the vectors, (I, F) or (I, S, F).
        dtype: of the vectors on disk.
        vectors_sha256: hash of the vectors' bytes as written.
    """

    def __init__(self, path: Path, *, dataset: str | None = None) -> None:
        """Open and check all but the vectors of `path`; with `dataset`, refuse a file made for another (StoreError)."""
        contents = read_contents(path)
        self.path = path
        self.provenance = contents.provenance
        self.columns = contents.columns
        self.shape = contents.shape
        self.dtype = contents.dtype
        self.vectors_sha256 = contents.vectors_sha256
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
    def _row_bytes(self) -> int:
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def counts(self) -> dict[str, int]:
        """Return the number of rows in each state, keyed 'done', 'missing', 'failed'."""
        return {state.name.lower(): int((self.columns.states == state).sum()) for state in State}

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each id, -1 where the file has none."""
        return np.array([self._row.get(item, -1) for item in ids], dtype=np.int64)

    def done(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Return (len(ids),) bool: which ids have a vector here."""
        rows = self.rows(ids)
        have = rows >= 0
        have[have] = self.columns.states[rows[have]] == State.DONE
        return have

    def read(self, ids: Sequence[str], *, absent: AbsentPolicy = "error") -> NDArray[np.float32]:
        """Return vectors in the order of `ids`, (len(ids), F) or (len(ids), S, F), float32.

        Args:
            ids: unique item ids.
            absent: what an id without a DONE row gets: 'error' refuses, 'zero' zeros, 'mean' the mean of those read.

        Raises:
            StoreError: an id asked for twice, an absent one under 'error', none to take the mean of, an unknown
                policy, a damaged file or a non-finite row.
        """
        if absent not in get_args(AbsentPolicy):
            raise StoreError(f"policy {absent!r} for absent items is unknown; choose error, zero or mean")
        check_ids(ids)
        have, rows = self.done(ids), self.rows(ids)
        if not have.all() and (absent == "error" or (absent == "mean" and not have.any())):
            raise StoreError(self._absence(ids, rows, have))
        result = np.zeros((len(ids), *self.shape[1:]), dtype=np.float32)
        self.read_rows(rows[have], np.flatnonzero(have), result)
        check_finite(result, ids, have)
        if absent == "mean" and not have.all():
            result[~have] = _mean(result, int(have.sum()))
        return result

    def read_rows(self, rows: NDArray[np.int64], targets: NDArray[np.int64], into: NDArray[Any]) -> None:
        """Copy stored rows by number into `into[targets]`, unchecked; fast in any order."""
        read_rows(self.path, rows, targets, into, row_bytes=self._row_bytes)

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, vectors) over the whole file, some megabytes at a time, type as stored, unchecked."""
        return read_blocks(self.path, self.shape[0], self._row_bytes)

    def _absence(self, ids: Sequence[str], rows: NDArray[np.int64], have: NDArray[np.bool_]) -> str:
        first = int(np.flatnonzero(~have)[0])
        row = int(rows[first])
        why = f"not in the file, whose ids look like {self.columns.ids[0]!r}" if self.columns.ids else "no rows at all"
        if row >= 0:
            why = f"{State(self.columns.states[row]).name.lower()}: {self.columns.reasons[row]}"
        return (
            f"{self.path} lacks {int((~have).sum())} of {len(ids)} items, first {ids[first]!r} ({why}); "
            "extract them, or choose what they get with `absent: mean` or `absent: zero`"
        )

    def verify(self) -> None:
        """Read every vector; StoreError when the bytes differ from those written or a DONE row is not finite."""
        digest = hashlib.sha256()
        bad = ""
        for start, block in self.blocks():
            digest.update(np.ascontiguousarray(block).data)
            part = slice(start, start + len(block))
            try:
                check_finite(block, self.columns.ids[part], self.columns.states[part] == State.DONE)
            except StoreError as error:  # a changed byte explains more than the NaN it made: say that first
                bad = bad or str(error)
        if digest.hexdigest() != self.vectors_sha256:
            raise StoreError(
                f"{self.path} changed since it was written (sha256 of its vectors differs); "
                "delete it, then copy or extract it again"
            )
        if bad:
            raise StoreError(f"{self.path}: {bad}")


def _mean(vectors: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Return the mean of `count` rows, the others being zero; in float64: float32 sums over a million rows drift."""
    total: NDArray[np.float64] = vectors.sum(axis=0, dtype=np.float64)
    return total / count


def merge(path: Path, placed: Mapping[str, FeatureFile], provenance: Provenance) -> None:
    """Assemble one feature file from parts of the same recipe, whole or not at all.

    Every part is verified first: its bytes would otherwise get a fresh hash in the result, damage included.

    Args:
        path: the file to write; it may be one of the parts.
        placed: item id -> the part that holds its row; the order of the ids is the order of the rows.
        provenance: of the result.

    Raises:
        StoreError: a part of another recipe or dataset, damaged, or without its row; parts of different widths or
            types; no parts.
    """
    ids = list(placed)
    check_ids(ids)
    parts = list({id(part): part for part in placed.values()}.values())
    if not parts:
        raise StoreError(f"nothing to write into {path}: no item is wanted; check the catalog")
    _check_parts(parts, provenance)
    number = {id(part): n for n, part in enumerate(parts)}
    owner = np.array([number[id(part)] for part in placed.values()], dtype=np.int64)
    source = np.empty(len(ids), dtype=np.int64)
    for part, targets in _by_part(parts, owner):
        source[targets] = part.rows([ids[target] for target in targets])
        if (source[targets] < 0).any():
            raise StoreError(f"{part.path} lacks item {ids[targets[int(np.argmin(source[targets]))]]!r}")
    write_file(path, _gathered(ids, parts, owner, source), _vectors(parts, owner, source), provenance)


def _check_parts(parts: Sequence[FeatureFile], provenance: Provenance) -> None:
    for part in parts:
        if part.provenance.fingerprint != provenance.fingerprint or part.provenance.dataset != provenance.dataset:
            raise StoreError(f"{part.path} was made by another recipe or from another dataset; keep such files apart")
        if (part.shape[1:], part.dtype) != (parts[0].shape[1:], parts[0].dtype):
            raise StoreError(
                f"{part.path} holds {part.dtype} of shape {part.shape[1:]} per item, {parts[0].path} "
                f"{parts[0].dtype} of {parts[0].shape[1:]}; extract it again"
            )
        part.verify()


def _by_part(parts: Sequence[FeatureFile], owner: NDArray[np.int64]) -> Iterator[tuple[FeatureFile, NDArray[np.int64]]]:
    """Yield each part that owns some of these rows, with the rows' positions in ascending order."""
    order = np.argsort(owner, kind="stable")
    present, starts = np.unique(owner[order], return_index=True)
    for number, targets in zip(present.tolist(), np.split(order, starts[1:]), strict=True):
        yield parts[number], targets


def _gathered(
    ids: Sequence[str], parts: Sequence[FeatureFile], owner: NDArray[np.int64], source: NDArray[np.int64]
) -> FeatureColumns:
    places = list(zip(owner.tolist(), source.tolist(), strict=True))
    columns = [part.columns for part in parts]
    return FeatureColumns(
        ids=tuple(ids),
        states=np.array([columns[part].states[row] for part, row in places], dtype=np.uint8),
        reasons=tuple([columns[part].reasons[row] for part, row in places]),
        stamps=tuple([columns[part].stamps[row] for part, row in places]),
        digests=tuple([columns[part].digests[row] for part, row in places]),
    )


def _vectors(
    parts: Sequence[FeatureFile], owner: NDArray[np.int64], source: NDArray[np.int64]
) -> Iterator[NDArray[Any]]:
    """Yield the merged vectors window by window: written in order whatever the order of the parts."""
    shape, dtype = parts[0].shape[1:], parts[0].dtype
    most = max(1, MERGE_BYTES // (int(np.prod(shape)) * dtype.itemsize))
    for start in range(0, len(owner), most):
        window = np.empty((len(owner[start : start + most]), *shape), dtype=dtype)
        for part, targets in _by_part(parts, owner[start : start + most]):
            part.read_rows(source[start:][targets], targets, window)
        yield window
