"""Initial weights from a given generator, although the constructors of torch's layers read a global one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Let everything inside draw from `generator`; restore the global generator afterwards.

    Layers of `torch.nn` draw their initial weights from the global CPU generator and take no other. Inside this block
    it is seeded with one number drawn from `generator` (a CPU one). Build modules on the CPU and move them afterwards.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
