"""The HDF5 layout of feature files, version 3. No other code knows it; docs/feature-files.md tells h5py users.

A file is written under a hidden name, flushed, fsynced and renamed, and never changed afterwards. So no reader can
meet a half-written file, and no locks are needed, which fail on some network file systems.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from features.atomic import Sink, fsync_file, fsync_folder, put_in_place
from features.errors import StoreError
from features.feature_rows import FeatureColumns, State, check_shape
from features.paths import no_file, write_advice
from features.provenance import Provenance, canonical_json
from features.table import TEXT_COLUMNS, numbers_of, packed, table_sha256, write_texts

Seal = tuple[str, str]  # sha256 of a file's vectors and of its table
FORMAT = "freezeframe-features"
FORMAT_VERSION = 3  # 2 adds int8 vectors with their `scales`, and `errors`; 3 pixels
READ_VERSIONS = (1, 2, 3)
BLOCK_BYTES = 2**24  # vectors are read and hashed in blocks of about this size
GAP_BYTES = 2**18  # smaller gaps of unwanted rows are read, too: cheaper than another call into HDF5 (about 0.1 ms)
# What h5py raises on damaged or foreign files, as found by flipping bytes.
READ_ERRORS = (OSError, LookupError, RuntimeError, TypeError, AttributeError, ValueError, MemoryError, EOFError)


@dataclass(frozen=True)
class Contents:
    """A feature file except its vectors."""

    provenance: Provenance
    """What the file says of itself."""
    columns: FeatureColumns
    """Ids and all other columns."""
    seal: Seal
    """Hashes that tell this file from another one put in its place."""
    shape: tuple[int, ...]
    """Shape of the vectors."""
    dtype: np.dtype[Any]
    """Type of the vectors on disk."""
    seconds: Mapping[str, float]
    """Time that making the rows took, by stage; empty if it is not known. No hash covers it."""


@contextmanager
def _opened(path: Path, seal: Seal | None = None) -> Iterator[h5py.File]:
    """Open a file for reading; StoreError if HDF5 cannot read it, or if it has another seal than `seal`."""
    if not path.is_file():
        raise StoreError(f"feature file {path} {no_file(path, 'make it with `extract`, or check the path')}")
    try:
        with h5py.File(path, "r", locking=False) as handle:
            if seal is not None and _seal(handle.attrs) != seal:  # its rows may have changed
                raise StoreError(f"{path} was replaced while it was in use; start again, to use what is there now")
            yield handle
    except StoreError:
        raise
    except READ_ERRORS as error:
        raise StoreError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: BaseException) -> str:
    """Return why a file cannot be read; advise to delete it only if it is HDF5, and damaged."""
    if isinstance(error, PermissionError):
        return f"cannot read {path} (permission denied); check its permissions"
    if not h5py.is_hdf5(path):
        return f"{path} is no HDF5 file; name a feature file, or bring arrays in with `features import`"
    return (
        f"{path} is damaged, truncated or no freezeframe feature file ({_one_line(error)}); "
        "delete it, then copy or extract it again"
    )


def _seal(attributes: Mapping[str, Any]) -> Seal:
    return str(attributes["vectors_sha256"]), str(attributes["table_sha256"])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


@contextmanager
def _created(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Yield a new HDF5 file that appears under `path` whole or not at all, even after kill -9 or a full disk.

    With it comes a function to call now and then: it raises if the disk is full already. `check` gets the closed file
    under its hidden name; if it raises, the file never appears.
    """
    temporary = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(Sink(temporary)) as sink, h5py.File(sink, "w", libver="v110", locking=False) as handle:
            yield handle, sink.check
        sink.check()
        fsync_file(temporary)
        if check is not None:
            check(temporary)
        put_in_place(temporary, path)
        fsync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # h5py reports a full disk as either
        raise StoreError(f"cannot write {path} ({_one_line(error)}); {write_advice(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_leftovers(path: Path) -> None:
    """Delete hidden files that killed writers of `path` left behind; no writer may be at work."""
    prefix = f".{path.name[:80]}."
    for stray in path.parent.glob(".*.tmp"):
        if stray.name.startswith(prefix):
            stray.unlink(missing_ok=True)


def write_file(
    path: Path,
    columns: FeatureColumns,
    blocks: Iterable[NDArray[Any]],
    provenance: Provenance,
    *,
    check: Callable[[Path], None] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Write one feature file atomically.

    Args:
        path: the file to write; an older one stays until the new one is whole.
        columns: ids and all other columns, I rows.
        blocks: the vectors in order: at least one array (some, *shape of a row), I rows in all, in the type on disk;
            int8 needs `columns.scales`.
        provenance: what the file says of itself.
        check: called with the closed file under its hidden name; what it raises keeps the file from appearing.
        seconds: the time that making the rows took, by stage.

    Raises:
        StoreError: the file cannot be written; nothing is left behind.
    """
    rest = iter(blocks)
    first = next(rest)
    version = FORMAT_VERSION if first.dtype == np.uint8 else 2  # so that older programs can read vectors
    check_shape(first.shape, first.dtype, scaled=columns.scales is not None)
    if columns.errors is None:
        columns = replace(columns, errors=np.full(len(columns.ids), np.nan, dtype=np.float32))
    digest, start = hashlib.sha256(), 0
    texts = packed(columns)
    with _created(path, check) as (handle, check_room):
        vectors = handle.create_dataset("vectors", shape=(len(columns.ids), *first.shape[1:]), dtype=first.dtype)
        for block in itertools.chain([first], rest):
            vectors[start : start + len(block)] = block
            digest.update(np.ascontiguousarray(block).data)
            start += len(block)
            check_room()
        if start != len(columns.ids):
            raise AssertionError(f"{start} vectors for {len(columns.ids)} ids")
        for name, numbers in numbers_of(columns).items():
            handle.create_dataset(name, data=numbers)
        if columns.scales is not None:
            digest.update(np.ascontiguousarray(columns.scales).data)
        for name, text in texts.items():
            write_texts(handle, name, text.split(b"\0") if columns.ids else [])
        handle.attrs["vectors_sha256"] = digest.hexdigest()
        handle.attrs["table_sha256"] = table_sha256(provenance.to_json(), texts, numbers_of(columns))
        handle.attrs.update(_header(provenance, columns.states, version))
        if seconds:
            handle.attrs["seconds"] = canonical_json(dict(seconds))


def _header(provenance: Provenance, states: NDArray[np.uint8], version: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": version,
        "dataset": provenance.dataset,
        "fingerprint": provenance.fingerprint,
        "weights_sha256": provenance.weights_sha256,
        "provenance": provenance.to_json(),
    } | {f"count_{state.name.lower()}": int((states == state).sum()) for state in State}


def read_contents(path: Path) -> Contents:
    """Read everything except the vectors; StoreError on a file that is absent, foreign, damaged or edited."""
    with _opened(path) as handle:
        stored = dict(handle.attrs)
        _check_format(path, stored)
        provenance = _provenance(path, stored["provenance"])
        texts = {name: b"\0".join(handle[name][:].tolist()) for name in TEXT_COLUMNS}
        vectors = handle["vectors"]
        numbers = _read_numbers(handle, stored["format_version"])
        states = numbers["states"]
        check_shape(vectors.shape, vectors.dtype, scaled="scales" in numbers)
        if vectors.is_virtual or vectors.external:
            raise StoreError(f"{path} only points to vectors in other files; copy the whole feature file")
        changed = [
            name
            for name, value in _header(provenance, states, stored["format_version"]).items()
            if stored[name] != value
        ]
        if changed or stored["table_sha256"] != table_sha256(stored["provenance"], texts, numbers):
            where = f"attribute {changed[0]!r} does not fit its contents" if changed else "its table has another sha256"
            raise StoreError(f"{path} was edited or damaged: {where}; delete it, then copy or extract it again")
        decoded = {name: tuple(texts[name].decode().split("\0") if len(vectors) else []) for name in TEXT_COLUMNS}
        if {len(column) for column in (*decoded.values(), *numbers.values())} != {len(vectors)}:
            raise StoreError(f"{path} has columns of different lengths; delete it, then copy or extract it again")
        scales, errors = numbers.get("scales"), numbers.get("errors")
        columns = FeatureColumns(states=states, scales=scales, errors=errors, **decoded)
        seconds = {stage: float(spent) for stage, spent in json.loads(stored.get("seconds", "{}")).items()}
        return Contents(provenance, columns, _seal(stored), vectors.shape, vectors.dtype, seconds)


def _provenance(path: Path, text: str) -> Provenance:
    try:
        return Provenance.from_json(text)
    except StoreError as error:
        raise StoreError(f"{path} is damaged: its {error}; delete it, then copy or extract it again") from error


def _read_numbers(handle: h5py.File, version: int) -> dict[str, NDArray[Any]]:
    """Read the columns of numbers that a file of this version and type has."""
    numbers = {"states": handle["states"][:]}
    if version > 1 and handle["vectors"].dtype == np.int8:
        numbers["scales"] = handle["scales"][:]
    if version > 1:
        numbers["errors"] = handle["errors"][:]
    return {name: np.ascontiguousarray(column) for name, column in numbers.items()}


def _check_format(path: Path, stored: dict[str, Any]) -> None:
    if stored.get("format") != FORMAT:
        raise StoreError(f"{path} is HDF5 but no freezeframe feature file; import it with `features import`")
    if stored["format_version"] not in READ_VERSIONS:
        raise StoreError(
            f"{path} has layout version {stored['format_version']}, this program reads 1 to {FORMAT_VERSION}; "
            "update freezeframe or extract again"
        )


def read_rows(
    path: Path, seal: Seal, rows: NDArray[np.int64], targets: NDArray[np.int64], into: NDArray[Any], *, row_bytes: int
) -> None:
    """Copy stored vectors: `into[targets[n]] = vectors[rows[n]]` for all n, in blocks, in the order of the file."""
    with _opened(path, seal) as handle:
        vectors = handle["vectors"]
        for source, target in _spans(rows, targets, row_bytes):
            first, last = int(source[0]), int(source[-1])
            block = vectors[first : last + 1]
            into[target] = block if len(block) == len(source) else block[source - first]


def map_vectors(path: Path, seal: Seal) -> NDArray[Any]:
    """Return the vectors as a read-only memory map; StoreError if they do not lie in one piece."""
    with _opened(path) as handle:
        vectors = handle["vectors"]
        offset = vectors.id.get_offset()
        shape, dtype = vectors.shape, vectors.dtype
    if offset is None:  # stored in chunks by another program, or empty
        raise StoreError(f"{path} cannot be mapped: its vectors lie in chunks; rewrite it with `h5repack -l CONTI`")
    mapped: NDArray[Any] = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    with _opened(path, seal):  # checked after mapping, so that what is mapped has this seal
        return mapped


def _spans(
    rows: NDArray[np.int64], targets: NDArray[np.int64], row_bytes: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Sort (row, target) pairs by row and cut them into spans that are each read as one slice."""
    if not len(rows):
        return
    order = np.argsort(rows, kind="stable")
    rows, targets = rows[order], targets[order]
    starts = np.flatnonzero(np.diff(rows, prepend=np.iinfo(np.int64).min // 2) > 1 + GAP_BYTES // row_bytes)
    most = max(1, BLOCK_BYTES // row_bytes)
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
        while start < stop:
            cut = int(np.searchsorted(rows[start:stop], rows[start] + most)) + start
            yield rows[start:cut], targets[start:cut]
            start = cut


def read_blocks(path: Path, seal: Seal, count: int, row_bytes: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, vectors) over the whole file in blocks of about BLOCK_BYTES."""
    most = max(1, BLOCK_BYTES // row_bytes)
    with _opened(path, seal) as handle:
        for start in range(0, count, most):
            yield start, handle["vectors"][start : start + most]
