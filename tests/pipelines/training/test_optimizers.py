"""The lazy optimiser: AdamW on what a step used, nothing on what it did not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.training.fit import Progress, fit
from pipelines.training.optimizers import LazyAdamW, build_optimizer, clip_gradients
from pipelines.training.train_config import TrainConfig
from tests.support.checkerboard import build, checkerboard

CONFIG = TrainConfig(epochs=4, batch_size=24, lr=1e-2, optimizer="lazy")


def table_and_head(seed: int = 0) -> nn.ModuleDict:
    torch.manual_seed(seed)
    return nn.ModuleDict({"table": nn.Embedding(7, 3), "head": nn.Linear(3, 2)})


def step(model: nn.ModuleDict, optimizer: torch.optim.Optimizer, rows: list[int], clip: float | None = None) -> None:
    optimizer.zero_grad()
    model["head"](model["table"](torch.tensor(rows))).square().sum().backward()
    if clip:
        clip_gradients(model.parameters(), clip)
    optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_it_is_adamw_where_every_row_is_used(decay: float, clip: float | None) -> None:
    ours, theirs = table_and_head(), table_and_head()
    lazy = build_optimizer(ours, "lazy", 0.05, decay)
    plain = build_optimizer(theirs, "adamw", 0.05, decay)
    assert isinstance(lazy, LazyAdamW)
    assert plain is not None
    for rows in ([0, 1, 2, 3, 4, 5, 6, 6, 6], [6, 5, 4, 3, 2, 1, 0], list(range(7)) * 2):
        step(ours, lazy, rows, clip)
        step(theirs, plain, rows, clip)
    for (name, one), two in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


def test_rows_that_are_not_used_keep_value_and_moments() -> None:
    model = table_and_head()
    optimizer = build_optimizer(model, "lazy", 0.05, 0.3)
    assert optimizer is not None
    step(model, optimizer, [0, 1, 2])
    table = model["table"].weight
    before = [tensor.clone() for tensor in (table.detach(), *(optimizer.state[table][k] for k in ("mean", "square")))]
    step(model, optimizer, [2, 3])
    after = [table.detach(), *(optimizer.state[table][k] for k in ("mean", "square"))]
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one[[0, 1, 4, 5, 6]], two[[0, 1, 4, 5, 6]])
        assert not torch.equal(one[2], two[2])


def test_clipping_is_torchs_and_counts_a_row_once() -> None:
    ours, theirs = table_and_head(), table_and_head()
    ours["table"].sparse = True
    for model in (ours, theirs):
        model["head"](model["table"](torch.tensor([1, 1, 1, 4]))).square().sum().backward()
    clip_gradients(ours.parameters(), 0.5)
    nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        torch.testing.assert_close(one.grad.to_dense(), two.grad)


@pytest.mark.parametrize("items", ["id", "id+v", "dnn"])
def test_a_recommender_learns_and_resumes_to_the_same_bits(items: str, tmp_path: Path) -> None:
    split, whole = checkerboard(), build("sasrec", items)
    expected = fit(whole, split, CONFIG, seed=3, run=None, mask="hide")
    assert expected.history[-1].loss < 0.9 * expected.history[0].loss

    def stop(at: Progress) -> None:
        if at.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(build("sasrec", items), split, CONFIG, seed=3, run=tmp_path, mask="hide", progress=stop)
    resumed = build("sasrec", items)
    found = fit(resumed, split, CONFIG, seed=3, run=tmp_path, mask="hide", resume=True)
    assert [record.loss for record in found.history] == [record.loss for record in expected.history]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_both_optimisers_rank_alike() -> None:
    split = checkerboard()
    best = []
    for name in ("adamw", "lazy"):
        config = replace(CONFIG, epochs=25, optimizer=name)  # type: ignore[arg-type]
        best.append(fit(build("sasrec", "id"), split, config, seed=0, run=None, mask="hide").best["NDCG@10"])
    assert abs(best[0] - best[1]) < 0.15
    assert min(best) > 0.5


def test_a_closure_is_refused() -> None:
    optimizer = build_optimizer(table_and_head(), "lazy", 0.1, 0.0)
    assert optimizer is not None
    with pytest.raises(ValueError, match="takes no closure"):
        optimizer.step(lambda: 0.0)
