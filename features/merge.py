"""Assemble one feature file from parts (shards, or whole files of one recipe), by item id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from features.errors import StoreError
from features.feature_rows import FeatureColumns, check_ids
from features.layout import write_file
from features.provenance import Provenance
from features.store import FeatureFile

T = TypeVar("T")
MERGE_BYTES = 2**28  # the result is held in memory window by window; each opens the parts that have rows in it


def merge(
    path: Path,
    placed: Mapping[str, FeatureFile],
    provenance: Provenance,
    *,
    stamps: Mapping[str, str] | None = None,
) -> None:
    """Assemble one feature file from parts of the same recipe, whole or not at all.

    Every part is verified first, because damaged bytes would otherwise get a fresh hash in the result. Seconds are
    summed over the parts, unless one of them does not know its own.

    Args:
        path: the file to write; it may be one of the parts.
        placed: item id -> the part that holds its row; the order of the ids is the order of the rows.
        provenance: what the result says of itself.
        stamps: item id -> stamp to record; None keeps the stamps of the parts.

    Raises:
        StoreError: a part has another recipe or dataset, is damaged or lacks a row; the parts differ in width or type;
            there are no parts.
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
    columns, seconds = _gathered(ids, parts, owner, source), _seconds(parts)
    if stamps is not None:
        columns = replace(columns, stamps=tuple(stamps[item] for item in ids))
    write_file(path, columns, _vectors(parts, owner, source), provenance, seconds=seconds)


def _seconds(parts: Sequence[FeatureFile]) -> dict[str, float]:
    if not all(part.seconds for part in parts):
        return {}
    stages = dict.fromkeys(stage for part in parts for stage in part.seconds)
    return {stage: round(sum(part.seconds.get(stage, 0.0) for part in parts), 3) for stage in stages}


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


def _by_part(parts: Sequence[T], owner: NDArray[np.int64]) -> Iterator[tuple[T, NDArray[np.int64]]]:
    """Yield each part (or its column) that owns some of these rows, with the ascending positions of those rows."""
    order = np.argsort(owner, kind="stable")
    present, starts = np.unique(owner[order], return_index=True)
    for number, targets in zip(present.tolist(), np.split(order, starts[1:]), strict=True):
        yield parts[number], targets


def _gathered(
    ids: Sequence[str], parts: Sequence[FeatureFile], owner: NDArray[np.int64], source: NDArray[np.int64]
) -> FeatureColumns:
    places = list(zip(owner.tolist(), source.tolist(), strict=True))
    columns = [part.columns for part in parts]
    scaled = columns[0].scales is not None
    return FeatureColumns(
        ids=tuple(ids),
        states=np.array([columns[part].states[row] for part, row in places], dtype=np.uint8),
        reasons=tuple([columns[part].reasons[row] for part, row in places]),
        stamps=tuple([columns[part].stamps[row] for part, row in places]),
        digests=tuple([columns[part].digests[row] for part, row in places]),
        scales=_column([column.scales for column in columns], owner, source) if scaled else None,
        errors=_column([column.errors for column in columns], owner, source),
    )


def _column(
    columns: Sequence[NDArray[np.float32] | None], owner: NDArray[np.int64], source: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return one column of numbers of the result; NaN for parts without it (layout version 1 has no errors)."""
    gathered = np.full(len(owner), np.nan, dtype=np.float32)
    for column, targets in _by_part(columns, owner):
        if column is not None:
            gathered[targets] = column[source[targets]]
    return gathered


def _vectors(
    parts: Sequence[FeatureFile], owner: NDArray[np.int64], source: NDArray[np.int64]
) -> Iterator[NDArray[Any]]:
    """Yield the merged vectors window by window, in the order of the result."""
    shape, dtype = parts[0].shape[1:], parts[0].dtype
    most = max(1, MERGE_BYTES // (int(np.prod(shape)) * dtype.itemsize))
    for start in range(0, len(owner), most):
        window = np.empty((len(owner[start : start + most]), *shape), dtype=dtype)
        for part, targets in _by_part(parts, owner[start : start + most]):
            part.read_stored(source[start:][targets], targets, window)
        yield window
