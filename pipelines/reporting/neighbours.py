"""The nearest neighbours of some items in several feature files.

Letters: n items asked for, B rows of a block, F feature width, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.store import FeatureFile, State


def nearest_items(file: FeatureFile, wanted: Sequence[str], top: int) -> dict[str, list[tuple[str, float]]]:
    """Return for each item its `top` nearest others by cosine, best first; items without a vector are left out.

    The file is read once, in blocks, for all items. Of equal cosines the earlier row comes first.

    Args:
        file: a file of vectors (I, F).
        wanted: unique item ids.
        top: number of neighbours K, fewer where the file has fewer rows.

    Raises:
        StoreError: the file is damaged.
    """
    held = [item for item, have in zip(wanted, file.done(wanted), strict=True) if have]
    if not held:
        return {}
    queries, own = _units(file.read(held)), file.rows(held)
    done = file.columns.states == State.DONE
    scores = np.full((len(held), 0), -np.inf, np.float32)
    rows = np.zeros((len(held), 0), np.int64)
    for start, block in file.blocks():
        here = np.arange(start, start + len(block))
        cosines = queries @ _units(block.astype(np.float32)).T
        cosines[:, ~done[here]] = -np.inf
        cosines[own[:, None] == here[None]] = -np.inf
        scores = np.concatenate([scores, cosines], axis=1)
        rows = np.concatenate([rows, np.broadcast_to(here, cosines.shape)], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
    ids = file.columns.ids
    return {
        item: [(ids[row], float(score)) for row, score in zip(*pair, strict=True) if np.isfinite(score)]
        for item, *pair in zip(held, rows.tolist(), scores.tolist(), strict=True)
    }


def _units(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (B, F) vectors of length 1; rows that are zero or not finite become zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    fit = np.isfinite(lengths) & (lengths > 0)
    found: NDArray[np.float32] = np.where(fit, vectors / np.where(fit, lengths, 1), 0).astype(np.float32)
    return found
