"""A small bipartite graph, graph recommenders with random parameters on it, and dense algebra to hold them against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import build_recommender, mmgcn, recommenders
from models.items.build import ItemsConfig, build_items
from models.shared.graphs import graph
from models.shared.graphs.graph import SHORT, GraphRecommender
from models.shared.recommender import Recommender, TrainingFacts

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
