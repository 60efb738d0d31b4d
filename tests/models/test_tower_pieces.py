"""Encoders that train in pieces: micro-batches, groups of like lengths, blocks that are made again."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import build_recommender, recommenders
from models.items import towers
from models.items import towers as tower_parts
from models.items.towers import BUCKET, TOGETHER, Tower, TowerItems, by_length
from pipelines.runs.inputs import training_facts
from pipelines.training.fit import fit
from pipelines.training.train_config import TrainConfig
from tests.support.checkerboard import ITEMS, InMemory
from tests.support.toy_towers import (
    FRAMES,
    SPLIT,
    WIDTH,
    close,
    frames,
    gradients,
    model,
    normed,
    source_of,
    steps,
    top,
    trained_weights,
)


def test_batch_norm_by_the_batch_and_pieces_do_not_go_together() -> None:
    normed(bn_mode="batch", checkpointing=True)  # the frozen part is not run again
    normed(micro_batch=4)
    with pytest.raises(
        ValueError, match=r"items\.micro_batch .* BatchNorm in any part of 'toy' would count them twice"
    ):
        normed(bn_mode="batch", micro_batch=4)


@pytest.mark.parametrize("micro", [1, 5, 31, 32, 1000])
def test_micro_batches_give_the_gradient_of_the_whole_batch(micro: int) -> None:
    plain, pieces = model(top(2, dropout=0.0)).eval(), model(top(2, dropout=0.0), micro_batch=micro).eval()
    source = source_of(pieces)
    source.asked.clear()
    assert close(gradients(plain), gradients(pieces))
    assert max(map(len, source.asked)) == min(micro, 32)  # warm items
    assert len(source.asked) == (2 * -(-32 // micro) if micro < 32 else 1)


def test_micro_batches_draw_the_same_dropout_both_times() -> None:
    made = model(top(2, dropout=0.5), micro_batch=7)
    found = gradients(made)
    after = torch.random.get_rng_state()
    items = made.items
    assert isinstance(items, TowerItems)

    def in_one_graph(wanted: Tensor) -> Tensor:
        return torch.cat([items._encode(piece) for piece in torch.split(wanted, 7)])

    items.forward = in_one_graph  # type: ignore[method-assign]
    assert close(found, gradients(made))
    assert torch.equal(torch.random.get_rng_state(), after)
    assert not close(found, gradients(made, seed=4))


@pytest.mark.parametrize("most", [1, 7, 40, 1000])
@pytest.mark.parametrize("longest", [1, 20, 128])
def test_groups_hold_like_lengths(longest: int, most: int) -> None:
    lengths = torch.randint(1, longest + 1, (300,), generator=torch.Generator().manual_seed(longest))
    groups = by_length(lengths, most)
    assert sorted(torch.cat(groups).tolist()) == list(range(300))
    assert all(len(group) <= most and group.tolist() == sorted(group.tolist()) for group in groups)
    for group, after in pairwise(groups):
        assert -(-lengths[after].max() // BUCKET) <= -(-lengths[group].min() // BUCKET)
        assert len(group) >= min(TOGETHER, most)
        if len(group) > TOGETHER:
            assert lengths[group].max() - lengths[group].min() < BUCKET


def test_a_few_long_ones_do_not_make_all_long() -> None:
    lengths = torch.tensor([9] * 200 + [128] * 3 + [30] * 100)
    sizes = [(len(group), int(lengths[group].max())) for group in by_length(lengths, 1000)]
    assert sizes == [(TOGETHER, 128), (100 + 3 - TOGETHER, 30), (200, 9)]
    assert not by_length(lengths[:0], 5)


@pytest.mark.parametrize("options", [{}, {"micro_batch": 7}, {"checkpointing": True}])
def test_items_of_like_lengths_go_together(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tower_parts, "TOGETHER", 8)
    monkeypatch.setattr(towers, "WITH_GRAPH", 12)
    lengths = torch.arange(ITEMS).mul(7).remainder(31) + 1
    plain, grouped = model(top(2, dropout=0.0), **options), top(2, dropout=0.0)
    grouped = model(replace(grouped, lengths=lambda items: lengths[items]), **options)
    assert close(gradients(plain), gradients(grouped))
    source = source_of(grouped)
    for read in (grouped.items.table, lambda: grouped.items(torch.arange(ITEMS).flip(0)).flip(0)):
        source.asked.clear()
        torch.testing.assert_close(read(), plain.items.table())
        assert sorted(item for items in source.asked for item in items) == list(range(ITEMS))
        longest = [-(-int(lengths[items].max()) // BUCKET) for items in source.asked]
        assert len(set(longest)) > 1
        assert longest == sorted(longest, reverse=True)
    most = options.get("micro_batch", 12)
    assert max(map(len, source.asked)) == most


def test_checkpointing_changes_nothing_but_when_blocks_run() -> None:
    plain, again = model(top(2)), model(top(2), checkpointing=True)
    runs: list[int] = []
    assert isinstance(again.items, TowerItems)
    for block in again.items.tower[0].children():
        block.register_forward_hook(lambda *_: runs.append(1))
    first, second = gradients(plain), gradients(again)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    runs.clear()
    gradients(again)
    twice = len(runs)
    with torch.no_grad():
        runs.clear()
        again.items(torch.arange(32))
    assert twice > len(runs) > 0


@pytest.mark.parametrize("option", [{"micro_batch": 4}, {"checkpointing": True}])
def test_batch_norm_that_trains_is_not_run_twice(option: dict[str, Any]) -> None:
    def tower() -> Tower:
        layers = nn.Sequential(nn.Flatten(1), nn.BatchNorm1d(FRAMES * WIDTH), nn.Linear(FRAMES * WIDTH, WIDTH))
        return Tower(InMemory(frames()), layers, (layers,))

    model(tower())
    (name,) = option
    with pytest.raises(ValueError, match=rf"items\.{name} encodes items twice, and BatchNorm .* of 'toy'"):
        model(tower(), **option)


def test_pieces_train_in_mixed_precision() -> None:
    made = model(top(2), micro_batch=5)
    config = TrainConfig(epochs=3, batch_size=32, precision="bfloat16")
    history = fit(made, SPLIT, config, seed=0, run=None, mask="hide").history
    assert history[-1].loss < history[0].loss
    assert all(weight.dtype == torch.float32 for weight in trained_weights(made))


def test_the_softmax_over_all_items_trains_in_pieces() -> None:
    made = model(top(1), micro_batch=8)
    full = build_recommender(
        "sasrec",
        recommenders()["sasrec"].config_class(loss="full"),
        made.items,
        training_facts(SPLIT),
        torch.Generator().manual_seed(0),
    )
    losses = steps(full, 3)
    assert losses[-1] < losses[0]
