"""Published arrays of vectors (.npy, Parquet, safetensors), read in blocks, and lists of ids.

Nothing here unpickles. Letters: I rows, F feature width, S tokens or positions.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import StoreError
from features.layout import BLOCK_BYTES
from features.paths import no_file

ITEM, VECTOR = "item", "vector"  # columns of a Parquet file
TENSOR, IDS = "vectors", "ids"  # tensor and metadata entry of a safetensors file
TENSOR_TYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}


@dataclass(frozen=True)
class Published:
    """An array opened for reading."""

    path: Path
    """The file."""
    shape: tuple[int, ...]
    """Shape of the array: (I, F), or any other."""
    dtype: np.dtype[Any]
    """Type of the numbers as stored, float or not."""
    ids: list[str] | None
    """The item ids that the file itself carries, in row order; None if it carries none."""
    slices: Callable[[int, int], NDArray[Any]]
    """Function that returns the rows from `start` to `stop`, (stop - start, ...), as stored."""

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, vectors) in order, some megabytes at a time; StoreError if the file is damaged."""
        most = block_rows(self.shape, self.dtype)
        for start in range(0, self.shape[0], most):
            try:
                yield start, self.slices(start, min(start + most, self.shape[0]))
            except (pl.exceptions.PolarsError, OSError, ValueError) as error:
                raise StoreError(f"{self.path} is damaged or its rows differ in length ({_line(error)})") from error


def block_rows(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return how many rows of an array of this shape are read at once, at least 1."""
    return max(1, BLOCK_BYTES // max(1, int(np.prod(shape[1:])) * dtype.itemsize))


def open_published(path: Path) -> Published:
    """Open an array by the suffix of its name: .parquet, .safetensors, or else NumPy's .npy.

    Raises:
        StoreError: there is no such file, or it does not have the format.
    """
    if not path.is_file():
        raise StoreError(f"{path} {no_file(path, 'give the .npy, .parquet or .safetensors file to import')}")
    return {".parquet": _parquet, ".safetensors": _safetensors}.get(path.suffix, _npy)(path)


def _npy(path: Path) -> Published:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:  # NumPy's own message advises unpickling
        raise StoreError(
            f"{path} is no plain .npy array; save it whole with np.save, without objects, or give a .parquet or "
            ".safetensors file"
        ) from error
    if not isinstance(array, np.ndarray):
        raise StoreError(f"{path} holds an archive of arrays; features are a 2-d array of floats, one row per item")
    return Published(path, array.shape, array.dtype, None, lambda start, stop: array[start:stop])


def _parquet(path: Path) -> Published:
    columns = f"columns {ITEM!r} (text) and {VECTOR!r} (lists of floats of one length)"
    try:
        table = pl.scan_parquet(path, glob=False)
        schema = table.collect_schema()
        if schema.get(ITEM) != pl.String or not isinstance(schema.get(VECTOR), pl.Array | pl.List):
            raise StoreError(f"{path} has columns {', '.join(schema)[:200] or '(none)'}; it needs {columns}")
        ids = table.select(ITEM).collect()[ITEM].to_list()
        first = _numbers(table.select(VECTOR).head(1).collect()[VECTOR])
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path} is no Parquet file with {columns} ({_line(error)}); export it again") from error

    def slices(start: int, stop: int) -> NDArray[Any]:
        return _numbers(table.select(VECTOR).slice(start, stop - start).collect()[VECTOR], first.shape[1:])

    return Published(path, (len(ids), *first.shape[1:]), first.dtype, ids, slices)


def _numbers(column: pl.Series, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Return a column of arrays as (n, ...); lists must have the length in `shape`, or that of the first one."""
    if isinstance(column.dtype, pl.List):
        length = shape[0] if shape else len(column[0]) if len(column) else 0
        column = column.list.to_array(length)
    numbers: NDArray[Any] = column.to_numpy()
    return numbers


def _safetensors(path: Path) -> Published:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as handle:
            names, told = list(handle.keys()), handle.metadata() or {}
            name = TENSOR if TENSOR in names or len(names) != 1 else names[0]
            part = handle.get_slice(name)
            shape, kind = tuple(part.get_shape()), part.get_dtype()
        ids = json.loads(told[IDS]) if IDS in told else None
    except (SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"{path} is no safetensors file with a tensor {TENSOR!r} ({_line(error)})") from error
    if kind not in TENSOR_TYPES or not (ids is None or isinstance(ids, list)):
        raise StoreError(f"{path} holds {kind}, or ids that are no list; give F16, F32 or F64 and a JSON list of ids")

    def slices(start: int, stop: int) -> NDArray[Any]:
        with safe_open(path, framework="numpy") as handle:
            rows: NDArray[Any] = handle.get_slice(name)[start:stop]
            return rows

    return Published(path, shape, TENSOR_TYPES[kind], ids, slices)


def read_ids(path: Path) -> list[str]:
    """Read item ids in row order: MMRec's `i_id_mapping.csv`, or a UTF-8 text file with one id per line.

    A file with suffix .csv is read as a mapping, with TAB-separated columns `asin` (the id) and `itemID` (the row).
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            if path.suffix == ".csv":
                return _mapped(path, list(csv.DictReader(handle, delimiter="\t")))
            lines = handle.read().split("\n")  # not splitlines: ids may hold odd Unicode line ends
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"ids cannot be read from {path} ({error}); give a file with one id per line") from error
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def _mapped(path: Path, rows: list[dict[str, str]]) -> list[str]:
    try:
        by_row = {int(row["itemID"]): row["asin"] for row in rows}
        if len(by_row) == len(rows):
            return [by_row[row] for row in range(len(rows))]
    except (KeyError, TypeError, ValueError):
        pass
    raise StoreError(
        f"{path} is no MMRec item mapping: it needs TAB-separated columns asin and itemID, with each itemID "
        f"from 0 to {len(rows) - 1} once"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
