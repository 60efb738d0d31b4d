"""Import published features: .npy with ids given beside it, Parquet and safetensors with ids of their own."""

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
        source: a .npy, .parquet or .safetensors file with a 2-d array of floats, one row per item. A source that
            carries its own ids, as our exports of cached activations do, may also be (I, S, F).
        target: an `.h5` file, or a folder that gets `<name>-<fingerprint>.h5`.
        dataset: name of the dataset that the ids belong to.
        ids: which item each row belongs to: "row+1" (row r is item r + 1, as MicroLens publishes), "row" (row r is item
            r, as in MMRec), a file for `read_ids`, or the ids themselves. None for a source that carries its own ids.
        name: what the features are, e.g. "videomae-published"; part of the recipe.
        dtype: the type on disk, "float16", "float32" or "int8".
        check: called with the ids before anything is written; it raises if they are not the dataset's.

    Raises:
        ConfigError: a dtype or name cannot be used, or ids are missing, or given for a source that carries its own.
        StoreError: there is no such file, it is not a 2-d float array, the ids are not as many as the rows, an id
            occurs twice, values are not finite (in `dtype`), the target holds another recipe, the source changes
            meanwhile, or the new file does not read back as it was written.
    """
    disk_type(dtype)
    if not SAFE_NAME.fullmatch(name):
        raise ConfigError(f"name {name!r} becomes a file name; use letters, digits, '.', '_' and '-'")
    sha256 = _sha256(source)  # before it is read: if it changes meanwhile, the import stops
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
    """Return the sha256 of a source's bytes; '' if there is no file, which `open_published` reports better."""
    return file_sha256(source) if source.is_file() else ""


def _checked(array: Published) -> Published:
    axes = (2,) if array.ids is None else (2, 3)  # with three axes and no ids, its meaning is unknown
    if len(array.shape) not in axes or array.dtype.kind != "f" or 0 in array.shape:
        raise StoreError(
            f"{array.path} holds {array.dtype} of shape {array.shape}; features are a 2-d array of floats, "
            "one row per item"
        )
    return array


def _ids(ids: str | Path | Sequence[str] | None, array: Published) -> tuple[Sequence[str], str]:
    """Return the ids, and in words where they come from, which enters the recipe."""
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
    """Yield (first row, vectors) as float32; numbers too large for it become infinite and are refused later."""
    for start, block in array.blocks():
        with np.errstate(over="ignore"):
            yield start, block.astype(np.float32)


def _values(array: Published, dtype: str, sha256: str) -> Iterator[NDArray[Any]]:
    """Yield the vectors as they go to disk; StoreError if the source has changed since it was hashed."""
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
    """Read all vectors once, for the scales and costs of rounding; StoreError if a row cannot be stored."""
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
