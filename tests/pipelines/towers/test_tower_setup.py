"""The part of an encoder that trains: with or without its dropout, its attention in plain matrix products."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from extract.encoders.cutting import split_encoder
from extract.encoders.entries.tiny import TINY
from extract.encoders.inputs import Tokens
from models.items.towers import batch_norms, towers_of
from models.shared.representation import ItemsConfig
from pipelines.data.load import load_data
from pipelines.runs.experiment import run_recipe
from pipelines.runs.inputs import build_model, open_features
from pipelines.towers.open_towers import load_encoder, open_towers, set_up
from tests.support.encoding import batch
from tests.support.small import recipe
from tests.support.tower_runs import changes, data, losses, media, write_activations

__all__ = ["data"]  # a fixture

E2E = ItemsConfig(kind="e2e", encoder="a", encoder_dropout=False)
DROPPING = {
    *("beit-tiny", "bert-tiny", "minilm-tiny", "mvit-tiny", "swin-tiny", "swin3d-tiny"),
    *("c2d-tiny", "r3d50-tiny", "slow-tiny", "slowfast-tiny", "x3d-tiny"),  # behind the blocks
}


@pytest.mark.parametrize("name", [spec.name for spec in TINY])
def test_an_encoder_without_dropout_trains_what_it_evaluates(name: str) -> None:
    torch.manual_seed(0)
    encoder = load_encoder(name, "random", 0)
    inputs = batch(encoder, 6)
    with torch.no_grad():
        wanted = encoder.eval()(inputs)
        moved = [_in_training(encoder, inputs)]
        set_up((encoder,), E2E, titles=False)
        moved.append(_in_training(encoder, inputs))
    torch.testing.assert_close(moved[1], wanted)
    assert torch.allclose(moved[0], wanted, atol=1e-5) != (name in DROPPING)


def _in_training(encoder: nn.Module, inputs: object) -> Tensor:
    encoder.train()
    for layer in batch_norms(encoder):  # what a batch does to them is another matter
        layer.eval()
    vectors: Tensor = encoder(inputs)
    return vectors


@pytest.mark.parametrize("name", ["bert-tiny", "minilm-tiny"])
def test_plain_attention_gives_the_same_vectors_and_leaves_the_prefix_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    encoder = load_encoder(name, "random", 0).eval()
    prefix, top = split_encoder(encoder, 1)
    ids = torch.randint(5, 90, (8, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12) < torch.tensor([[3], [12], [1], [7], [9], [12], [2], [5]])
    with torch.no_grad():
        states = prefix(Tokens(ids, mask))
        before = top(states)
        set_up((top,), E2E, titles=True)
        torch.testing.assert_close(top(states), before, rtol=1e-5, atol=1e-6)
        assert torch.equal(prefix(Tokens(ids, mask)), states)
    assert _attention(top) == {"eager"}
    assert _attention(prefix) == {"sdpa"}


def _attention(part: nn.Module) -> set[str]:
    configs = [getattr(module, "config", None) for module in part.modules()]
    return {config._attn_implementation for config in configs if config is not None}


def test_a_gpu_keeps_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    encoder = load_encoder("bert-tiny", "random", 0)
    set_up((encoder,), E2E, titles=True)
    assert _attention(encoder) == {"sdpa"}


@pytest.mark.parametrize("kind", ["top", "e2e"])
def test_the_switch_reaches_what_trains_and_nothing_else(kind: str, data: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 2)
    for on in (True, False):
        made = recipe(data, changes(kind, "bert-tiny", 1, (file,), encoder_dropout=on))
        split = load_data(made.data).split
        files = open_features(made, split)
        model = build_model(made, split, files, {}, open_towers(made, split, files, media))
        (tower,) = towers_of(model)
        inside = {id(module) for part in tower._trained for module in part.modules()}
        drops = [module for module in tower.modules() if isinstance(module, nn.Dropout)]
        assert {module.p for module in drops if id(module) in inside} == {0.1 if on else 0.0}
        assert {module.p for module in drops if id(module) not in inside} == {0.1}


def test_top_is_end_to_end_without_dropout_too(data: Path, tmp_path: Path) -> None:
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    for kind in ("top", "e2e"):
        made = recipe(data, changes(kind, "bert-tiny", 1, (file,), encoder_dropout=False))
        run_recipe(made, tmp_path / kind, device="cpu", media=media)
    with_it = recipe(data, changes("top", "bert-tiny", 1, (file,)))
    run_recipe(with_it, tmp_path / "with", device="cpu")
    assert losses(tmp_path / "top") == pytest.approx(losses(tmp_path / "e2e"), rel=1e-5)
    assert losses(tmp_path / "top")[0] != losses(tmp_path / "with")[0]
