"""The random numbers of a training epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def epoch_randomness(seed: int, epoch: int, device: torch.device) -> Iterator[torch.Generator]:
    """Give an epoch its own generator; dropout, which only knows the global ones, starts from the same seed inside."""
    value = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(value)
        yield torch.Generator().manual_seed(value)
