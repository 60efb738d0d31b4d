"""Graph recommenders against their papers' equations with dense matrices, node by node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from features.errors import ConfigError
from models import build_recommender, graph, mmgcn, recommenders, sparse
from models.base import PairBatch, Recommender, TrainingFacts, UserBatch
from models.graph import SHORT, GraphRecommender, distinct_edges, unit
from models.grcn import GRCN
from models.items import ItemsConfig, build_items
from models.lightgcn import LightGCN
from models.mmgcn import MMGCN
from models.sparse import Adjacency
from pipelines.config import build_recipe
from pipelines.optimizers import build_optimizer
from tests.checkerboard import build, checkerboard
from tests.small import plain_recipe

USERS, ITEMS, DIM = 5, 6, 4
# User 3 and item 4 have no edge; one pair occurs twice; users have 1 to 3 items.
EDGES = torch.tensor([[0, 0, 0, 1, 1, 2, 4, 4, 0], [0, 1, 2, 0, 3, 3, 5, 1, 1]])
GRAPH_MODELS = ["grcn", "lightgcn", "mmgcn"]
Array = np.ndarray[Any, np.dtype[np.float64]]


def facts(edges: Tensor = EDGES) -> TrainingFacts:
    return TrainingFacts(USERS, ITEMS, torch.bincount(edges[1], minlength=ITEMS), edges)


def features(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {f"m{number}": torch.randn(ITEMS, 3 + number, generator=generator) for number in range(count)}


def make(name: str, kind: str, modalities: int = 2, fuse: str = "sum", edges: Tensor = EDGES, **options: Any) -> Any:
    """Return a model whose every parameter is random: none is zero, none is shared by accident."""
    generator = torch.Generator().manual_seed(0)
    config = ItemsConfig(kind=kind, dim=DIM if fuse != "concat" else 12, fuse=fuse)  # type: ignore[arg-type]
    items = build_items(config, ITEMS, features(modalities), generator)
    model = build_recommender(name, recommenders()[name].config_class(**options), items, facts(edges), generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model.eval()


def dense(edges: Tensor = EDGES) -> Array:
    """Return the (N, N) matrix with a 1 for each edge, in both directions."""
    matrix = np.zeros((USERS + ITEMS, USERS + ITEMS))
    for user, item in edges.T.tolist():
        matrix[user, USERS + item] = matrix[USERS + item, user] = 1
    return matrix


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def leaky(values: Array) -> Array:
    return np.where(values > 0, values, 0.01 * values)


def of_length_one(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SHORT)


def linear(layer: Any, vectors: Array) -> Array:
    bias = 0 if layer.bias is None else array(layer.bias)
    return vectors @ array(layer.weight).T + bias


def part(model: Recommender, index: int) -> Array:
    return array(model.items.parts[index](torch.arange(ITEMS)))


def joined(vectors: list[Array], fuse: str) -> Array:
    return (
        np.concatenate(vectors, axis=1) if fuse == "concat" else sum(vectors) / (len(vectors) if fuse == "mean" else 1)
    )


def agree(model: GraphRecommender, expected: Array) -> None:
    """Check all vectors, and those of some nodes, which take the shorter ways: no layer whole, some, all."""
    with torch.no_grad():
        found = torch.cat(model.propagate(None, None))
        np.testing.assert_allclose(array(found), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        picked = found[[3, 0, USERS + 5, USERS + 4, USERS]]
        for most in (1.0, 0.5, 0.0):
            with parts(most):
                some = model.propagate(torch.tensor([3, 0]), torch.tensor([5, 4, 0]))
            torch.testing.assert_close(torch.cat(some), picked, rtol=1e-4, atol=1e-4)


@contextmanager
def parts(most: float) -> Iterator[None]:
    """Let layers be computed in part while that has at most so much of the graph's entries, however narrow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "WIDE", 1)
        patch.setattr(graph, "MOST", most)
        patch.setattr(mmgcn, "MOST", most)
        yield


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


@pytest.mark.parametrize("mkl", [True, False], ids=["as here", "without MKL"])
@pytest.mark.parametrize("nodes", [None, [2, 0], []], ids=str)
def test_gradients_of_the_sparse_products_are_those_of_dense_ones(
    nodes: list[int] | None, mkl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not mkl:
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    users, items = distinct_edges(facts())
    matrix = Adjacency(users, items, USERS, ITEMS)
    rows = None if nodes is None else torch.tensor(nodes, dtype=torch.int64)
    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(size, generator=generator) for size in ((USERS, 3), (ITEMS, 3), (len(users),))]
    push = torch.randn(USERS if nodes is None else len(nodes), 3, generator=generator)

    def sparse(left: Tensor, right: Tensor, weights: Tensor) -> Tensor:
        shares = weights * matrix.softmax(matrix.dots(left, right))
        if rows is None:
            return matrix(right, shares)
        part = matrix.part(rows)
        return part(right[part.columns], shares)

    def by_dense(left: Tensor, right: Tensor, weights: Tensor) -> Tensor:
        empty = torch.full((USERS, ITEMS), -torch.inf)
        scores = empty.index_put((users, items), (left @ right.T)[users, items])
        shares = scores.softmax(1).nan_to_num(0)
        product = torch.zeros(USERS, ITEMS).index_put((users, items), weights * shares[users, items]) @ right
        return product if rows is None else product[rows]

    gradients = []
    for product in (sparse, by_dense):
        leaves = [tensor.clone().requires_grad_() for tensor in given]
        output = product(*leaves)
        torch.testing.assert_close(output, by_dense(*given))
        (output * push).sum().backward()
        gradients.append([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])
    torch.testing.assert_close(*gradients)


def test_a_part_has_the_columns_asked_for_beside_its_own() -> None:
    matrix = Adjacency(*distinct_edges(facts()), USERS, ITEMS)
    part = matrix.part(torch.tensor([4, 1]), torch.tensor([4, 0]))
    assert part.columns.tolist() == [0, 1, 3, 4, 5]  # user 4 has met 1 and 5, user 1 has met 0 and 3
    vectors, weights = torch.randn(ITEMS, 3), torch.rand(8)
    torch.testing.assert_close(part(vectors[part.columns], weights), matrix(vectors, weights)[[4, 1]])
    assert matrix.share(torch.tensor([4, 1])) == pytest.approx(4 / 8)


@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_gradients_do_not_depend_on_which_layers_are_computed_in_part(name: str) -> None:
    model = make(name, "id+v", layers=3, negatives=2)
    found = []
    for most in (0.0, 0.6, 1.0):
        model.zero_grad()
        torch.manual_seed(0)  # of the negatives
        with parts(most):
            model.train()(PairBatch(EDGES[0, 4:5], EDGES[1, 4:5])).loss.backward()
        found.append({label: parameter.grad.clone() for label, parameter in model.named_parameters()})
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


@pytest.mark.parametrize("name", GRAPH_MODELS)
def test_a_small_batch_computes_the_vectors_of_few_nodes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """User 2 and item 3 have met each other, and item 3 user 1."""
    model = make(name, "id", layers=2)
    sizes: list[int] = []
    original = sparse._sums
    monkeypatch.setattr(sparse, "_sums", lambda *given: sizes.append(len(given[2]) - 1) or original(*given))
    with parts(1.0):
        model.propagate(torch.tensor([2]), torch.tensor([3]))
    # users and items in two products, or nodes in one
    assert sizes == ([3, 2] if name == "mmgcn" else [2, 1, 1, 1])


def test_a_zero_vector_leaves_zero_with_a_gradient_of_bounded_size() -> None:
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit(vectors)[:, 0].sum().backward()
    assert vectors.grad is not None
    torch.testing.assert_close(unit(vectors).detach(), torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    torch.testing.assert_close(vectors.grad, torch.tensor([[1 / SHORT, 0.0], [0.128, -0.096]]))


def test_gradients_of_scaling_to_length_1_are_those_of_its_definition() -> None:
    vectors = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vectors[:2] *= SHORT / 10  # too short to be scaled to 1
    assert torch.autograd.gradcheck(unit, vectors.requires_grad_())
    torch.testing.assert_close(unit(vectors), torch.nn.functional.normalize(vectors, dim=1, eps=SHORT))


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
