"""Items from several layers of a frozen encoder: a learned mix, and side adapters. Against plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.items.adapters import TEMPERATURE, AdapterItems, InterItems
from models.items.build import FusedItems, ItemRepresentation, ItemsConfig, build_items
from models.items.frozen import FrozenItems

N, L, F = 300, 4, 12
LAYERED = {
    "v": ItemsConfig(kind="v", mix=True),
    "dnn": ItemsConfig(kind="dnn", mix=True),
    "id+v": ItemsConfig(kind="id+v", mix=True),
    "adapter": ItemsConfig(kind="adapter"),
    "narrow": ItemsConfig(kind="adapter", hidden=3),
}
Numbers = NDArray[np.float64]


def layers(seed: int = 3, scale: float = 1.0, count: int = L, width: int = F) -> Tensor:
    return scale * torch.randn(N, count, width, generator=torch.Generator().manual_seed(seed)) + scale


def make(config: ItemsConfig, given: dict[str, Tensor] | None = None) -> ItemRepresentation:
    return build_items(config, N, given or {"title": layers()}, torch.Generator().manual_seed(0))


def shaken(items: ItemRepresentation) -> ItemRepresentation:
    """Return a representation whose every parameter has left its start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in items.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return items


def numbers(module: torch.nn.Module) -> dict[str, Numbers]:
    return {name: tensor.detach().double().numpy() for name, tensor in module.named_parameters()}


def softmax(values: Numbers) -> Numbers:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def adapted(states: Numbers, of: dict[str, Numbers], place: int) -> Numbers:
    weights = {
        name: of[f"side.adapters.{place}.{name}"] for name in ("down.weight", "down.bias", "up.weight", "up.bias")
    }
    inside = np.maximum(states @ weights["down.weight"].T + weights["down.bias"], 0)
    return states + inside @ weights["up.weight"].T + weights["up.bias"]


def mapped(states: Numbers, of: dict[str, Numbers]) -> Tensor:
    return torch.from_numpy(states @ of["project.weight"].T + of["project.bias"]).float()


@pytest.mark.parametrize("config", LAYERED.values(), ids=LAYERED)
def test_some_all_and_the_table_agree(config: ItemsConfig) -> None:
    items = shaken(make(replace(config, dropout=0.5))).train()
    table, some = items.table(), torch.tensor([4, 0, N - 1, 4])
    assert table.shape == (N, config.dim)
    torch.testing.assert_close(items.eval()(some), table[some])
    torch.testing.assert_close(items.everything(), table)


@pytest.mark.parametrize("scale", [0.01, 300.0])
@pytest.mark.parametrize("how", ["none", "l2", "standard"])
@pytest.mark.parametrize("config", LAYERED.values(), ids=LAYERED)
def test_items_start_at_init_std(config: ItemsConfig, how: str, scale: float) -> None:
    spread = float(make(replace(config, normalise=how), {"title": layers(scale=scale)}).table().std())
    assert 0.4 * config.init_std < spread < 2 * config.init_std


def test_every_layer_is_normalised_for_itself() -> None:
    given = layers() * torch.tensor([1.0, 10.0, 0.1, 1000.0])[:, None]
    items = make(LAYERED["adapter"], {"title": given})
    assert isinstance(items, AdapterItems)
    torch.testing.assert_close(items.frozen.std(0, correction=0), torch.ones(L, F), rtol=1e-3, atol=0)
    torch.testing.assert_close(items.frozen.mean(0), torch.zeros(L, F), rtol=0, atol=1e-3)


# The learned mix.


def test_the_mix_is_equation_1_of_elmo() -> None:
    items = shaken(make(ItemsConfig(kind="v", mix=True, normalise="none")))
    of, given = numbers(items), layers().double().numpy()
    mixed = of["mix.gamma"] * sum(share * given[:, place] for place, share in enumerate(softmax(of["mix.weights"])))
    torch.testing.assert_close(items.table(), mapped(mixed, of))


def test_a_mix_starts_as_the_mean_of_the_layers_at_their_length() -> None:
    config = ItemsConfig(kind="v", normalise="none")
    mixed, plain = make(replace(config, mix=True)), make(config, {"title": layers().mean(1)})
    torch.testing.assert_close(mixed.table(), plain.table())
    assert isinstance(mixed, FrozenItems)
    length = mixed.content(torch.arange(N)).square().sum(1).mean()
    torch.testing.assert_close(length, layers().square().sum(2).mean())


def test_a_mix_learns_which_layer_tells() -> None:
    given = layers()
    items = make(ItemsConfig(kind="v", mix=True, dim=8), {"title": given})
    assert isinstance(items, FrozenItems)
    assert items.mix is not None
    target = items.frozen[:, 2] @ torch.randn(F, 8, generator=torch.Generator().manual_seed(5))
    optimizer = torch.optim.Adam(items.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        (items(torch.arange(N)) - target).square().mean().backward()
        optimizer.step()
    shares = items.mix.shares().tolist()
    assert sum(shares) == pytest.approx(1)
    assert shares[2] > 0.9


def test_files_of_layers_are_parts_with_a_mix_each() -> None:
    items = make(ItemsConfig(kind="v", mix=True), {"title": layers(), "cover": layers(4, count=2, width=5)})
    assert isinstance(items, FusedItems)
    assert [part.mix.shares().shape for part in items.parts] == [(L,), (2,)]


# Side adapters.


def test_the_side_network_is_that_of_the_docstring() -> None:
    items = shaken(make(ItemsConfig(kind="adapter", dim=5, hidden=3, normalise="none")))
    of, given = numbers(items), layers().double().numpy()
    gates = 1 / (1 + np.exp(-of["side.gates"] / TEMPERATURE))
    state = np.zeros((N, F))
    for place in range(L):
        state = adapted(gates[place] * given[:, place] + (1 - gates[place]) * state, of, place)
    torch.testing.assert_close(items.table(), mapped(state, of), rtol=1e-4, atol=1e-4)


def test_the_side_network_of_all_modalities_is_that_of_the_docstring() -> None:
    given = {"title": layers(), "cover": layers(7), "video": layers(8)}
    items = shaken(make(ItemsConfig(kind="adapter", inter=True, dim=5, hidden=3, normalise="none"), given))
    assert isinstance(items, FusedItems)
    *intra, inter = items.parts
    assert [type(part) for part in intra] == [AdapterItems] * 3
    assert isinstance(inter, InterItems)
    of, hidden = numbers(inter), [tensor.double().numpy() for tensor in given.values()]
    state = np.zeros((N, F))
    for place in range(L):
        shares = softmax(of["side.gates"].reshape(L, 3)[place] / TEMPERATURE)
        seen = sum(share * states[:, place] for share, states in zip(shares, hidden, strict=True))
        state = adapted(state + seen, of, place)
    torch.testing.assert_close(inter.table(), mapped(state, of), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(items.table(), sum(part.table() for part in items.parts))


def test_two_modalities_and_what_joins_them_start_at_init_std() -> None:
    items = make(ItemsConfig(kind="adapter", inter=True), {"title": layers(), "cover": layers(7)})
    assert 0.4 < float(items.table().std()) / 0.02 < 2


def test_hidden_states_stand_in_memory_once_and_in_no_checkpoint() -> None:
    items = make(ItemsConfig(kind="adapter", inter=True), {"title": layers(), "cover": layers(7)})
    assert [name for name, _ in items.named_buffers()] == ["members.0.frozen", "members.1.frozen"]
    assert set(items.state_dict()) == {name for name, _ in items.named_parameters()}


def test_gates_never_decay() -> None:
    for config in (LAYERED["v"], LAYERED["adapter"], ItemsConfig(kind="adapter", inter=True)):
        items = make(config, {"title": layers(), "cover": layers(7)})
        gates = [p for name, p in items.named_parameters() if name.endswith(("gates", "mix.weights", "gamma"))]
        assert len(gates) == 4 if config.mix else len(gates) == 2 + config.inter
        assert all(parameter.ndim < 2 for parameter in gates)  # build_optimizer decays matrices alone


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (LAYERED["v"], {"title": torch.zeros(N, F)}, r"'title' have shape \(300, 12\); needed: \(300, L, F\)"),
        (LAYERED["adapter"], {"title": torch.zeros(N, F)}, r"needed: \(300, L, F\)"),
        (ItemsConfig(kind="v"), {"title": layers()}, r"'title' have shape \(300, 4, 12\); needed: \(300, F\)"),
        (
            ItemsConfig(kind="adapter", inter=True),
            {"title": layers()},
            r"several feature files .*given \(L, F\): \(4, 12\);",
        ),
        (
            ItemsConfig(kind="adapter", inter=True),
            {"title": layers(), "cover": layers(count=2)},
            r"items\.inter needs several feature files with the same number of layers .*\(4, 12\), \(2, 12\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(config: ItemsConfig, given: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(config, given)


# Items without a vector.


@pytest.mark.parametrize("filling", ["zero", "mean"])
@pytest.mark.parametrize(
    "config", [ItemsConfig(kind="v"), LAYERED["v"], LAYERED["adapter"]], ids=["v", "mix", "adapter"]
)
def test_fillings_are_not_measured(config: ItemsConfig, filling: str) -> None:
    own = 3 * layers() + 50
    own = own if config.reads_layers else own[:, 0]
    have = torch.arange(N) % 3 > 0
    given = own.clone()
    given[~have] = 0 if filling == "zero" else own[have].mean(0)
    items = build_items(config, N, {"title": given}, torch.Generator(), present={"title": have})
    alone = build_items(config, int(have.sum()), {"title": own[have]}, torch.Generator())
    torch.testing.assert_close(items.frozen[have], alone.frozen, rtol=1e-3, atol=1e-3)
    measured = dict(alone.named_parameters())["project.weight"].std()
    torch.testing.assert_close(dict(items.named_parameters())["project.weight"].std(), measured, rtol=0.1, atol=0)


def test_a_file_without_any_vector_is_measured_as_it_is() -> None:
    nobody = torch.zeros(N, dtype=torch.bool)
    for config, given in ((ItemsConfig(kind="v"), torch.zeros(N, F)), (LAYERED["adapter"], torch.zeros(N, L, F))):
        items = build_items(config, N, {"title": given}, torch.Generator(), present={"title": nobody})
        assert torch.isfinite(items.table()).all()
