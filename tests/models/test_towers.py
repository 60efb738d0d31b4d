"""Encoders that train inside a recommender: exact, encoded once, frozen where they are frozen."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.items.build import ItemsConfig, build_items
from models.items.towers import Tower, TowerItems, held_tables
from pipelines.ranking.full_ranking import evaluate
from pipelines.runs.record import parameter_counts
from pipelines.training.fit import Progress, fit
from pipelines.training.optimizers import build_optimizer
from tests.support.checkerboard import ITEMS, InMemory, build
from tests.support.toy_towers import (
    CONFIG,
    FRAMES,
    SPLIT,
    WIDTH,
    Transformer,
    alike,
    e2e,
    frames,
    gradients,
    model,
    normed,
    source_of,
    steps,
    top,
    trained_weights,
)


@pytest.mark.parametrize(("count", "cached"), [(1, 1), (2, 2), (1, 2), (1, 3), (3, 3)])
@pytest.mark.parametrize("name", ["sasrec", "dssm"])
def test_top_is_end_to_end(name: str, count: int, cached: int) -> None:
    whole, cut = model(e2e(count), name, kind="e2e"), model(top(count, cached), name)
    assert len(trained_weights(whole)) == len(trained_weights(cut))
    start = [weight.clone() for weight in trained_weights(cut)]
    assert steps(whole) == pytest.approx(steps(cut), rel=1e-5)
    alike(whole, cut)
    assert all(not torch.equal(before, now) for before, now in zip(start, trained_weights(cut), strict=True))


def test_the_wrong_activations_are_not_end_to_end() -> None:
    whole, cut = model(e2e(2), kind="e2e"), model(top(2, seed=1))
    assert steps(whole) != pytest.approx(steps(cut), rel=1e-4)


def test_each_item_is_read_once_per_step_and_once_per_evaluation() -> None:
    made = model(top(1))
    source = source_of(made)
    source.asked.clear()
    vectors = made.items(torch.tensor([7, 3, 7, 7, 3]))
    assert source.asked == [[3, 7]]
    torch.testing.assert_close(vectors[[0, 1]], vectors[[3, 4]], rtol=0, atol=0)
    source.asked.clear()
    evaluate(made, SPLIT.test, SPLIT.train_counts, mask="hide", batch_size=5)
    assert [item for items in source.asked for item in items] == list(range(ITEMS))


def test_a_held_table_is_let_go() -> None:
    made = model(top(1)).eval()
    some = torch.tensor([5, 1])
    with torch.no_grad():
        fresh = made.items(some)
        with held_tables(made):
            torch.testing.assert_close(made.items(some), fresh)
            source_of(made).asked.clear()
            made.items(some)
            assert not source_of(made).asked
        made.items.project.weight.mul_(2)
        assert not torch.allclose(made.items(some), fresh)


def test_frozen_parts_stay_in_eval_mode_and_untrained() -> None:
    whole = Transformer()
    whole.steps.insert(1, nn.BatchNorm1d(FRAMES))
    _, trained = whole.steps[:-2], whole.steps[-2:]
    made = model(Tower(InMemory(frames()), whole, (trained,)))
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    steps(made, 2)
    made.train()
    leaves = [(name, module) for name, module in whole.steps.named_modules() if not list(module.children())]
    modes = {name: module.training for name, module in leaves}
    assert {name for name, training in modes.items() if training} == {
        name for name in modes if name.split(".")[0] in ("4", "5")
    }
    assert made.eval().train().items.tower.steps[0].training is False
    moved = {name for name, tensor in whole.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, _ in whole.named_parameters() if name.split(".")[1] in ("4", "5")}


def test_batch_norm_of_the_frozen_part_may_go_by_the_batch(tmp_path: Path) -> None:
    still, moving = normed(), normed(bn_mode="batch")
    norms = [made.items.tower.steps[1] for made in (still, moving)]
    first, some = [norm.running_mean.clone() for norm in norms], torch.arange(5)
    assert torch.equal(*first)  # nothing was counted while the model was built
    for made, mode in ((still, False), (moving, True)):
        inside = [(name, module.training) for name, module in made.train().items.tower.steps[:-2].named_modules()]
        assert {name for name, training in inside if name and training} == ({"1"} if mode else set())
        assert not any(module.training for module in made.eval().items.tower.modules())
        assert not any(parameter.requires_grad for parameter in made.items.tower.steps[1].parameters())
        steps(made, 2)
    assert torch.equal(norms[0].running_mean, first[0])
    assert not torch.equal(norms[1].running_mean, first[1])
    state = moving.state_dict()
    assert {name for name in set(state) - set(still.state_dict()) if ".steps.1." in name} == set(state) - set(
        still.state_dict()
    )
    again = normed(bn_mode="batch", weights="random").eval()
    again.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(again.items(some), moving.eval().items(some))
        assert torch.allclose(moving.items(some)[:2], moving.items(some[:2]), atol=1e-6)


def test_a_checkpoint_leaves_frozen_weights_out_and_takes_its_own() -> None:
    one, two = model(e2e(1), seed=1).eval(), model(e2e(1), seed=2).eval()
    state = one.state_dict()
    assert {name.split(".")[3] for name in state if name.startswith("items.tower.")} == {"3", "4"}
    two.load_state_dict(state)
    assert set(two.state_dict()) == set(state)
    with torch.no_grad():
        torch.testing.assert_close(one.item_vectors(), two.item_vectors(), rtol=0, atol=0)
    del state["items.tower.steps.4.1.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*steps\.4\.1\.weight"):
        two.load_state_dict(state)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("options", [{}, {"micro_batch": 5}, {"checkpointing": True, "encoder_lr": 1e-4}])
def test_a_killed_run_resumes_to_the_same_bits(options: dict[str, Any], tmp_path: Path) -> None:
    def stop(at: Progress) -> None:
        if (at.epoch, at.step) == (3, 2):
            raise KilledError

    whole = model(e2e(1), **options)
    expected = fit(whole, SPLIT, CONFIG, seed=0, run=None, mask="hide")
    with pytest.raises(KilledError):
        fit(model(e2e(1), **options), SPLIT, CONFIG, seed=0, run=tmp_path, mask="hide", progress=stop)
    resumed = model(e2e(1), **options)
    found = fit(resumed, SPLIT, CONFIG, seed=0, run=tmp_path, mask="hide", resume=True)
    assert [epoch.loss for epoch in found.history] == [epoch.loss for epoch in expected.history]
    assert found.best == expected.best
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_another_rate_of_the_encoder_does_not_resume(tmp_path: Path) -> None:
    fit(model(e2e(1), encoder_lr=1e-4), SPLIT, CONFIG, seed=0, run=tmp_path, mask="hide")
    with pytest.raises(Exception, match=r"items\.encoder_lr of tower 0 was 0\.0001, now 0\.001"):
        fit(model(e2e(1), encoder_lr=1e-3), SPLIT, CONFIG, seed=0, run=tmp_path, mask="hide", resume=True)


@pytest.mark.parametrize("name", ["adamw", "lazy"])
def test_the_encoder_has_its_own_rate(name: Any) -> None:
    made = model(top(2), encoder_lr=1e-5)
    assert isinstance(made.items, TowerItems)
    optimizer = build_optimizer(made, name, 1e-2, 0.1)
    assert optimizer is not None
    inside = {id(parameter) for parameter in made.items.tower.parameters() if parameter.requires_grad}
    listed = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(weight) for weight in made.parameters() if weight.requires_grad)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr"] == (1e-5 if id(parameter) in inside else 1e-2)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
    before = [weight.clone() for weight in trained_weights(made)]
    gradients(made)
    optimizer.step()
    far = {id(now): float((now.detach() - old).abs().max()) for now, old in zip(made.parameters(), before, strict=True)}
    assert max(change for weight, change in far.items() if weight in inside) < 2e-5
    assert min(change for weight, change in far.items() if weight not in inside) > 1e-3


def test_the_record_tells_how_much_of_which_part_trains() -> None:
    made = model(e2e(1))
    counts = parameter_counts(made)
    whole = sum(weight.numel() for weight in Transformer().parameters())
    trained = sum(weight.numel() for weight in Transformer().split(1)[1].parameters())
    assert counts["items.tower"] == {"trained": trained, "frozen": whole - trained}
    assert counts["items"] == {"trained": 16 * WIDTH + 16, "frozen": 0}
    assert sum(part["trained"] for part in counts.values()) == sum(weight.numel() for weight in trained_weights(made))


@pytest.mark.parametrize("how", ["none", "l2", "standard"])
@pytest.mark.parametrize("scale", [0.01, 300.0])
def test_items_start_at_the_same_scale_whatever_the_encoder(how: str, scale: float) -> None:
    tower = top(1)
    with torch.no_grad():
        tower.trained[0][-1][1].weight.mul_(scale)
    spread = float(model(tower, normalise=how).item_vectors().std())
    assert 0.4 * 0.02 < spread < 2 * 0.02


def test_inputs_become_float32_at_the_door() -> None:
    half = frames().half()
    stored, plain = e2e(1, half), e2e(1, half.float())
    assert steps(model(stored), 2) == steps(model(plain), 2)


def test_several_encoders_are_parts_of_one_item() -> None:
    generator = torch.Generator().manual_seed(0)
    config = ItemsConfig(kind="top", dim=16, encoder=("a", "b"), fuse="concat")
    items = build_items(config, ITEMS, {}, generator, towers={"a": top(1), "b": top(2, seed=1)})
    assert [part.dim for part in items.parts] == [8, 8]
    assert items.table().shape == (ITEMS, 16)


def test_an_encoder_that_gives_no_vectors_is_refused() -> None:
    broken = copy.deepcopy(top(1))
    with torch.no_grad():
        broken.trained[0][-1][1].bias.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"encoder 'toy' gives shape \(32, 12\), but must give finite vectors"):
        model(broken)
    with pytest.raises(ValueError, match=r"items\.kind is 'top' but no encoder is given"):
        build_items(ItemsConfig(kind="top", encoder="toy"), ITEMS, {}, torch.Generator())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "top"}, "items.kind is 'top', which trains an encoder; name it under items.encoder"),
        ({"kind": "e2e", "encoder": ()}, "items.kind is 'e2e', which trains"),
        ({"encoder": ("a", "a")}, "give the name of each encoder, and give it once"),
        ({"encoder": ""}, "give the name of each encoder"),
        ({"top_blocks": 0}, "items.top_blocks is 0; it must be at least 1, or 'all'"),
        ({"encoder_lr": 0.0}, "items.encoder_lr is 0.0"),
        ({"micro_batch": 0}, "items.micro_batch is 0"),
        ({"bn_mode": "train"}, "items.bn_mode is 'train'; known: eval, batch"),
        (
            {"kind": "top", "encoder": "a", "bn_mode": "batch"},
            "bn_mode is 'batch', which kind 'top' cannot have: .*e2e",
        ),
    ],
)
def test_impossible_options_are_refused_with_their_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemsConfig(**options)


def test_the_toy_of_the_contract_is_one() -> None:
    assert isinstance(build("sasrec", "top").items, TowerItems)
