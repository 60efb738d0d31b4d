"""Stored activations of items, which an encoder's top reads: from memory where they fit, otherwise by memory map.

Letters: I items, n items asked for, S tokens or positions, F features of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import StoreError
from features.precision import to_float32
from features.store import AbsentPolicy, FeatureFile
from models.shared.host_copy import host_copy, sent
from pipelines.towers.look_ahead import LookAhead

RESIDENT_BYTES = 2**31  # a file up to this size is read into memory, or onto the GPU, once
BLOCK = 2**22  # numbers that are copied at a time
GPU_SHARE = 4  # a file goes onto the GPU where it takes less than 1 / GPU_SHARE of the free memory


class MappedActivations:
    """The activations (I, S, F) of a dataset's items, read from a feature file by dense index.

    Rows keep the type they are stored in, except that int8 becomes float32. From a file larger than `resident_bytes`,
    only the rows that a batch needs are read, in file order. Meanwhile a thread loads the rows of the next batch into
    the system's page cache.
    """

    def __init__(
        self,
        file: FeatureFile,
        ids: Sequence[str],
        *,
        absent: AbsentPolicy = "error",
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        """Find the rows of `ids`, in dense order.

        Args:
            file: a feature file of activations.
            ids: item ids, each once.
            absent: what becomes of an item without a row: 'error' refuses it, 'zero' gives it zeros, 'mean' the mean
                of the others.
            resident_bytes: the largest size, in bytes, that is kept in memory.

        Raises:
            StoreError: vectors instead of activations, an absent row under 'error', or a damaged file.
        """
        if len(file.shape) != 3:
            raise StoreError(
                f"{file.path} holds vectors of shape {file.shape}, no activations (I, S, F); make a file of those with "
                "`extract --top-blocks`"
            )
        self.file = file
        self._rows = file.locate(ids, absent)
        self._mapped = file.mapped()
        self._scales = file.columns.scales
        self._filling: NDArray[np.float32] | None = None
        if absent == "mean" and (self._rows < 0).any():
            self._filling = self._mean()
        width = file.dtype.itemsize if self._scales is None else 4  # int8 is kept as float32
        size = len(ids) * int(np.prod(file.shape[1:])) * width
        self._resident: Tensor | None = None
        if size <= resident_bytes:
            self._resident = self._stored(np.arange(len(ids)))
            del self._mapped  # pages of an open map count as memory of the process
        else:
            self._ahead = LookAhead(file.path, self._mapped)

    @property
    def resident(self) -> bool:
        """Return whether all rows are in memory."""
        return self._resident is not None

    def expect(self, items: Tensor) -> None:
        """Start to read items (n,) int64 ahead, unless all rows are in memory."""
        if self._resident is None:
            self._ahead.expect(self._rows[items.numpy()])

    def read(self, items: Tensor, tokens: int | None = None) -> Tensor:
        """Return activations (n, S, F) of items (n,) int64, on their device.

        Args:
            items: dense indices.
            tokens: how many of the S are returned, from the first; None = all.

        Raises:
            StoreError: a value is not finite.
        """
        if self._resident is None:
            return sent(self._stored(host_copy(items).numpy(), tokens), items.device)
        if self._resident.device != items.device and _fits(self._resident, items.device):
            self._resident = self._resident.to(items.device)
        if self._resident.device == items.device:
            return self._resident[:, :tokens][items]
        return sent(self._resident[:, :tokens][host_copy(items)], items.device)

    def _stored(self, items: NDArray[np.int64], tokens: int | None = None) -> Tensor:
        rows = self._rows[items]
        kind = self.file.dtype if self._scales is None else np.float32
        count, width = self.file.shape[1:]
        result = np.zeros((len(items), min(tokens or count, count), width), kind)
        for places, values in self._blocks(rows, tokens):
            result[places] = values
        if self._filling is not None:
            result[rows < 0] = self._filling[:tokens].astype(kind)
        return torch.from_numpy(result)

    def _mean(self) -> NDArray[np.float32]:
        """Return the mean (S, F) of the rows that exist."""
        total = np.zeros(self.file.shape[1:], np.float64)
        for _, values in self._blocks(self._rows):
            total += values.sum(axis=0, dtype=np.float64)
        mean: NDArray[np.float32] = (total / int((self._rows >= 0).sum())).astype(np.float32)
        return mean

    def _blocks(
        self, rows: NDArray[np.int64], tokens: int | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Yield (places in `rows`, their values) in file order, some megabytes at a time; skip rows that are -1."""
        order = np.argsort(rows, kind="stable")
        order = order[rows[order] >= 0]
        step = max(1, BLOCK // int(np.prod(self.file.shape[1:])))
        for start in range(0, len(order), step):
            places = order[start : start + step]
            stored = self._mapped[rows[places], :tokens]
            values = stored if self._scales is None else to_float32(stored, self._scales[rows[places]])
            if not np.isfinite(values).all():
                raise StoreError(f"{self.file.path} holds activations that are not finite; see `features verify`")
            yield places, values


def _fits(values: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return values.nbytes * GPU_SHARE < free
