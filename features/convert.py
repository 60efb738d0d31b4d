"""Published features into feature files: .npy with ids beside it, Parquet and safetensors with their own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import ConfigError, StoreError
from features.feature_rows import FeatureColumns, State, check_ids
from features.layout import write_file
from features.precision import cosine_error, disk_type, to_disk
from features.provenance import Provenance, canonical_json, file_sha256, library_versions
from features.published import Published, open_published, read_ids
from features.store import FeatureFile

ROW_PLUS_ONE = "row+1"  # MicroLens: row r of the published arrays is item id r + 1
ROW = "row"  # MMRec: row r is item r
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def import_features(
    source: Path,
    target: Path,
    *,
    dataset: str,
    ids: str | Path | Sequence[str] | None = None,
    name: str,
    dtype: str = "float16",
    check: Callable[[Sequence[str]], None] | None = None,
) -> FeatureFile:
    """Turn a published array into a feature file, written whole or not at all.

    Args:
        source: .npy, .parquet or .safetensors with a 2-d array of floats, one row per item; (I, S, F), too, where the
            source carries its own ids, as our exports of cached activations do.
        target: an `.h5` file, or a folder that gets `<name>-<fingerprint>.h5`.
        dataset: name of the dataset the ids belong to.
        ids: whose row is whose: "row+1" (row r is item r + 1, as MicroLens publishes), "row" (item r, as MMRec), a file
            for `read_ids`, or the ids themselves. None for a source that carries its own ids.
        name: what the features are, e.g. "videomae-published"; part of the recipe.
        dtype: on disk, "float16", "float32" or "int8".
        check: called with the ids before anything is written; it raises where they are not the dataset's.

    Raises:
        ConfigError: a dtype or name that cannot be, ids missing or given twice over.
        StoreError: no such file, not a 2-d float array, another number of ids than rows, an id twice, values that are
            not finite (in `dtype`), a target that holds another recipe, a source that changes meanwhile, or a file
            that does not read back as it was written.
    """
    disk_type(dtype)
    if not SAFE_NAME.fullmatch(name):
        raise ConfigError(f"name {name!r} becomes a file name; use letters, digits, '.', '_' and '-'")
    sha256 = _sha256(source)  # before it is opened: what is read below is what was hashed, or the import stops
    array = _checked(open_published(source))
    items, convention = _ids(ids, array)
    if len(items) != array.shape[0]:
        raise StoreError(
            f"{source} has {array.shape[0]} rows but there are {len(items)} ids ({convention}); they must agree"
        )
    check_ids(items)
    if check is not None:
        check(items)
    columns = _columns(array, items, dtype)
    recipe = {"name": name, "source": source.name, "sha256": sha256, "ids": convention, "dtype": dtype}
    provenance = Provenance(
        dataset=dataset,
        recipe=recipe,
        libraries=library_versions(["numpy", "h5py", "polars", "safetensors"]),
        command="features import",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = target if target.suffix == ".h5" else target / f"{name}-{provenance.fingerprint[:16]}.h5"
    if path.exists() and FeatureFile(path).provenance.fingerprint != provenance.fingerprint:
        raise StoreError(f"{path} holds features of another source or recipe; choose another name")
    write_file(path, columns, _values(array, dtype, sha256), provenance, check=_read_back)
    return FeatureFile(path, dataset=dataset)


def _sha256(source: Path) -> str:
    """Return the hash of a source's bytes, '' where there is none to open: `open_published` says so better."""
    return file_sha256(source) if source.is_file() else ""


def _checked(array: Published) -> Published:
    axes = (2,) if array.ids is None else (2, 3)  # an array without ids and with three axes is of unknown meaning
    if len(array.shape) not in axes or array.dtype.kind != "f" or 0 in array.shape:
        raise StoreError(
            f"{array.path} holds {array.dtype} of shape {array.shape}; features are a 2-d array of floats, "
            "one row per item"
        )
    return array


def _ids(ids: str | Path | Sequence[str] | None, array: Published) -> tuple[Sequence[str], str]:
    """Return the ids and the convention, in words, that enters the recipe."""
    if array.ids is not None:
        if ids is not None:
            raise ConfigError(f"{array.path} carries its own item ids; leave --ids out")
        return array.ids, "those of the source"
    if ids is None:
        raise ConfigError(
            f"{array.path} carries no item ids; give --ids row+1, row, a text file of ids or i_id_mapping.csv"
        )
    if isinstance(ids, str) and ids == ROW_PLUS_ONE:
        return [str(row + 1) for row in range(array.shape[0])], "row r is item r+1"
    if isinstance(ids, str) and ids == ROW:
        return [str(row) for row in range(array.shape[0])], "row r is item r"
    if isinstance(ids, str | Path):
        if not Path(ids).exists():
            raise StoreError(
                f"ids cannot be read from {ids} (no such file); give row, row+1 or a file of ids, one a line"
            )
        items, source = read_ids(Path(ids)), Path(ids).name
    else:
        items, source = list(ids), "list"
    check_ids(items)
    return items, f"{source}, sha256 {hashlib.sha256(canonical_json(items).encode()).hexdigest()}"


def _floats(array: Published) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (first row, vectors) as float32; what is too large for it becomes infinite and is told later."""
    for start, block in array.blocks():
        with np.errstate(over="ignore"):
            yield start, block.astype(np.float32)


def _values(array: Published, dtype: str, sha256: str) -> Iterator[NDArray[Any]]:
    """Yield the vectors as they go to disk; scales and errors are of an earlier read: the source must be the same."""
    for _, block in _floats(array):
        yield to_disk(block, dtype).values
    if _sha256(array.path) != sha256:
        raise StoreError(f"{array.path} changed while it was read; import it again when nothing writes to it")


def _read_back(path: Path) -> None:
    try:
        FeatureFile(path).verify()
    except StoreError as error:
        raise StoreError(
            f"the imported file does not read back as it was written ({error}); import it again"
        ) from error


def _columns(array: Published, items: Sequence[str], dtype: str) -> FeatureColumns:
    """Read all vectors once: what rounding needs and costs, and whether every row can be stored."""
    scales, errors, bad = [], [], []
    for start, block in _floats(array):
        stored = to_disk(block, dtype)
        errors.append(cosine_error(block, stored))
        bad.append(start + np.flatnonzero(~stored.good))
        if stored.scales is not None:
            scales.append(stored.scales)
    _refuse(array, np.concatenate(bad), items, dtype)
    empty = ("",) * len(items)
    return FeatureColumns(
        tuple(items),
        np.full(len(items), State.DONE, np.uint8),
        *(empty, empty, empty),
        scales=np.concatenate(scales) if scales else None,
        errors=np.concatenate(errors),
    )


def _refuse(array: Published, rows: NDArray[Any], items: Sequence[str], dtype: str) -> None:
    if not len(rows):
        return
    finite = all(np.isfinite(array.slices(row, row + 1)).all() for row in rows.tolist())
    advice = "; import as float32" if dtype != "float32" else "; divide them by a constant"
    raise StoreError(
        f"{array.path}: {len(rows)} of {len(items)} rows hold "
        + (f"values too large for {dtype}{advice}" if finite else "NaN or infinity; repair them")
        + f" (first item {items[int(rows[0])]!r}, row {int(rows[0])})"
    )
