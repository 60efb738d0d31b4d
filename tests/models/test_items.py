from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.items.build import (
    Categories,
    CategoryItems,
    FusedItems,
    ItemRepresentation,
    ItemsConfig,
    build_items,
    normalise,
)
from models.shared import representation

N, F = 500, 24
KINDS = {
    "id": ItemsConfig(kind="id"),
    "v": ItemsConfig(kind="v"),
    "dnn": ItemsConfig(kind="dnn"),
    "deep": ItemsConfig(kind="dnn", layers=4, hidden=48),
    "shallow": ItemsConfig(kind="dnn", layers=0),
    "sum": ItemsConfig(kind="id+v"),
    "concat": ItemsConfig(kind="id+v", fuse="concat"),
    "mean": ItemsConfig(kind="id+v", fuse="mean"),
    "gate": ItemsConfig(kind="id+v", fuse="gate"),
}


def features(scale: float = 1.0, offset: float = 0.0, width: int = F) -> Tensor:
    return scale * torch.randn(N, width, generator=torch.Generator().manual_seed(3)) + offset


def make(config: ItemsConfig, given: dict[str, Tensor] | None = None, seed: int = 0) -> ItemRepresentation:
    return build_items(
        config, N, {"video": features()} if given is None else given, torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_forward_and_table_agree(config: ItemsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(representation, "CHUNK", 64)
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


@pytest.mark.parametrize("fuse", ["sum", "concat", "mean", "gate"])
def test_items_never_trained_are_content_alone(fuse: str) -> None:
    items = make(ItemsConfig(kind="id+v", fuse=fuse))
    assert isinstance(items, FusedItems)
    optimizer = torch.optim.AdamW(items.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (items(torch.arange(10)) - 1).square().sum().backward()
        optimizer.step()
    learned = items.parts[0].table()
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


def test_modalities_are_normalised_each_and_are_parts_of_their_own() -> None:
    both = make(KINDS["v"], {"video": features(1000.0, 5.0), "title": features(0.001, 9.0, width=7)})
    assert [part.frozen.shape for part in both.parts] == [(N, F), (N, 7)]
    for part in both.parts:
        torch.testing.assert_close(
            part.frozen.std(0, correction=0), torch.ones(part.frozen.shape[1]), rtol=1e-3, atol=0
        )
        assert part.frozen.mean(0).abs().max() < 1e-3


@pytest.mark.parametrize("fuse", ["sum", "gate", "concat"])
@pytest.mark.parametrize("kind", ["v", "dnn", "id+v"])
def test_several_modalities_start_at_the_same_scale(kind: str, fuse: str) -> None:
    given = {"video": features(), "cover": features().flip(0), "title": features(width=7)}
    items = make(ItemsConfig(kind=kind, fuse=fuse, dim=48), given)
    assert len(items.parts) == 3 + (kind == "id+v")
    assert items.table().shape == (N, 48)
    assert 0.5 < float(items.table().std()) / 0.02 < 1.5


def test_the_gate_starts_as_the_sum_and_learns_to_prefer() -> None:
    given = {"video": features(), "title": features().flip(0)}
    gated, summed = make(ItemsConfig(kind="v", fuse="gate"), given), make(ItemsConfig(kind="v"), given)
    torch.testing.assert_close(gated.table(), summed.table())
    assert isinstance(gated, FusedItems)
    assert gated.gate is not None
    with torch.no_grad():
        gated.gate.bias[1] = -100.0
    torch.testing.assert_close(gated.table(), 2 * gated.parts[0].table())


def test_widths_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"items\.dim is 64; fuse 'concat' shares it out evenly among 3 parts: use 63 or 66"
    ):
        make(ItemsConfig(kind="id+v", fuse="concat"), {"video": features(), "title": features()})


SIDES = {
    "popularity": Categories(torch.arange(N) % 10, torch.arange(N + 1), 10),
    "tags": Categories(torch.tensor([1, 3, 0]), torch.tensor([0, 2, 2, 3] + [3] * (N - 3)), 4),
}


def test_side_features_are_means_of_their_categories() -> None:
    config = ItemsConfig(kind="id", side=("popularity", "tags"), fuse="mean")
    items = build_items(config, N, {}, torch.Generator().manual_seed(0), SIDES)
    learned, level, tags = items.parts
    assert isinstance(tags, CategoryItems)
    rows = torch.tensor([0, 1, 2, 0])
    table = tags.embedding
    expected = torch.stack([(table[1] + table[3]) / 2, torch.zeros(64), table[0], (table[1] + table[3]) / 2])
    torch.testing.assert_close(tags(rows), expected)
    torch.testing.assert_close(items(rows), (learned(rows) + level(rows) + expected) / 3)
    tags(rows).sum().backward()
    assert tags.embedding.grad is not None
    assert tags.embedding.grad[2].abs().sum() == 0


def test_side_features_that_are_not_there_are_named() -> None:
    with pytest.raises(ValueError, match=r"items\.side names 'tags', but the dataset has none"):
        build_items(ItemsConfig(side=("tags",)), N, {}, torch.Generator())
    with pytest.raises(ValueError, match="may stand in it once"):
        ItemsConfig(side=("tags", "tags"))


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
        ({"dim": 0}, "dim 0"),
        ({"layers": -1}, "layers -1"),
        ({"hidden": 0}, "hidden 0"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"init_std": 0.0}, "init_std 0.0"),
        ({"fuse": "product"}, "fuse is 'product'"),
        ({"normalise": "zscore"}, "normalise is 'zscore'"),
    ],
)
def test_impossible_options_are_refused_with_their_value(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemsConfig(**options)
