"""The training loop on a GPU: the host starts its work and never waits for it, except where it is written down here.

A wait costs more than it computes: the GPU runs dry until the host has started the next operations. What waits is
counted on a pretended GPU (support/pretend_gpu.py), step by step, for every recommender that trains.
"""

from __future__ import annotations

from collections import Counter

import pytest

from pipelines.training.fit import Progress, fit
from pipelines.training.train_config import TrainConfig
from tests.support.checkerboard import CASES, build, checkerboard
from tests.support.pretend_gpu import counted_waits, pretend_gpu

TRAINED = [(name, items) for name, items in CASES if name not in ("itemknn", "popularity")]
ALLOWED: dict[str, int] = {}  # waits per step; models that are not named have none


def waits_per_step(name: str, items: str) -> list[Counter[str]]:
    """Return what waited in the steps of an epoch, all but the first."""
    found: list[Counter[str]] = []
    with pretend_gpu() as device, counted_waits() as waits:

        def hear(at: Progress) -> None:
            if at.record is None:
                found.append(Counter(waits))
                waits.clear()

        config = TrainConfig(epochs=1, batch_size=16)
        fit(build(name, items), checkerboard(), config, seed=0, run=None, mask="hide", device=device, progress=hear)
    return found[1:]


@pytest.mark.parametrize(("name", "items"), TRAINED, ids=[f"{name}-{items}" for name, items in TRAINED])
def test_no_step_waits_for_the_gpu(name: str, items: str) -> None:
    for waited in waits_per_step(name, items):
        assert waited.total() <= ALLOWED.get(name, 0), dict(waited)
