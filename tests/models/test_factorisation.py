"""DSSM, NFM and DeepFM against their equations, written out field by field and pair by pair."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pytest
import torch

from models import recommenders
from models.deepfm import DeepFM
from models.nfm import NFM
from models.shared import factorisation_machines
from models.shared.losses import in_batch_softmax, in_batch_softmax_of_scores
from models.shared.recommender import PairBatch, Recommender
from models.shared.training_rows import training_rows
from tests.support.checkerboard import ITEMS, LENGTH, build, checkerboard, train_batch
from tests.support.pairs_by_hand import Array, numbers, scrambled, users_with, windows


def perceptron(layers: torch.nn.Sequential, out: torch.nn.Linear, x: Array) -> float:
    for layer in layers:
        if isinstance(layer, torch.nn.Linear):
            x = np.maximum(numbers(layer.weight) @ x + numbers(layer.bias), 0)
    return float(numbers(out.weight)[0] @ x)


def first_order(model: Any, chosen: list[Array]) -> float:
    return 0.0 if model.weight is None else float(sum(numbers(model.weight.weight)[0] @ x for x in chosen))


def pool_of(chosen: list[Array]) -> Array:
    return np.sum([one * other for one, other in combinations(chosen, 2)], axis=0) + np.zeros_like(chosen[0])


def nfm_score(model: NFM, chosen: list[Array], statistics: tuple[Array, Array] | None = None) -> float:
    """Equation 7 of the paper for the vectors of one row; statistics replace the running ones."""
    pooled = pool_of(chosen)
    if model.norm is not None:
        mean, variance = statistics or (numbers(model.norm.running_mean), numbers(model.norm.running_var))
        pooled = (pooled - mean) / np.sqrt(variance + model.norm.eps)
        pooled = pooled * numbers(model.norm.weight) + numbers(model.norm.bias)
    return perceptron(model.layers, model.out, pooled) + first_order(model, chosen)


def deepfm_score(model: DeepFM, chosen: list[Array]) -> float:
    """Equation 1 of the paper for the vectors of one row."""
    empty = [np.zeros_like(chosen[0])] * (model.config.max_length + 1 - len(chosen))
    first = np.concatenate([numbers(model.history_block.weight), numbers(model.item_block.weight)], axis=1)
    x = np.maximum(first @ np.concatenate(empty + chosen) + numbers(model.history_block.bias), 0)
    return pool_of(chosen).sum() + first_order(model, chosen) + perceptron(model.layers, model.out, x)


SCORES: Any = {"nfm": nfm_score, "deepfm": deepfm_score}
HISTORIES = [[3, 7, 11], [5], [0, 1, 2, 4, 5, 6], [8, 8, 9]]
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("nfm", {"hidden": (5,)}),
    ("nfm", {"hidden": (5, 3), "linear": False}),
    ("nfm", {"hidden": (), "norm": "none"}),
    ("deepfm", {"hidden": (5,)}),
    ("deepfm", {"hidden": (5, 3), "linear": False}),
]
BOTH = pytest.mark.parametrize("name", ["nfm", "deepfm"])


@pytest.mark.parametrize("cells", [factorisation_machines.CELLS_CPU, 200, 1])
@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_scores_equal_the_network_on_each_history_and_item(
    name: str, options: dict[str, Any], cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factorisation_machines, "CELLS_CPU", cells)
    model = scrambled(name, max_length=LENGTH + 2, **options)
    table = list(numbers(model.items.table()))
    expected = [[SCORES[name](model, [table[j] for j in h] + [table[i]]) for i in range(ITEMS)] for h in HISTORIES]
    found = model.scores(users_with(HISTORIES))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert model.training, "scores() must leave the mode as it was"
    assert (found < 0).any(), "no ReLU after the last layer"


WINDOWS = [[1, 5], [2, 6, 10, 14, 18, 22], [3, 7, 3, 11]]


def rows_of(history: Literal["past", "all"]) -> list[tuple[int, list[int], int]]:
    """Return window, history and target of every row, written out."""
    rows = []
    for window, items in enumerate(WINDOWS):
        for place, target in enumerate(items):
            others = items[:place] + (items[place + 1 :] if history == "all" else [])
            if others:
                rows.append((window, others, target))
    return rows


@pytest.mark.parametrize("history", ["past", "all"])
def test_each_item_of_a_window_is_a_target_once(history: Literal["past", "all"]) -> None:
    batch = windows(WINDOWS)
    rows = training_rows(batch.mask, history)
    shown = batch.items[rows.windows[:, None], rows.slots]
    found = [
        (int(window), items[mask].tolist(), int(batch.items[window, slot]))
        for window, slot, items, mask in zip(rows.windows, rows.targets, shown, rows.mask, strict=True)
    ]
    assert found == rows_of(history)
    assert rows.slots.shape == (len(found), LENGTH - 1)
    assert bool((rows.mask.int().diff(dim=1) >= 0).all()), "the newest item stands in the last slot"


def slot_level_loss(scores: Array, rows: list[tuple[int, list[int], int]], shares: Array, met: list[set[int]]) -> float:
    """The benchmark's loss: every slot of the batch is a negative but those of the label's item and of items met."""
    terms = []
    for row, (window, _, target) in zip(scores, rows, strict=True):
        negatives = [item for items in WINDOWS for item in items if item not in {target, *met[window]}]
        logits = [row[item] - math.log(shares[item]) for item in [target, *negatives]]
        terms.append(np.logaddexp.reduce(logits) - logits[0])
    return float(np.mean(terms))


@pytest.mark.parametrize("history", ["past", "all"])
@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_training_loss_equals_its_definition(
    name: str, options: dict[str, Any], history: Literal["past", "all"]
) -> None:
    model = scrambled(name, history=history, max_length=LENGTH - 1, **options)
    batch, rows, table = windows(WINDOWS), rows_of(history), list(numbers(model.items.table()))
    batch_items = sorted({item for items in WINDOWS for item in items})
    chosen = [[[table[j] for j in seen] + [table[i]] for i in range(ITEMS)] for _, seen, _ in rows]
    extra = ()
    if name == "nfm" and model.norm is not None:  # statistics of this batch: all rows with all items of the batch
        pools = np.array([pool_of(row[i]) for row in chosen for i in batch_items])
        extra = ((pools.mean(0), pools.var(0)),)
    scores = np.array([[SCORES[name](model, pair, *extra) for pair in row] for row in chosen])
    counts, edges = checkerboard().train_counts, checkerboard().train_edges
    met = [set(edges[1][edges[0] == user].tolist()) for user in batch.users.tolist()]
    shares = counts.clip(1) / counts.sum()
    found = model(batch)
    assert found.positions == len(rows)
    assert float(found.loss.detach()) == pytest.approx(slot_level_loss(scores, rows, shares, met), rel=1e-4)


@pytest.mark.parametrize("loss", ["bpr", "bce", "sampled"])
@BOTH
def test_drawn_negatives_are_scored_after_their_own_history(name: str, loss: str) -> None:
    model = scrambled(
        name, loss=loss, negatives=3, max_length=LENGTH - 1, **({"norm": "none"} if name == "nfm" else {})
    )
    batch, rows, table = windows(WINDOWS), rows_of("past"), list(numbers(model.items.table()))
    torch.manual_seed(0)
    drawn = model.objective.sampler(batch.users[[window for window, _, _ in rows]], 3).tolist()
    unmet = [ITEMS - len(set(checkerboard().train_edges[1][checkerboard().train_edges[0] == u])) for u in batch.users]
    terms = []
    for (window, seen, target), negatives in zip(rows, drawn, strict=True):
        first, *others = (SCORES[name](model, [table[j] for j in seen] + [table[i]]) for i in [target, *negatives])
        if loss == "bpr":
            terms.append(np.mean([math.log1p(math.exp(other - first)) for other in others]))
        elif loss == "bce":
            terms.append(math.log1p(math.exp(-first)) + sum(math.log1p(math.exp(other)) for other in others))
        else:
            logits = [first, *(other + math.log(unmet[window]) - math.log(3) for other in others)]
            terms.append(np.logaddexp.reduce(logits) - first)
    torch.manual_seed(0)
    assert float(model(batch).loss.detach()) == pytest.approx(float(np.mean(terms)), rel=1e-4)


@pytest.mark.parametrize("masked", [True, False])
def test_softmax_of_scores_is_that_of_inner_products(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(6, 4, generator=generator).requires_grad_()
    vectors = torch.randn(5, 4, generator=generator).requires_grad_()
    labels, counts = torch.tensor([0, 4, 2, 2, 1, 3]), torch.tensor([1.0, 3, 2, 1, 4]).log()
    shares = torch.tensor([0.1, 0.4, 0.2, 0.05, 0.25]).log()
    excluded = torch.rand(6, 5, generator=generator) < 0.4 if masked else None
    expected = in_batch_softmax(queries, vectors, labels, counts, shares, excluded)
    found = in_batch_softmax_of_scores(queries @ vectors.T, labels, counts, shares, excluded)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, (queries, vectors))
    torch.testing.assert_close(torch.autograd.grad(found, (queries, vectors)), wanted, rtol=1e-4, atol=1e-6)


@BOTH
def test_order_matters_to_deepfm_alone(name: str) -> None:
    model = scrambled(name).eval()
    found = model.scores(users_with([[3, 7, 11], [11, 3, 7]]))
    assert torch.allclose(found[0], found[1], atol=1e-5) == (name == "nfm")


@BOTH
def test_histories_longer_than_the_model_are_refused(name: str) -> None:
    model = build(name, "id", max_length=3)
    with pytest.raises(ValueError, match="histories have 6 items, but max_length is 3"):
        model.scores(users_with([[1, 2]]))


@BOTH
def test_mixed_precision_gives_nearly_the_same_loss(name: str) -> None:
    model = scrambled(name)
    plain = model(train_batch(checkerboard())).loss
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(train_batch(checkerboard())).loss
    assert mixed.dtype == torch.float32
    assert abs(mixed - plain) < 0.02 * plain


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nfm", {"loss": "full"}, "use 'in-batch' with few windows"),
        ("nfm", {"history": "future"}, "known: past, all"),
        ("nfm", {"hidden": (4, 0)}, r"hidden is \[4, 0\]"),
        ("nfm", {"dropout": 1.0}, "dropout is 1.0"),
        ("nfm", {"pool_dropout": -0.1}, "pool_dropout is -0.1"),
        ("nfm", {"norm": "layer"}, "known: batch, none"),
        ("deepfm", {"hidden": ()}, "hidden is empty"),
        ("dssm", {"towers": (0,)}, r"towers is \[0\]"),
        ("dssm", {"gamma": 0.0}, "gamma 0.0 > 0"),
        ("dssm", {"similarity": "angle"}, "similarity 'angle'"),
        ("itemknn", {"neighbours": 0}, "neighbours 0 must be >= 1"),
        ("itemknn", {"similarity": "jaccard"}, "known: cosine, conditional"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommenders()[name].config_class(**options)


@pytest.mark.parametrize("name", ["dssm", "nfm"])
def test_batch_norm_survives_a_batch_of_one_row(name: str) -> None:
    model: Recommender = scrambled(name, **({"towers": (5,), "norm": "batch"} if name == "dssm" else {}))
    pair = PairBatch(torch.tensor([3]), torch.tensor([7]))
    loss = model(pair if name == "dssm" else windows([[7, 7]])).loss
    assert torch.isfinite(loss)
