"""Reading ahead in a file that is used by memory map: rows of the next batch come into memory while this one computes.

Nothing is kept here: a thread asks the system for the rows, which has them at hand when the map is used. What is
computed is the same bits with it and without. Where the rows are in memory anyway it costs next to nothing.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 2**17  # bytes asked for at a time: of longer ranges Linux takes no more than the disk's usual read-ahead


class LookAhead:
    """Reads rows of one mapped file ahead, in a thread of its own: asking waits where the disk's queue is full."""

    def __init__(self, path: Path, mapped: NDArray[Any]) -> None:
        """Take a file and the map (I, ...) that `FeatureFile.mapped` gave of it."""
        assert isinstance(mapped, np.memmap)
        self._path, self._start, self._row_bytes = path, mapped.offset, mapped.nbytes // max(len(mapped), 1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look-ahead")
        self._wanted: NDArray[np.int64] | None = None

    def expect(self, rows: NDArray[np.int64]) -> Future[None]:
        """Start to read rows (n,), numbers below 0 aside; of what was expected before the rest is dropped.

        Returns:
            Done when all rows are asked for, or dropped; nobody needs to wait for it.
        """
        self._wanted = np.sort(rows[rows >= 0])
        return self._thread.submit(self._ask, self._wanted)

    def _ask(self, rows: NDArray[np.int64]) -> None:
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        try:
            with self._path.open("rb") as file:
                for row in rows.tolist():
                    if self._wanted is not rows:
                        return
                    for start in range(0, self._row_bytes, BLOCK):
                        length = min(BLOCK, self._row_bytes - start)
                        place = self._start + row * self._row_bytes + start
                        os.posix_fadvise(file.fileno(), place, length, os.POSIX_FADV_WILLNEED)
        except OSError:
            return  # whoever reads the rows for use meets the error, and says what it means
