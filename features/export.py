"""Export feature files to other formats: only DONE rows, in the order of the file, read back before they count."""

from __future__ import annotations

import csv
import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.io.plugins import register_io_source

from features.atomic import whole_folder
from features.errors import ConfigError, StoreError, nearest
from features.feature_rows import State
from features.published import IDS, ITEM, TENSOR, VECTOR, block_rows, open_published, read_ids
from features.store import FeatureFile

MAX_HEADER_BYTES = 100_000_000  # readers of safetensors refuse a longer header, and ids stand in it


@dataclass
class _Rows:
    """The DONE rows of a file to export; after `blocks`, `digest` is the sha256 of the vectors' bytes."""

    file: FeatureFile
    dtype: np.dtype[Any]
    keep: NDArray[np.bool_] = field(init=False)
    ids: list[str] = field(init=False)
    digest: str = ""

    def __post_init__(self) -> None:
        self.keep = self.file.columns.states == State.DONE
        self.ids = [self.file.columns.ids[row] for row in np.flatnonzero(self.keep).tolist()]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.ids), *self.file.shape[1:])

    def blocks(self) -> Iterator[NDArray[Any]]:
        digest = hashlib.sha256()
        for start, block in self.file.blocks():
            part = np.ascontiguousarray(block[self.keep[start : start + len(block)]], dtype=self.dtype)
            digest.update(part.data)
            yield part
        self.digest = digest.hexdigest()


def export_features(file: FeatureFile, target_folder: Path, *, form: str = "npy") -> tuple[Path, ...]:
    """Write the DONE rows of a feature file into a new folder, whole or not at all, and read them back.

    Args:
        file: the feature file; every byte of it is verified first.
        target_folder: the folder to make. No item id becomes part of a file name.
        form: 'npy': `vectors.npy` and `ids.txt` (one per line). 'parquet': `vectors.parquet`, columns `item` and
            `vector`. 'safetensors': `vectors.safetensors`, tensor `vectors`, ids as a JSON list in the metadata `ids`.
            'mmrec': `vectors.npy` and `i_id_mapping.csv`. Numbers are float32 in 'parquet' and 'mmrec', and as stored
            in the others; int8 is exported as float32.

    Returns:
        The files written, the vectors first.

    Raises:
        ConfigError: the format is unknown.
        StoreError: the folder exists, the file is damaged or holds pixels, no item has a vector, the format cannot hold
            an id, the disk is full, or what was written does not read back.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is unknown; {nearest(form, FORMATS)}")
    if target_folder.exists():
        raise StoreError(f"{target_folder} exists; choose another folder")
    if file.dtype == np.uint8:
        raise StoreError(
            f"{file.path} holds pixels, and only vectors are exported; h5py reads them (docs/feature-files.md)"
        )
    whole = form in ("parquet", "mmrec") or file.dtype == np.int8
    rows = _Rows(file, np.dtype(np.float32) if whole else file.dtype)
    if not rows.ids:
        raise StoreError(f"{file.path} has no vector of any item; there is nothing to export")
    FORMATS[form].check(rows.ids)
    file.verify()
    with whole_folder(target_folder, replace=False) as folder:
        names = FORMATS[form].write(folder, rows)
        _read_back(folder, names, rows)
    return tuple(target_folder / name for name in names)


def _read_back(folder: Path, names: tuple[str, ...], rows: _Rows) -> None:
    """Open what was written as an import would; StoreError unless ids and vectors are the same to the bit."""
    array = open_published(folder / names[0])
    digest = hashlib.sha256()
    for _, block in array.blocks():
        digest.update(np.ascontiguousarray(block).data)
    ids = array.ids if array.ids is not None else read_ids(folder / names[1])
    if ids != rows.ids or array.shape != rows.shape or digest.hexdigest() != rows.digest:
        what = "vectors" if ids == rows.ids else "ids"
        raise StoreError(f"{names[0]} does not read back as it was written (its {what} differ); export it again")


def _write_npy(folder: Path, rows: _Rows) -> str:
    with (folder / "vectors.npy").open("wb") as handle:
        header = {"descr": rows.dtype.str, "fortran_order": False, "shape": rows.shape}
        np.lib.format.write_array_header_2_0(handle, header)
        for block in rows.blocks():
            handle.write(block.data)
    return "vectors.npy"


def _npy(folder: Path, rows: _Rows) -> tuple[str, ...]:
    text = "".join(f"{item}\n" for item in rows.ids)
    # if the first id begins with a byte order mark, write one more: readers take the first for the encoding's
    encoding = "utf-8-sig" if text.startswith("\ufeff") else "utf-8"
    (folder / "ids.txt").write_text(text, encoding=encoding, newline="")
    return _write_npy(folder, rows), "ids.txt"


def _mmrec(folder: Path, rows: _Rows) -> tuple[str, ...]:
    with (folder / "i_id_mapping.csv").open("w", encoding="utf-8", newline="") as handle:
        # Python before 3.13 leaves a lone carriage return unquoted, and readers take it for the end of the line
        broken = any("\r" in item for item in rows.ids)
        writer = csv.writer(
            handle,
            delimiter="\t",
            lineterminator="\n",
            quoting=csv.QUOTE_NONNUMERIC if broken else csv.QUOTE_MINIMAL,
        )
        writer.writerows([("asin", "itemID"), *((item, row) for row, item in enumerate(rows.ids))])
    return _write_npy(folder, rows), "i_id_mapping.csv"


def _parquet(folder: Path, rows: _Rows) -> tuple[str, ...]:
    schema = {ITEM: pl.String(), VECTOR: pl.Array(pl.Float32, rows.shape[1:])}

    def tables(*_: object) -> Iterator[pl.DataFrame]:
        start = 0
        for block in rows.blocks():
            ids = rows.ids[start : start + len(block)]
            start += len(block)
            yield pl.DataFrame({ITEM: ids, VECTOR: pl.Series(block, dtype=schema[VECTOR])}, schema=schema)

    # row groups as large as the blocks they are read in: a reader decodes whole groups
    most = block_rows(rows.shape, rows.dtype)
    lazy = register_io_source(tables, schema=schema)
    try:
        lazy.sink_parquet(folder / "vectors.parquet", compression_level=1, row_group_size=most)
    except pl.exceptions.PolarsError as error:  # how polars reports a full disk
        raise OSError(" ".join(str(error).split())[:200]) from error
    return ("vectors.parquet",)


def _safetensors(folder: Path, rows: _Rows) -> tuple[str, ...]:
    """Write the format here, block by block, because the library needs the whole array in memory."""
    told = rows.file.provenance
    size = int(np.prod(rows.shape)) * rows.dtype.itemsize
    header = {
        "__metadata__": {IDS: json.dumps(rows.ids), "dataset": told.dataset, "fingerprint": told.fingerprint},
        TENSOR: {"dtype": f"F{8 * rows.dtype.itemsize}", "shape": rows.shape, "data_offsets": [0, size]},
    }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # numbers begin at a multiple of 8
    if len(encoded) > MAX_HEADER_BYTES:
        raise StoreError(
            f"the ids of {rows.file.path} take {len(encoded)} bytes in a safetensors header, which holds "
            f"{MAX_HEADER_BYTES}; export as parquet"
        )
    with (folder / "vectors.safetensors").open("wb") as handle:
        handle.write(struct.pack("<Q", len(encoded)) + encoded)
        for block in rows.blocks():
            handle.write(block.data)
    return ("vectors.safetensors",)


def _any_ids(ids: list[str]) -> None:
    """Accept every id that a feature file can hold."""


def _one_line_each(ids: list[str]) -> None:
    broken = next((item for item in ids if "\n" in item or "\r" in item), None)
    if broken is not None:
        raise StoreError(
            f"item id {broken[:80]!r} holds a line end and cannot stand in ids.txt; export as parquet or safetensors"
        )


@dataclass(frozen=True)
class _Format:
    write: Callable[[Path, _Rows], tuple[str, ...]]
    check: Callable[[list[str]], None] = _any_ids


FORMATS = {
    "npy": _Format(_npy, _one_line_each),
    "parquet": _Format(_parquet),
    "safetensors": _Format(_safetensors),
    "mmrec": _Format(_mmrec),
}
