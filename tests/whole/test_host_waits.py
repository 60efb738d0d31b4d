"""The training loop on a GPU: the host starts its work and never waits for it, except where it is written down here.

A wait costs more than it computes: the GPU runs dry until the host has started the next operations. What waits is
counted on a pretended GPU (support/pretend_gpu.py), step by step, for every recommender that trains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from features.errors import ConfigError
from models.shared.host_copy import host_copy
from models.shared.recommender import PairBatch, TrainBatch, TrainOutput
from pipelines.training.feeding import Sender
from pipelines.training.fit import Progress, fit
from pipelines.training.train_config import TrainConfig
from tests.support.checkerboard import CASES, build, checkerboard
from tests.support.pretend_gpu import counted_waits, pretend_gpu

TRAINED = [(name, items) for name, items in CASES if name not in ("itemknn", "popularity")]
# Waits per step; models that are not named have none. MMGCN picks out the part of its graph that leads into the batch:
# two waits (how many edges it has, and which nodes are in it) for each layer that is cut, here the last one.
ALLOWED = {"mmgcn": 2}


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
        assert waited.total() == ALLOWED.get(name, 0), dict(waited)


def test_losses_of_a_gpu_are_read_some_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.training.fit.LOOK_EVERY", 2)
    assert [waited.total() for waited in waits_per_step("sasrec", "id")] == [1, 0, 1]  # of steps 2, 3 and 4


def test_a_bad_loss_of_a_gpu_is_found_late_and_names_its_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, steps = build("sasrec", "id"), 0
    forward = model.forward

    def bad_from_the_second_step(batch: TrainBatch) -> TrainOutput:
        nonlocal steps
        steps += 1
        output = forward(batch)
        return replace(output, loss=output.loss * (torch.inf if steps > 1 else 1))

    monkeypatch.setattr(model, "forward", bad_from_the_second_step)
    with pretend_gpu() as device, pytest.raises(ConfigError, match=r"loss is inf at epoch 1, step 2 of 4; .*train\.lr"):
        fit(model, checkerboard(), TrainConfig(batch_size=16), seed=0, run=None, mask="hide", device=device)
    assert steps == 4  # the epoch's end reads what no look has read


@pytest.mark.parametrize(
    "wait",
    [
        lambda there: float(there.sum()),
        lambda there: bool((there > 0).any()),
        lambda there: there.cpu(),
        lambda there: there.tolist(),
        lambda there: there.nonzero(),
        lambda there: torch.unique(there),
        lambda there: there[there > 1],
        lambda there: there.masked_select(there > 1),
        lambda there: there.repeat_interleave(there),
        lambda there: torch.bincount(there),
        lambda there: torch.arange(3).to(there.device),
    ],
)
def test_what_waits_is_counted(wait: Callable[[Tensor], Any]) -> None:
    with pretend_gpu() as device, counted_waits() as waits:
        there = torch.arange(3).to(device, non_blocking=True)
        assert not waits
        wait(there)
        assert waits.total() == 1


def test_what_does_not_wait_is_not_counted() -> None:
    with pretend_gpu() as device, counted_waits() as waits:
        there = torch.arange(3).to(device, non_blocking=True)
        there[there.clone()] = 1
        there.masked_fill_(there > 1, 0).repeat_interleave(there, output_size=3)
        torch.where(there > 0, there, 2).index_fill_(0, there.clone(), 3)
        assert not waits


def test_a_batch_arrives_as_it_was_sent() -> None:
    batch = TrainBatch(torch.arange(3), torch.arange(6).view(3, 2), torch.tensor([[True, False]] * 3))
    batch = replace(batch, plan=PairBatch(torch.rand(5), torch.zeros(0, 2)))
    with pretend_gpu() as device:
        arrived = Sender(torch.device(device)).send(batch).arrive()
        for there, here in ((arrived, batch), (arrived.plan, batch.plan)):
            assert there.users.device == torch.device(device)
            assert torch.equal(there.users.cpu(), here.users)
            assert torch.equal(there.items.cpu(), here.items)
            assert host_copy(there.items) is here.items
        assert arrived.plan.items.shape == (0, 2)
