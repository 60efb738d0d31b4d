"""Sequential models against a plain computation of their equations, one history at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.shared.recommender import Recommender, UserBatch
from models.shared.sequential import SequentialRecommender
from models.shared.training_rows import History, training_rows
from tests.support.checkerboard import ITEMS, LENGTH, build, checkerboard, left_pad, train_batch

HISTORIES = [[3], [5, 1], [7, 7, 2], [0, 4, 9, 12, 30, 2], [11, 10, 9, 8]]
Matrix = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def numbers(tensor: Tensor) -> Matrix:
    return tensor.detach().double().numpy()


def made(name: str, **options: object) -> tuple[SequentialRecommender, Matrix]:
    """Return a model with weights large enough to matter, in eval mode, and its item vectors."""
    model = build(name, "id", **options)
    assert isinstance(model, SequentialRecommender)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model.eval(), numbers(model.item_vectors())


def vectors(model: Recommender) -> Matrix:
    items, mask = left_pad(HISTORIES, LENGTH)
    batch = UserBatch(torch.arange(len(HISTORIES)), torch.from_numpy(items), torch.from_numpy(mask))
    with torch.no_grad():
        return numbers(model.user_vectors(batch))


def sigmoid(x: Matrix) -> Matrix:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_youtube_is_a_tower_over_the_mean(layers: int) -> None:
    model, items = made("youtube", layers=layers)
    weights = {name: numbers(value) for name, value in model.named_parameters()}
    linear = sorted({int(name.split(".")[1]) for name in weights if name.startswith("tower")})
    assert len(linear) == layers
    for history, found in zip(HISTORIES, vectors(model), strict=True):
        state = items[history].mean(0)
        for layer in linear:
            state = np.maximum(weights[f"tower.{layer}.weight"] @ state + weights[f"tower.{layer}.bias"], 0)
        np.testing.assert_allclose(found, state, atol=1e-4)
    widths = [len(weights[f"tower.{layer}.bias"]) for layer in linear]
    assert widths == [16 * 2**step for step in reversed(range(layers))]


@pytest.mark.parametrize("options", [{}, {"layers": 2}, {"hidden": 12}])
def test_gru4rec_follows_its_equations(options: dict[str, int]) -> None:
    model, items = made("gru4rec", **options)
    weights = {name: numbers(value) for name, value in model.named_parameters()}
    width = options.get("hidden", 16)
    for history, found in zip(HISTORIES, vectors(model), strict=True):
        inputs = [items[item] for item in history]
        for layer in range(options.get("layers", 1)):
            state, outputs = np.zeros(width), []
            for entry in inputs:
                given = weights[f"gru.weight_ih_l{layer}"] @ entry
                before = weights[f"gru.weight_hh_l{layer}"] @ state
                (r, z, n), (rh, zh, nh) = given.reshape(3, width), before.reshape(3, width)
                update = sigmoid(z + zh)
                candidate = np.tanh(n + sigmoid(r + rh) * nh)
                state = (1 - update) * candidate + update * state
                outputs.append(state)
            inputs = outputs
        expected = inputs[-1] if width == 16 else weights["back.weight"] @ inputs[-1]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nextitnet_is_a_library_convolution_of_the_history_alone() -> None:
    model, items = made("nextitnet", blocks=2, dilations=(1, 2), kernel=3)
    layers = list(model.get_submodule("convolutions"))
    assert [layer.dilation for layer in layers] == [1, 2, 2, 4, 1, 2, 2, 4]

    def convolve(layer: torch.nn.Module, states: Tensor) -> Tensor:
        kernel = layer.mix.weight.view(16, 3, 16).transpose(1, 2)  # (out, in, slot)
        padded = torch.nn.functional.pad(states.T[None], (2 * layer.dilation, 0))
        out = torch.nn.functional.conv1d(padded, kernel, layer.mix.bias, dilation=layer.dilation)[0].T
        return torch.relu(layer.norm(out))

    for history, found in zip(HISTORIES, vectors(model), strict=True):
        states = torch.from_numpy(items[history]).float()
        with torch.no_grad():
            for first, second in zip(layers[::2], layers[1::2], strict=True):
                states = states + convolve(second, convolve(first, states))
        np.testing.assert_allclose(found, states[-1].numpy(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("history", ["past", "all"])
def test_rows_hold_every_target_with_its_history(history: History) -> None:
    _, mask = left_pad([[1], [2, 3], [4, 5, 6, 7]], 4)
    rows = training_rows(torch.from_numpy(mask), history)
    found = {
        (window, target): [slot for slot, there in zip(slots, here, strict=True) if there]
        for window, target, slots, here in zip(
            *(value.tolist() for value in (rows.windows, rows.targets, rows.slots, rows.mask)), strict=True
        )
    }
    expected: dict[tuple[int, int], list[int]] = {}
    for window, real in enumerate(mask):
        places = np.flatnonzero(real).tolist()
        for target in places:
            told = [place for place in places if (place < target if history == "past" else place != target)]
            if told:
                expected[window, target] = told
    assert found == expected
    assert all(sorted(here) == here for here in rows.mask.tolist()), "real ones end in the last column"


def test_youtube_on_all_others_is_the_loss_of_those_rows() -> None:
    split = checkerboard()
    model = build("youtube", "id", history="all", loss="full", dropout=0.0)
    batch = train_batch(split)
    output = model(batch)
    table = numbers(model.item_vectors())
    losses = []
    for items, mask in zip(batch.items.tolist(), batch.mask.tolist(), strict=True):
        real = [item for item, there in zip(items, mask, strict=True) if there]
        for place, target in enumerate(real):
            others = real[:place] + real[place + 1 :]
            if others:
                mean = torch.from_numpy(table[others].mean(0)).float()
                scores = table @ numbers(model.get_submodule("tower")(mean))
                losses.append(np.log(np.exp(scores).sum()) - scores[target])
    assert output.positions == len(losses)
    assert float(output.loss.detach()) == pytest.approx(np.mean(losses), rel=1e-5)
    assert table.shape == (ITEMS, 16)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("youtube", {"layers": -1}, "layers -1"),
        ("youtube", {"history": "future"}, "history is 'future'; known: past, all"),
        ("gru4rec", {"layers": 0}, "layers 0"),
        ("gru4rec", {"dropout": 1.0}, r"dropout is 1\.0"),
        ("nextitnet", {"dilations": ()}, "dilations"),
        ("nextitnet", {"kernel": 0}, "kernel 0"),
    ],
)
def test_impossible_settings_are_refused(name: str, options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build(name, "id", **options)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("histories", [HISTORIES, [*HISTORIES, []]])
def test_sasrec_makes_the_newest_state_alone(norm: str, layers: int, histories: list[list[int]]) -> None:
    model, _ = made("sasrec", norm=norm, layers=layers, heads=4)
    items, mask = (torch.from_numpy(array) for array in left_pad(histories, LENGTH))
    inputs = model.items.table()[items] * mask[:, :, None]
    with torch.no_grad():
        torch.testing.assert_close(model.newest(inputs, mask), model.encode(inputs, mask)[:, -1], atol=1e-5, rtol=1e-5)
