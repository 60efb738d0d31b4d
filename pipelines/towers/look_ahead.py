"""Reads the next batch's rows of a memory-mapped file from the disk while the current batch computes.

Nothing is kept here: a thread asks the system to load the rows, so that they are at hand when the map is used. Results
are the same to the bit with it and without. Where the rows are in memory anyway, it costs next to nothing.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 2**17  # bytes asked for at a time: Linux cuts longer ranges to the disk's usual read-ahead


class LookAhead:
    """Reads rows of one mapped file ahead, in its own thread: a request blocks while the disk's queue is full."""

    def __init__(self, path: Path, mapped: NDArray[Any]) -> None:
        """Take a file and its map (I, ...) from `FeatureFile.mapped`."""
        assert isinstance(mapped, np.memmap)
        self._path, self._start, self._row_bytes = path, mapped.offset, mapped.nbytes // max(len(mapped), 1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look-ahead")
        self._wanted: NDArray[np.int64] | None = None

    def expect(self, rows: NDArray[np.int64]) -> Future[None]:
        """Start to read rows (n,) except those below 0; drop what is left of the call before.

        Returns:
            A future that is done when all rows are asked for or dropped. Nobody needs to wait for it.
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
            return  # the code that uses the rows meets the same error and reports it
