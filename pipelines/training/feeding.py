"""Batches on their way to the device: made on the CPU, planned, packed, and sent while the device still computes.

All tensors of a batch travel in one copy, from page-locked memory and on a stream of its own where there is CUDA. The
page-locked memory is torch's own, which hands a block out again once its copy is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from models.shared.host_copy import map_tensors, with_host_copy

ALIGNED = 16  # bytes; a tensor of any type may start there


class Sender:
    """Sends batches to one device; on a CPU they stay where they are."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def send(self, batch: Any) -> Sent:
        """Start to send a dataclass of tensors of the CPU, which may hold others."""
        tensors: list[Tensor] = []
        map_tensors(batch, lambda tensor: tensors.append(tensor) or tensor)  # type: ignore[func-returns-value]
        if self._device.type == "cpu":
            return Sent(batch, tensors, None, None)
        packed = _packed(tensors, pinned=self._stream is not None)
        with torch.cuda.stream(self._stream):
            there = packed.to(self._device, non_blocking=True)
        return Sent(batch, tensors, there, None if self._stream is None else self._stream.record_event())


class Sent:
    """A batch that has been sent."""

    def __init__(
        self, batch: Any, tensors: list[Tensor], packed: Tensor | None, event: torch.cuda.Event | None
    ) -> None:
        self._batch, self._tensors, self._packed, self._event = batch, tensors, packed, event

    def arrive(self) -> Any:
        """Return the batch on the device. What the device computes from now on waits for the copy; the host does not.

        `host_copy` gives the origin of each of its tensors.
        """
        if self._packed is None:
            return self._batch
        if self._event is not None:
            stream = torch.cuda.current_stream(self._packed.device)
            stream.wait_event(self._event)
            self._packed.record_stream(stream)  # or its memory could be given away before it is read
        arrived = _unpacked(self._packed, self._tensors)
        return map_tensors(self._batch, lambda _: next(arrived))


def _packed(tensors: list[Tensor], *, pinned: bool) -> Tensor:
    packed = torch.empty(sum(map(_room, tensors)), dtype=torch.uint8, pin_memory=pinned)
    for tensor, place in zip(tensors, _unpacked(packed, tensors, attach=False), strict=True):
        place.copy_(tensor)
    return packed


def _unpacked(packed: Tensor, tensors: list[Tensor], *, attach: bool = True) -> Iterator[Tensor]:
    """Yield the parts of `packed` that hold these tensors, each in its shape and type."""
    start = 0
    for tensor in tensors:
        part = packed[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        yield with_host_copy(part, tensor) if attach else part
        start += _room(tensor)


def _room(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNED) * ALIGNED
