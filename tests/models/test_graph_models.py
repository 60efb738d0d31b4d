"""Graph recommenders against their papers' equations with dense matrices, node by node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from features.errors import ConfigError
from models import recommenders
from models.grcn import GRCN
from models.lightgcn import LightGCN
from models.mmgcn import MMGCN
from models.shared.recommender import PairBatch, Recommender, UserBatch
from pipelines.recipe.recipe import build_recipe
from pipelines.training.optimizers import build_optimizer
from tests.support.checkerboard import build, checkerboard
from tests.support.small import plain_recipe
from tests.support.toy_graph import (
    DIM,
    EDGES,
    GRAPH_MODELS,
    ITEMS,
    USERS,
    Array,
    agree,
    array,
    dense,
    joined,
    leaky,
    linear,
    make,
    of_length_one,
    part,
)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_lightgcn_is_the_mean_of_powers_of_the_normalised_adjacency(layers: int) -> None:
    model: LightGCN = make("lightgcn", "id+v", layers=layers)
    degree = dense().sum(1)
    scale = np.divide(1, np.sqrt(degree), where=degree > 0, out=np.zeros_like(degree))
    normalised = scale[:, None] * dense() * scale
    layer = np.concatenate([array(model.users.weight), array(model.items(torch.arange(ITEMS)))])
    total = layer.copy()
    for _ in range(layers):
        layer = normalised @ layer
        total += layer
    agree(model, total / (layers + 1))


def mmgcn_by_hand(model: MMGCN, branches: list[int], ids: Array, fuse: str) -> Array:
    around = dense()
    alone = around.sum(1) == 0
    around[alone, alone] = 1
    around /= around.sum(1, keepdims=True)
    outputs = []
    for index, branch in zip(branches, model.branches, strict=True):
        vectors = of_length_one(np.concatenate([array(branch.preference.weight), part(model, index)]))  # type: ignore[union-attr]
        for layer in branch.layers:  # type: ignore[union-attr]
            gathered = leaky(around @ (vectors @ array(layer.neighbours.weight).T))
            own = leaky(linear(layer.own, vectors)) + ids
            if model.config.combine == "concat":
                vectors = leaky(linear(layer.combine, np.concatenate([gathered, own], axis=1)))
            else:
                vectors = leaky(linear(layer.combine, gathered) + own)
        outputs.append(vectors)
    return joined(outputs, fuse)


@pytest.mark.parametrize("combine", ["sum", "concat"])
@pytest.mark.parametrize("fuse", ["sum", "mean", "concat"])
def test_mmgcn_is_its_equations(combine: str, fuse: str) -> None:
    model: MMGCN = make("mmgcn", "id+v", 2, fuse, combine=combine, layers=3)
    ids = np.concatenate([array(model.users.weight), part(model, 0)])
    agree(model, mmgcn_by_hand(model, [1, 2], ids, fuse))


@pytest.mark.parametrize("kind", ["id", "v", "dnn"])
def test_mmgcn_of_one_kind_of_items(kind: str) -> None:
    model: MMGCN = make("mmgcn", kind, 1)
    of_items = part(model, 0) if kind == "id" else np.zeros((ITEMS, DIM))
    ids = np.concatenate([array(model.users.weight), of_items])
    agree(model, mmgcn_by_hand(model, [0], ids, "concat"))


def attention(vectors: Array) -> Array:
    """Return (N, N) softmax over each node's neighbours of the inner products with them; zero rows without any."""
    powers = np.where(dense() > 0, np.exp(vectors @ vectors.T), 0)
    sums = powers.sum(1, keepdims=True)
    return np.divide(powers, sums, where=sums > 0, out=np.zeros_like(powers))


def grcn_by_hand(model: GRCN, modalities: list[int], of_items: Array, fuse: str) -> Array:
    alone = dense().sum(1) == 0
    contents, weighed = [], []
    for index, preference, confidence in zip(modalities, model.preferences, model.confidence, strict=True):
        users, items = of_length_one(array(preference)), of_length_one(leaky(part(model, index)))
        for _ in range(model.config.routings):
            users = of_length_one(users + attention(np.concatenate([users, items]))[:USERS, USERS:] @ items)
        vectors = np.concatenate([users, items])
        weights = attention(vectors)
        contents.append(vectors + np.where(alone[:, None], vectors, weights @ vectors))
        weighed.append(weights * array(confidence)[None, :])
    degree = np.maximum(dense().sum(1, keepdims=True), 1)
    refined = np.where(dense() > 0, np.max(weighed, axis=0), 0) if weighed else dense() / degree
    refined = np.maximum(refined, 0) if weighed and model.config.prune else refined
    layer = of_length_one(np.concatenate([array(model.users.weight), of_items]))
    ids = layer.copy()
    for _ in range(model.config.layers):
        layer = refined @ layer
        ids += layer
    return joined([ids, *contents], fuse)


@pytest.mark.parametrize("fuse", ["sum", "mean", "concat"])
@pytest.mark.parametrize("options", [{}, {"routings": 0}, {"prune": False}, {"layers": 3, "routings": 1}], ids=str)
def test_grcn_is_its_equations(options: dict[str, Any], fuse: str) -> None:
    model: GRCN = make("grcn", "id+v", 2, fuse, **options)
    agree(model, grcn_by_hand(model, [1, 2], part(model, 0), fuse))


@pytest.mark.parametrize("kind", ["id", "v", "dnn"])
def test_grcn_of_one_kind_of_items(kind: str) -> None:
    model: GRCN = make("grcn", kind, 1)
    of_items = part(model, 0) if kind == "id" else np.zeros((ITEMS, DIM))
    agree(model, grcn_by_hand(model, [] if kind == "id" else [0], of_items, "concat"))


def vectors_of(model: Recommender) -> Tensor:
    batch = UserBatch(
        torch.tensor([0, 3, 0]), torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, 0, dtype=torch.bool)
    )
    with torch.no_grad():
        return torch.cat([model.user_vectors(batch), model.item_vectors()])


@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_an_evaluation_propagates_once_and_never_shows_old_vectors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = make(name, "id+v"), make(name, "id+v")
    calls = []
    original = type(model).propagate
    monkeypatch.setattr(type(model), "propagate", lambda *args: calls.append(1) or original(*args))
    before = vectors_of(model)
    assert torch.equal(vectors_of(model), before)
    assert len(calls) == 1
    optimizer = build_optimizer(model, "adamw", 0.1, 0.0)
    assert optimizer is not None
    model.train()(PairBatch(*EDGES)).loss.backward()
    optimizer.step()
    stepped = vectors_of(model.eval())
    assert not torch.allclose(stepped, before)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(model.propagate(None, None)), torch.cat(model._kept[1]), rtol=0, atol=0)
    model.load_state_dict(other.state_dict())
    assert torch.equal(vectors_of(model), before)


@pytest.mark.parametrize("kind", ["id", "v", "dnn", "id+v"])
@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_a_graph_without_edges_gives_finite_vectors_and_gradients(name: str, kind: str) -> None:
    model = make(name, kind, edges=EDGES[:, :0], loss="in-batch")
    assert torch.isfinite(vectors_of(model)).all()
    users, items = model.train().propagate(torch.tensor([1]), torch.tensor([2, 3]))
    (users @ items.T).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("items", ["id", "id+v"])
@pytest.mark.parametrize("name", ["bprmf", *GRAPH_MODELS, "vbpr"])
def test_every_table_of_ids_moves_in_training(name: str, items: str) -> None:
    """In released codes of MMGCN ids and preferences are no parameters, and stay where they started."""
    if items not in recommenders()[name].takes:
        pytest.skip("takes content alone")
    model = build(name, items)
    optimizer = build_optimizer(model, "adamw", 1e-2, 0.0)
    assert optimizer is not None
    before = {label: parameter.detach().clone() for label, parameter in model.named_parameters()}
    edges = torch.from_numpy(checkerboard().train_edges)
    model.train()(PairBatch(*edges)).loss.backward()
    optimizer.step()
    for label, parameter in model.named_parameters():
        moved = (parameter.detach() != before[label]).flatten(1) if parameter.ndim > 1 else parameter != before[label]
        assert moved.any(), label
        if len(parameter) == model.facts.n_users:
            assert moved.any(1).all(), label


def test_bprmf_and_vbpr_are_their_equations() -> None:
    plain, visual = make("bprmf", "id", 0), make("vbpr", "id+v", 2, "concat")
    users, items = torch.arange(USERS), torch.arange(ITEMS)
    for model in (plain, visual):
        expected = array(model.users.weight) @ array(model.items(items)).T + array(model.bias)
        if model is visual:
            gamma = array(visual.items.parts[0].embedding.weight)
            projected = [
                linear(visual.items.parts[number].project, array(visual.items.parts[number].frozen))
                for number in (1, 2)
            ]
            user = np.split(array(visual.users.weight), 3, axis=1)
            expected = user[0] @ gamma.T + user[1] @ projected[0].T + user[2] @ projected[1].T + array(visual.bias)
            for number in (1, 2):
                expected += array(visual.items.parts[number].frozen) @ array(visual.content_bias[number - 1])
        batch = UserBatch(users, torch.zeros(USERS, 0, dtype=torch.int64), torch.zeros(USERS, 0, dtype=torch.bool))
        with torch.no_grad():
            np.testing.assert_allclose(array(model.scores(batch)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("bprmf", lambda m, u, i: (m.users(u), torch.cat([m.items(i), m.bias[i][:, None]], 1))),
        ("vbpr", lambda m, u, i: (m.users(u), torch.cat([m.items(i), m.bias[i][:, None]], 1))),
        ("lightgcn", lambda m, u, i: (m.users(u), m.items(i))),
        (
            "mmgcn",
            lambda m, u, i: (torch.cat([m.users(u), *(b.preference(u) for b in m.branches)], 1), m.items.parts[0](i)),
        ),
        ("grcn", lambda m, u, i: (torch.cat([m.users(u), *(p[u] for p in m.preferences)], 1), m.items.parts[0](i))),
    ],
)
def test_reg_punishes_what_the_paper_says(name: str, kept: Any) -> None:
    users, items = EDGES
    losses = []
    for reg in (0.0, 0.5):
        model = make(name, "id+v", reg=reg)
        torch.manual_seed(3)  # of the negatives
        losses.append(model(PairBatch(users, items)).loss)
    torch.manual_seed(3)
    drawn = model.objective.sampler(users, 1)[:, 0]
    of_users, of_items = kept(model, users, torch.cat([items, drawn]))
    total = of_users.square().sum() + of_items.square().sum()
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * 0.5 * total / len(users), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lightgcn", {"layers": -1}, "layers is -1"),
        ("mmgcn", {"layers": 0}, "layers is 0"),
        ("mmgcn", {"combine": "max"}, "combine is 'max'; known: concat, sum"),
        ("grcn", {"routings": -1}, "routings -1"),
        ("bprmf", {"reg": -1.0}, "reg is -1"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommenders()[name].config_class(**options)


def test_items_a_model_cannot_use_are_refused() -> None:
    with pytest.raises(ValueError, match="vbpr needs items with frozen vectors"):
        make("vbpr", "id")
    for name in ("mmgcn", "grcn"):
        with pytest.raises(ValueError, match=r"items.fuse is 'gate'.* use sum, concat, mean"):
            make(name, "id+v", 2, "gate")


@pytest.mark.parametrize(
    ("name", "items", "message"),
    [
        ("vbpr", {"kind": "id"}, "items.kind is 'id', which vbpr cannot work with; it takes v, dnn, id+v"),
        ("mmgcn", {"kind": "id+v", "fuse": "gate"}, "items.fuse is 'gate', which mmgcn cannot work with; it takes sum"),
    ],
)
def test_recipes_with_items_a_model_cannot_use_are_refused(name: str, items: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_recipe(plain_recipe(Path("x"), {"model": {"name": name}, "items": items}))
