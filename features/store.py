"""Feature files: HDF5, one row per item id, with the state of each row and the provenance of all. Layout version 1.

This is the only code that knows the layout; docs/feature-files.md describes it for readers who use h5py alone.
Letters: I items (rows), F feature width, S tokens or positions of cached activations.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from features.errors import StoreError
from features.provenance import Provenance, fsync_folder

FORMAT = "freezeframe-features"
FORMAT_VERSION = 1
MAX_ID_BYTES = 4096  # ids are stored at one fixed width: read 100 times faster than variable-length strings
MAX_REASON_BYTES = 200
COPY_ROWS = 4096  # rows per slice when files are copied or hashed

AbsentPolicy = Literal["error", "zero", "mean"]


class State(IntEnum):
    """What became of an item's row. Only DONE rows hold a vector; the others are NaN."""

    DONE = 0
    MISSING = 1
    FAILED = 2


@dataclass(frozen=True)
class FeatureRows:
    """Rows on their way to disk.

    Attributes:
        ids: item ids as the user has them, unique.
        vectors: (I, F) or (I, S, F), float16 or float32; rows that are not DONE hold NaN.
        states: (I,) of `State`.
        reasons: why a row is not done, "" where it is.
        stamps: what the catalog knew of each source without opening it (file size, text hash, "" where missing);
            a changed stamp means the row is made again.
        digests: blake2b-128 (32 hex characters) of the bytes each row was made from, "" where there were none.
    """

    ids: Sequence[str]
    vectors: NDArray[Any]
    states: NDArray[np.uint8]
    reasons: Sequence[str]
    stamps: Sequence[str]
    digests: Sequence[str]

    def __post_init__(self) -> None:
        """Check once, where rows enter the store."""
        columns = {"vectors": self.vectors, "states": self.states, "reasons": self.reasons}
        for name, column in {**columns, "stamps": self.stamps, "digests": self.digests}.items():
            if len(column) != len(self.ids):
                raise StoreError(f"{len(self.ids)} ids but {len(column)} {name}; every column needs one entry per id")
        check_ids(self.ids)
        if self.vectors.dtype not in (np.float16, np.float32) or self.vectors.ndim not in (2, 3):
            raise StoreError(
                f"vectors are {self.vectors.dtype} of shape {self.vectors.shape}; "
                "give float16 or float32 of shape (I, F) or (I, S, F)"
            )
        _check_finite(self.vectors[self.states == State.DONE], np.asarray(self.ids)[self.states == State.DONE])


def check_ids(ids: Sequence[str]) -> None:
    """Raise StoreError unless ids are unique, non-empty, free of NUL and at most MAX_ID_BYTES long."""
    seen: set[str] = set()
    for item in ids:
        if not item or "\0" in item or len(item.encode()) > MAX_ID_BYTES:
            raise StoreError(
                f"item id {item[:40]!r} of {len(item.encode())} bytes cannot be stored; "
                f"ids need 1 to {MAX_ID_BYTES} UTF-8 bytes and no NUL character"
            )
        if item in seen:
            raise StoreError(f"item id {item!r} occurs twice; remove one of its rows")
        seen.add(item)


def _check_finite(vectors: NDArray[Any], ids: NDArray[Any]) -> None:
    bad = ~np.isfinite(vectors.reshape(len(vectors), -1)).all(axis=1)
    if bad.any():
        raise StoreError(
            f"{int(bad.sum())} of {len(vectors)} rows hold NaN or infinity, first item {str(ids[bad][0])!r}; "
            "remove or repair them (float16 overflows above 65504: store float32)"
        )


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open for reading; StoreError instead of HDF5's own messages."""
    if not path.is_file():
        raise StoreError(f"feature file {path} does not exist; make it with `extract`, or check the path")
    try:
        with h5py.File(path, "r") as handle:
            yield handle
    except (OSError, KeyError, RuntimeError) as error:
        raise StoreError(
            f"{path} is damaged, truncated or no freezeframe feature file ({error}); copy or extract it again"
        ) from error


@contextmanager
def _created(path: Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that appears under `path` whole or not at all, also after kill -9 or a full disk."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with h5py.File(temporary, "w", libver="v110") as handle:
            yield handle
        with temporary.open("rb+") as raw:
            os.fsync(raw.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error}); free some disk space or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_strings(handle: h5py.File, name: str, values: Sequence[str], limit: int) -> None:
    encoded = [value.encode()[:limit].decode(errors="ignore").encode() for value in values]
    width = max((len(value) for value in encoded), default=1) or 1
    handle.create_dataset(name, data=np.array(encoded, dtype=h5py.string_dtype("utf-8", width)))


def _write_header(handle: h5py.File, provenance: Provenance, states: NDArray[np.uint8]) -> None:
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dataset": provenance.dataset,
        "fingerprint": provenance.fingerprint,
        "weights_sha256": provenance.weights_sha256,
        "provenance": provenance.to_json(),
    }
    attributes |= {f"count_{state.name.lower()}": int((states == state).sum()) for state in State}
    handle.attrs.update(attributes)


def _write_columns(handle: h5py.File, rows: FeatureRows | FeatureColumns) -> None:
    _write_strings(handle, "ids", rows.ids, MAX_ID_BYTES)
    handle.create_dataset("states", data=np.asarray(rows.states, dtype=np.uint8))
    _write_strings(handle, "reasons", rows.reasons, MAX_REASON_BYTES)
    _write_strings(handle, "stamps", rows.stamps, MAX_ID_BYTES)
    _write_strings(handle, "digests", rows.digests, MAX_ID_BYTES)


def write_features(path: Path, rows: FeatureRows, provenance: Provenance) -> None:
    """Write one feature file (or shard) atomically: temporary file, flush, fsync, rename."""
    with _created(path) as handle:
        _write_columns(handle, rows)
        handle.create_dataset("vectors", data=rows.vectors)
        handle.attrs["vectors_sha256"] = hashlib.sha256(np.ascontiguousarray(rows.vectors).data).hexdigest()
        _write_header(handle, provenance, rows.states)


@dataclass(frozen=True)
class FeatureColumns:
    """All of a feature file but its vectors; the fields are those of `FeatureRows`."""

    ids: tuple[str, ...]
    states: NDArray[np.uint8]
    reasons: tuple[str, ...]
    stamps: tuple[str, ...]
    digests: tuple[str, ...]


class FeatureFile:
    """A feature file opened for reading, by item id.

    Attributes:
        path: the file.
        provenance: what the file says of itself.
        columns: ids, states, reasons, stamps and digests of all rows.
        shape: of the vectors, (I, F) or (I, S, F).
        dtype: of the vectors on disk.
        vectors_sha256: hash of the vectors' bytes as written.
    """

    def __init__(self, path: Path, *, dataset: str | None = None) -> None:
        """Open and check `path`; with `dataset`, refuse a file made for another one (StoreError)."""
        self.path = path
        with _opened(path) as handle:
            if handle.attrs.get("format") != FORMAT:
                raise StoreError(f"{path} is HDF5 but no freezeframe feature file; import it with `features import`")
            if handle.attrs["format_version"] != FORMAT_VERSION:
                raise StoreError(
                    f"{path} has layout version {handle.attrs['format_version']}, this program reads {FORMAT_VERSION}; "
                    "update freezeframe or extract again"
                )
            self.provenance = Provenance.from_json(handle.attrs["provenance"])
            self.vectors_sha256 = str(handle.attrs["vectors_sha256"])
            self.shape: tuple[int, ...] = handle["vectors"].shape
            self.dtype: np.dtype[Any] = handle["vectors"].dtype
            strings = {name: _strings(handle[name]) for name in ("ids", "reasons", "stamps", "digests")}
            self.columns = FeatureColumns(states=handle["states"][:], **strings)
            stored = str(handle.attrs["fingerprint"])
        if stored != self.provenance.fingerprint:
            raise StoreError(f"{path} was edited: its recipe does not match its fingerprint; extract it again")
        if {len(column) for column in (*strings.values(), self.columns.states)} != {self.shape[0]}:
            raise StoreError(f"{path} has columns of different lengths; copy or extract it again")
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

    def counts(self) -> dict[str, int]:
        """Return the number of rows in each state, keyed 'done', 'missing', 'failed'."""
        return {state.name.lower(): int((self.columns.states == state).sum()) for state in State}

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each id, -1 where the file has none."""
        return np.array([self._row.get(item, -1) for item in ids], dtype=np.int64)

    def read(self, ids: Sequence[str], *, absent: AbsentPolicy = "error") -> NDArray[np.float32]:
        """Return vectors in the order of `ids`, (len(ids), F) or (len(ids), S, F), float32.

        Args:
            ids: unique item ids.
            absent: what an id without a DONE row gets: 'error' refuses, 'zero' zeros, 'mean' the mean of those read.

        Raises:
            StoreError: an id asked for twice, an absent one under 'error', a damaged file or a non-finite row.
        """
        check_ids(ids)
        rows = self.rows(ids)
        have = rows >= 0
        have[have] = self.columns.states[rows[have]] == State.DONE
        if absent == "error" and not have.all():
            raise StoreError(self._absence(ids, rows, have))
        result = np.zeros((len(ids), *self.shape[1:]), dtype=np.float32)
        with _opened(self.path) as handle:
            for target, source in _runs(np.flatnonzero(have), rows[have]):
                result[target] = handle["vectors"][source]
        _check_finite(result[have], np.asarray(ids, dtype=object)[have])
        if absent == "mean" and have.any():
            result[~have] = result[have].mean(axis=0)
        return result

    def _absence(self, ids: Sequence[str], rows: NDArray[np.int64], have: NDArray[np.bool_]) -> str:
        first = int(np.flatnonzero(~have)[0])
        row = int(rows[first])
        why = "not in the file"
        if row >= 0:
            why = f"{State(self.columns.states[row]).name.lower()}: {self.columns.reasons[row]}"
        return (
            f"{self.path} lacks {int((~have).sum())} of {len(ids)} items, first {ids[first]!r} ({why}); "
            "extract them, or choose what they get with `absent: mean` or `absent: zero`"
        )

    def verify(self) -> None:
        """Read every vector; StoreError when the bytes differ from those written or a DONE row is not finite."""
        digest = hashlib.sha256()
        ids = np.asarray(self.columns.ids, dtype=object)
        with _opened(self.path) as handle:
            for start in range(0, self.shape[0], COPY_ROWS):
                block = handle["vectors"][start : start + COPY_ROWS]
                digest.update(np.ascontiguousarray(block).data)
                done = self.columns.states[start : start + COPY_ROWS] == State.DONE
                _check_finite(block[done], ids[start : start + COPY_ROWS][done])
        if digest.hexdigest() != self.vectors_sha256:
            raise StoreError(f"{self.path} changed since it was written (sha256 differs); copy or extract it again")


def _strings(dataset: h5py.Dataset) -> tuple[str, ...]:
    return tuple(value.decode() for value in dataset[:].tolist())


def _runs(targets: NDArray[np.int64], sources: NDArray[np.int64]) -> Iterator[tuple[slice | NDArray[np.int64], slice]]:
    """Cut pairs of rows into runs that HDF5 can read as one slice: (target rows, source slice), at most COPY_ROWS."""
    order = np.argsort(sources, kind="stable")
    targets, sources = targets[order], sources[order]
    breaks = np.flatnonzero(np.diff(sources) != 1) + 1
    for target, source in zip(np.split(targets, breaks), np.split(sources, breaks), strict=True):
        for start in range(0, len(source), COPY_ROWS):
            part = source[start : start + COPY_ROWS]
            yield target[start : start + COPY_ROWS], slice(int(part[0]), int(part[-1]) + 1)


def merge(path: Path, placed: Mapping[str, FeatureFile], provenance: Provenance) -> None:
    """Assemble one feature file from parts of the same recipe, whole or not at all.

    Args:
        path: the file to write.
        placed: item id -> the part that holds its row; the order of the ids is the order of the rows.
        provenance: of the result.

    Raises:
        StoreError: a part of another recipe or dataset, one that lacks its row, parts of different widths, no parts.
    """
    ids = list(placed)
    check_ids(ids)
    parts = list({id(part): part for part in placed.values()}.values())
    if not parts:
        raise StoreError(f"nothing to write into {path}: no item is wanted; check the catalog")
    _check_parts(parts, provenance)
    number = {id(part): n for n, part in enumerate(parts)}
    owner = np.array([number[id(part)] for part in placed.values()])
    source = np.full(len(ids), -1)
    for n, part in enumerate(parts):
        source[owner == n] = part.rows([ids[i] for i in np.flatnonzero(owner == n)])
    if (source < 0).any():
        raise StoreError(f"{parts[owner[int(np.argmin(source))]].path} lacks item {ids[int(np.argmin(source))]!r}")
    columns = _gathered(ids, parts, owner, source)
    with _created(path) as handle:
        _write_columns(handle, columns)
        vectors = handle.create_dataset("vectors", shape=(len(ids), *parts[0].shape[1:]), dtype=parts[0].dtype)
        _copy_vectors(vectors, parts, owner, source)
        digest = hashlib.sha256()
        for start in range(0, len(ids), COPY_ROWS):
            digest.update(np.ascontiguousarray(vectors[start : start + COPY_ROWS]).data)
        handle.attrs["vectors_sha256"] = digest.hexdigest()
        _write_header(handle, provenance, columns.states)


def _check_parts(parts: Sequence[FeatureFile], provenance: Provenance) -> None:
    for part in parts:
        if part.provenance.fingerprint != provenance.fingerprint or part.provenance.dataset != provenance.dataset:
            raise StoreError(f"{part.path} was made by another recipe or from another dataset; keep such files apart")
        if (part.shape[1:], part.dtype) != (parts[0].shape[1:], parts[0].dtype):
            raise StoreError(f"{part.path} holds {part.dtype} of {part.shape[1:]}, others differ; extract it again")


def _gathered(
    ids: Sequence[str], parts: Sequence[FeatureFile], owner: NDArray[np.int64], source: NDArray[np.int64]
) -> FeatureColumns:
    places = list(zip(owner.tolist(), source.tolist(), strict=True))
    columns = [part.columns for part in parts]
    return FeatureColumns(
        ids=tuple(ids),
        states=np.array([columns[part].states[row] for part, row in places], dtype=np.uint8),
        reasons=tuple(columns[part].reasons[row] for part, row in places),
        stamps=tuple(columns[part].stamps[row] for part, row in places),
        digests=tuple(columns[part].digests[row] for part, row in places),
    )


def _copy_vectors(
    vectors: h5py.Dataset, parts: Sequence[FeatureFile], owner: NDArray[np.int64], source: NDArray[np.int64]
) -> None:
    for number, part in enumerate(parts):
        targets = np.flatnonzero(owner == number)
        with _opened(part.path) as handle:
            for target, rows in _runs(targets, source[targets]):
                block = handle["vectors"][rows]
                for inner, run in _runs(np.arange(len(block)), np.asarray(target)):
                    vectors[run] = block[inner]
