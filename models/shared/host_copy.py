"""Whole numbers that the host knows and a device holds: copies that nothing waits for.

Reading a tensor back from a GPU waits until all work before it is done, and the GPU then runs dry. Numbers that were
computed on the CPU and sent therefore keep their origin: `host_copy` returns it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")


def sent(host: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on `device`, without waiting for the copy; `host_copy` gives back the original."""
    if device.type == "cpu":
        return host
    host = host.contiguous()
    there = (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)
    return with_host_copy(there, host)


def with_host_copy(there: Tensor, host: Tensor) -> Tensor:
    """Let `host_copy` return `host` for this very tensor; its values must not change afterwards."""
    there._on_host = host  # type: ignore[attr-defined]
    return there


def host_copy(tensor: Tensor) -> Tensor:
    """Return a tensor's values on the CPU: the original of what was sent; anything else is read back, which waits."""
    host: Tensor | None = getattr(tensor, "_on_host", None)
    return tensor.cpu() if host is None else host


def map_tensors(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """Return a dataclass, or several inside one another, with every tensor changed; the rest stays."""
    if isinstance(value, Tensor):
        return cast(T, change(value))
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed: dict[str, Any] = {one.name: map_tensors(getattr(value, one.name), change) for one in fields(value)}
    return cast(T, replace(value, **changed))
