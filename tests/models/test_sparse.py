"""Sparse products of graph recommenders, whole and in part, and vectors scaled to length 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.shared.graphs import sparse
from models.shared.graphs.graph import SHORT, distinct_edges, unit
from models.shared.graphs.sparse import Adjacency
from models.shared.recommender import PairBatch
from tests.support.toy_graph import EDGES, GRAPH_MODELS, ITEMS, USERS, facts, make, parts


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
