"""Store and hash the table of a feature file: everything except its vectors. Only features/layout.py uses it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from features.feature_rows import FeatureColumns

MAX_REASON_BYTES = 200
TEXT_COLUMNS = ("ids", "reasons", "stamps", "digests")
WIDE_BYTES = 2**24  # a text column that would take more at one fixed width, mostly padding, is stored at variable width


def numbers_of(columns: FeatureColumns) -> dict[str, NDArray[Any]]:
    """Return the columns of numbers that the file has, in the order in which they are hashed."""
    every = {"states": (columns.states, np.uint8), "scales": (columns.scales, np.float32)}
    every |= {"errors": (columns.errors, np.float32)}
    return {name: np.ascontiguousarray(column, kind) for name, (column, kind) in every.items() if column is not None}


def packed(columns: FeatureColumns) -> dict[str, bytes]:
    """Return each text column as one byte string, joined by NUL, which is fast for a million rows."""
    # Reasons quote error messages, and nothing that these hold may stop the write.
    reasons = [_cut(reason) if reason else "" for reason in columns.reasons]
    return {name: "\0".join(getattr(columns, name)).encode() for name in ("ids", "stamps", "digests")} | {
        "reasons": "\0".join(reasons).encode()
    }


def _cut(reason: str) -> str:
    encoded = reason.replace("\0", " ").encode(errors="replace")
    return encoded[:MAX_REASON_BYTES].decode(errors="ignore")


def write_texts(handle: h5py.File, name: str, values: Sequence[bytes]) -> None:
    """Store texts at one fixed width, which reads 100 times faster, unless a few long ones would widen all of them."""
    width = max(map(len, values), default=0) or 1
    padded = width * len(values)
    if padded > WIDE_BYTES and padded > 4 * sum(map(len, values)):
        handle.create_dataset(name, data=np.array(values, dtype=object), dtype=h5py.string_dtype("utf-8"))
    else:
        handle.create_dataset(name, data=np.array(values, dtype=h5py.string_dtype("utf-8", width)))


def table_sha256(provenance: str, texts: dict[str, bytes], numbers: dict[str, NDArray[Any]]) -> str:
    """Return the hash of a table. Texts hold no NUL and columns are equally long, so no two tables hash alike."""
    digest = hashlib.sha256(provenance.encode() + b"\0")
    for name in TEXT_COLUMNS:
        digest.update(texts[name] + b"\0")
    for column in numbers.values():
        digest.update(column.data)
    return digest.hexdigest()
