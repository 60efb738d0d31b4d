from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models import items as items_module
from models.items import FusedItems, ItemRepresentation, ItemsConfig, build_items, normalise

N, F = 500, 24
KINDS = {
    "id": ItemsConfig(kind="id"),
    "v": ItemsConfig(kind="v"),
    "dnn": ItemsConfig(kind="dnn"),
    "deep": ItemsConfig(kind="dnn", layers=4, hidden=48),
    "shallow": ItemsConfig(kind="dnn", layers=0),
    "sum": ItemsConfig(kind="id+v"),
    "concat": ItemsConfig(kind="id+v", fuse="concat"),
}


def features(scale: float = 1.0, offset: float = 0.0, width: int = F) -> Tensor:
    return scale * torch.randn(N, width, generator=torch.Generator().manual_seed(3)) + offset


def make(config: ItemsConfig, given: dict[str, Tensor] | None = None, seed: int = 0) -> ItemRepresentation:
    return build_items(
        config, N, {"video": features()} if given is None else given, torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_forward_and_table_agree(config: ItemsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items_module, "CHUNK", 64)
    items = make(config).train()
    table = items.table()
    assert table.shape == (N, items.dim) == (N, config.dim)
    assert items.training
    some = torch.tensor([4, 0, 499])
    torch.testing.assert_close(items.eval()(some), table[some])


@pytest.mark.parametrize("how", ["none", "l2", "standard"])
@pytest.mark.parametrize("scale", [0.01, 300.0])
@pytest.mark.parametrize("kind", ["v", "dnn", "deep", "shallow", "sum"])
def test_items_start_at_the_same_scale_whatever_the_encoder(kind: str, scale: float, how: str) -> None:
    config = replace(KINDS[kind], normalise=how)
    spread = float(make(config, {"video": features(scale)}).table().std())
    assert 0.4 * config.init_std < spread < 2 * config.init_std


def test_learned_items_start_at_init_std() -> None:
    assert float(make(ItemsConfig(kind="id", init_std=0.3)).table().std()) == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("fuse", ["sum", "concat"])
def test_items_never_trained_are_content_alone(fuse: str) -> None:
    items = make(ItemsConfig(kind="id+v", fuse=fuse))
    assert isinstance(items, FusedItems)
    optimizer = torch.optim.AdamW(items.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (items(torch.arange(10)) - 1).square().sum().backward()
        optimizer.step()
    learned = items.learned.table()
    assert torch.equal(learned[10:], torch.zeros_like(learned[10:]))
    assert (learned[:10].abs() > 1e-3).all()


def test_dropout_acts_in_training_only() -> None:
    items = make(replace(KINDS["dnn"], dropout=0.5))
    rows = torch.arange(50)
    assert not torch.equal(items.train()(rows), items(rows))
    assert torch.equal(items.eval()(rows), items(rows))


def test_dnn_layers_are_those_of_figure_5() -> None:
    def names(config: ItemsConfig) -> list[str]:
        return [type(layer).__name__ for layer in make(config).project]

    assert names(KINDS["shallow"]) == ["Linear", "GELU"]
    assert names(KINDS["dnn"]) == ["Linear", "GELU", *["Dropout", "Linear", "GELU"] * 2]
    widths = [
        (layer.in_features, layer.out_features) for layer in make(KINDS["deep"]).project if hasattr(layer, "bias")
    ]
    assert widths == [(F, 48), (48, 48), (48, 48), (48, 48), (48, 64)]


def test_modalities_are_normalised_each_and_put_side_by_side() -> None:
    both = make(KINDS["v"], {"video": features(1000.0, 5.0), "title": features(0.001, 9.0, width=7)})
    assert both.frozen.shape == (N, F + 7)
    torch.testing.assert_close(both.frozen.std(0, correction=0), torch.ones(F + 7), rtol=1e-3, atol=1e-3)
    assert both.frozen.mean(0).abs().max() < 1e-3


def test_l2_gives_length_one_and_leaves_zero_rows() -> None:
    given = features(7.0)
    given[3] = 0
    lengths = normalise(given, "l2").norm(dim=1)
    assert lengths[3] == 0
    torch.testing.assert_close(lengths[4:], torch.ones(N - 4))


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_constant_dimensions_become_zero_not_noise(value: float) -> None:
    given = features()
    given[:, 2] = value
    given[::2, 2] = given[::2, 2].nextafter(torch.tensor(torch.inf))  # the noise of a sum in float32
    found = normalise(given, "standard")
    assert torch.isfinite(found).all()
    assert found[:, 2].abs().max() < 1e-3
    assert found[:, 1].std() > 0.9


def test_none_keeps_the_vectors() -> None:
    assert torch.equal(normalise(features(3.0, 1.0), "none"), features(3.0, 1.0))


def test_id_ignores_features_but_not_their_row_count() -> None:
    assert torch.equal(make(KINDS["id"]).table(), make(KINDS["id"], {}).table())
    with pytest.raises(ValueError, match=r"'video' have shape \(3, 2\); needed: \(500, F\)"):
        make(KINDS["id"], {"video": torch.zeros(3, 2)})


@pytest.mark.parametrize("kind", ["v", "dnn", "id+v"])
def test_missing_features_are_named(kind: str) -> None:
    with pytest.raises(ValueError, match="no features are given"):
        make(ItemsConfig(kind=kind), {})


def test_features_that_are_not_finite_are_refused() -> None:
    given = features()
    given[7, 3] = torch.nan
    with pytest.raises(ValueError, match="'video' hold values that are not finite"):
        make(KINDS["v"], {"video": given})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "vid"}, "items.kind is 'vid'"),
        ({"kind": "id+v", "fuse": "concat", "dim": 63}, "dim is 63"),
        ({"dim": 0}, "dim 0"),
        ({"layers": -1}, "layers -1"),
        ({"hidden": 0}, "hidden 0"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"init_std": 0.0}, "init_std 0.0"),
        ({"fuse": "mean"}, "fuse is 'mean'"),
        ({"normalise": "zscore"}, "normalise is 'zscore'"),
    ],
)
def test_impossible_options_are_refused_with_their_value(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemsConfig(**options)
