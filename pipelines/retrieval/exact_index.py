"""The exact search that FAISS does, with NumPy, for macOS.

The wheels of torch and faiss-cpu for macOS each bring an OpenMP runtime, and a process that loads both may crash
(reported again and again, such as in faiss-wheels' issue 73). So no FAISS is loaded there. Results are the same but for
the last bits of scores; a search takes longer, and the index is built for each command.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

USES_FAISS = sys.platform != "darwin"


class ExactIndex:
    """Inner products with (I, D) float32 vectors; attributes and `search` are those of a FAISS index."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Take the vectors; row = item."""
        self.ntotal, self.d = vectors.shape
        self._vectors = vectors

    def search(self, queries: NDArray[np.float32], depth: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores and rows, (n, depth) each, of the best rows for queries (n, D), best first."""
        scores = queries @ self._vectors.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        return np.take_along_axis(scores, rows, axis=1), rows


def scale_to_length_1(vectors: NDArray[np.float32]) -> None:
    """Divide (I, D) vectors by their length, in place; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(lengths > 0, lengths, 1)
