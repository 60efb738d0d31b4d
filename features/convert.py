"""Published .npy features in, .npy out, and what a feature file looks like in numbers."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.atomic import whole_folder
from features.errors import ConfigError, StoreError
from features.layout import BLOCK_BYTES, write_file
from features.provenance import Provenance, canonical_json, file_sha256, library_versions
from features.rows import FeatureColumns, State, check_ids
from features.store import FeatureFile

ROW_PLUS_ONE = "row+1"  # MicroLens: row r of the published arrays is item id r + 1
DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype(np.float16), "float32": np.dtype(np.float32)}
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def import_npy(
    npy: Path, target: Path, *, dataset: str, ids: str | Path | Sequence[str], name: str, dtype: str = "float16"
) -> FeatureFile:
    """Turn a published array into a feature file, written whole or not at all.

    Args:
        npy: 2-d array of floats, one row per item.
        target: an `.h5` file, or a folder that gets `<name>-<fingerprint>.h5`.
        dataset: name of the dataset the ids belong to.
        ids: whose row is whose: "row+1" (row r is item r + 1, as MicroLens publishes), a file for `read_ids`, or the
            ids themselves.
        name: what the features are, e.g. "videomae-published"; part of the recipe.
        dtype: on disk, "float16" or "float32".

    Raises:
        ConfigError: a dtype or name that cannot be.
        StoreError: no such file, not a 2-d float array, another number of ids than rows, an id twice, values that are
            not finite (in `dtype`), or a target that holds another recipe.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} cannot be stored; choose float16 or float32")
    if not SAFE_NAME.fullmatch(name):
        raise ConfigError(f"name {name!r} becomes a file name; use letters, digits, '.', '_' and '-'")
    array = _load(npy)
    items, convention = _ids(ids, len(array))
    if len(items) != len(array):
        raise StoreError(f"{npy} has {len(array)} rows but there are {len(items)} ids ({convention}); they must agree")
    check_ids(items)
    _check_values(npy, array, items, DTYPES[dtype])
    recipe = {"name": name, "source": npy.name, "sha256": file_sha256(npy), "ids": convention, "dtype": dtype}
    provenance = Provenance(
        dataset=dataset,
        recipe=recipe,
        libraries=library_versions(["numpy", "h5py"]),
        command="features import",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = target if target.suffix == ".h5" else target / f"{name}-{provenance.fingerprint[:16]}.h5"
    if path.exists() and FeatureFile(path).provenance.fingerprint != provenance.fingerprint:
        raise StoreError(f"{path} holds features of another source or recipe; choose another name")
    empty = ("",) * len(items)
    columns = FeatureColumns(tuple(items), np.full(len(items), State.DONE, np.uint8), empty, empty, empty)
    write_file(path, columns, (block for _, block in _blocks(array, DTYPES[dtype])), provenance)
    return FeatureFile(path, dataset=dataset)


def _load(npy: Path) -> NDArray[Any]:
    try:
        array = np.load(npy, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{npy} is no plain .npy array ({error}); save it with np.save, without objects") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "an archive of arrays"
        raise StoreError(f"{npy} holds {found}; features are a 2-d array of floats, one row per item")
    return array


def _ids(ids: str | Path | Sequence[str], rows: int) -> tuple[Sequence[str], str]:
    """Return the ids and the convention, in words, that enters the recipe."""
    if isinstance(ids, str) and ids == ROW_PLUS_ONE:
        return [str(row + 1) for row in range(rows)], "row r is item r+1"
    if isinstance(ids, str | Path):
        items, source = read_ids(Path(ids)), Path(ids).name
    else:
        items, source = list(ids), "list"
    check_ids(items)
    return items, f"{source}, sha256 {hashlib.sha256(canonical_json(items).encode()).hexdigest()}"


def read_ids(path: Path) -> list[str]:
    """Read item ids in row order: MMRec's `i_id_mapping.csv`, or a UTF-8 text file with one id per line.

    A mapping is known by its suffix .csv; it has TAB-separated columns `asin` (the id) and `itemID` (the row).
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            if path.suffix == ".csv":
                return _mapped(path, list(csv.DictReader(handle, delimiter="\t")))
            lines = handle.read().split("\n")  # not splitlines: ids may hold odd Unicode line ends
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"ids cannot be read from {path} ({error}); give 'row+1' or a file of ids") from error
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


def _blocks(array: NDArray[Any], dtype: np.dtype[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    most = max(1, BLOCK_BYTES // max(1, array.shape[1] * array.itemsize))
    for start in range(0, len(array), most):
        with np.errstate(over="ignore"):  # looked at afterwards
            yield start, array[start : start + most].astype(dtype)


def _check_values(npy: Path, array: NDArray[Any], items: Sequence[str], dtype: np.dtype[Any]) -> None:
    bad = [start + np.flatnonzero(~np.isfinite(block).all(axis=1)) for start, block in _blocks(array, dtype)]
    rows = np.concatenate(bad)
    if len(rows):
        overflow = bool(np.isfinite(array[rows]).all())
        raise StoreError(
            f"{npy}: {len(rows)} of {len(array)} rows hold "
            + ("values too large for float16; import as float32" if overflow else "NaN or infinity; repair them")
            + f" (first item {items[int(rows[0])]!r}, row {int(rows[0])})"
        )


def export_npy(file: FeatureFile, target_folder: Path) -> tuple[Path, Path]:
    """Write `vectors.npy` (type as stored) and `ids.txt` (one per line, same order); only rows that are DONE.

    Raises:
        StoreError: the folder exists, an id holds a line end, or the file is damaged.
    """
    keep = file.columns.states == State.DONE
    items = [item for item, done in zip(file.columns.ids, keep.tolist(), strict=True) if done]
    broken = next((item for item in items if "\n" in item or "\r" in item), None)
    if broken is not None:
        raise StoreError(f"item id {broken!r} holds a line end and cannot stand in ids.txt; read the file with h5py")
    if target_folder.exists():
        raise StoreError(f"{target_folder} exists; choose another folder")
    file.verify()
    with whole_folder(target_folder) as folder:
        (folder / "ids.txt").write_text("".join(f"{item}\n" for item in items), encoding="utf-8", newline="")
        with (folder / "vectors.npy").open("wb") as handle:
            shape = (len(items), *file.shape[1:])
            header = {"descr": file.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(handle, header)
            for start, block in file.blocks():
                handle.write(block[keep[start : start + len(block)]].tobytes())
    return target_folder / "vectors.npy", target_folder / "ids.txt"


def inspect_features(file: FeatureFile) -> dict[str, Any]:
    """Return what a feature file holds and whether it looks sound, as plain data; `verdict` is one line for people.

    Norms are Euclidean, over DONE rows; a constant column has one value in all of them; a duplicate row equals an
    earlier one.
    """
    numbers = _numbers(file)
    told = file.provenance
    return {
        "verdict": _verdict(file, numbers),
        "rows": file.counts(),
        "shape": list(file.shape),
        "width": file.width,
        "dtype": str(file.dtype),
        **numbers,
        "dataset": told.dataset,
        "fingerprint": told.fingerprint,
        "recipe": dict(told.recipe),
        "weights_sha256": told.weights_sha256,
        "libraries": dict(told.libraries),
        "command": told.command,
        "created": told.created,
    }


def _numbers(file: FeatureFile) -> dict[str, Any]:
    norms, lows, highs, duplicates, seen = [], [], [], 0, set[int]()
    for start, block in file.blocks():
        done = block[file.columns.states[start : start + len(block)] == State.DONE].astype(np.float32)
        if len(done):
            flat = done.reshape(len(done), -1)
            norms.append(np.sqrt(np.square(flat, dtype=np.float64).sum(axis=1)))
            lows.append(flat.min(axis=0))
            highs.append(flat.max(axis=0))
            hashes = [hash(row.tobytes()) for row in flat]
            duplicates += len(hashes) - len(set(hashes) - seen)
            seen.update(hashes)
    if not norms:
        return {}
    every = np.concatenate(norms)
    numbers: dict[str, Any] = {
        "norm_min": float(every.min()),
        "norm_mean": float(every.mean()),
        "norm_max": float(every.max()),
    }
    constant = np.min(lows, axis=0) == np.max(highs, axis=0)
    numbers |= {"constant_columns": float(constant.mean()), "zero_rows": int((every == 0).sum())}
    numbers |= {"rows_not_finite": int((~np.isfinite(every)).sum()), "duplicate_rows": duplicates}
    return numbers


def _verdict(file: FeatureFile, numbers: dict[str, Any]) -> str:
    done = file.counts()["done"]
    if not done:
        return "unusable: no item has a vector"
    if numbers["rows_not_finite"]:
        return f"unusable: {numbers['rows_not_finite']} rows hold NaN or infinity"
    doubts = []
    if done > 1 and numbers["constant_columns"] > 0.1:
        doubts.append(f"{numbers['constant_columns']:.0%} of the columns are constant")
    if numbers["zero_rows"]:
        doubts.append(f"{numbers['zero_rows']} rows are all zero")
    if numbers["duplicate_rows"] > 0.05 * done:
        doubts.append(f"{numbers['duplicate_rows']} rows repeat an earlier one")
    if done < 0.9 * file.shape[0]:
        doubts.append(f"only {done} of {file.shape[0]} items have a vector")
    return f"look at it: {'; '.join(doubts)}" if doubts else f"sound: {done} of {file.shape[0]} items have a vector"
