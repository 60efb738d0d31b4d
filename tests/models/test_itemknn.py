"""Item-KNN against a dense matrix of co-occurrences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models import build_recommender, itemknn
from models.itemknn import Config
from models.shared.recommender import TrainingFacts, UserBatch
from pipelines.ranking.full_ranking import evaluate
from tests.support.checkerboard import build, checkerboard

USERS, ITEMS = 30, 12


def edges() -> np.ndarray:
    """Return interactions with repeats; item 11 is met by nobody, item 10 by one user alone."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.stack([rng.integers(0, USERS, 160), rng.integers(0, 10, 160)]), [[3], [10]]], axis=1)


def model_with(**options: Any) -> itemknn.ItemKNN:
    pairs = torch.from_numpy(edges())
    facts = TrainingFacts(USERS, ITEMS, torch.bincount(pairs[1], minlength=ITEMS), pairs)
    model = build_recommender("itemknn", Config(**options), None, facts, torch.Generator())
    assert isinstance(model, itemknn.ItemKNN)
    return model


def dense_weights(config: Config) -> np.ndarray:
    """Return (I, I): how strongly the row's item speaks for the column's, by the formulas of the papers."""
    met = np.zeros((USERS, ITEMS))
    met[tuple(edges())] = 1
    both, counts = met.T @ met, met.sum(0)
    weights = np.zeros((ITEMS, ITEMS))
    for j in range(ITEMS):
        for i in range(ITEMS):
            if i != j and both[i, j]:
                scale = np.sqrt(counts[i] * counts[j])
                if config.similarity == "conditional":
                    scale = counts[j] * counts[i] ** config.alpha
                weights[j, i] = both[i, j] / (scale + config.shrink)
        order = sorted(range(ITEMS), key=lambda i: (-weights[j, i], i))
        weights[j, order[config.neighbours :]] = 0
        if config.normalise and weights[j].any():
            weights[j] /= weights[j].sum()
    return weights


@pytest.mark.parametrize("chunk", [itemknn.CHUNK, 5, 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"neighbours": 3},
        {"neighbours": 4, "shrink": 2.0, "normalise": True},
        {"similarity": "conditional", "alpha": 0.3, "neighbours": 2},
    ],
)
def test_scores_equal_the_dense_product(options: dict[str, Any], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(itemknn, "CHUNK", chunk)
    histories = torch.tensor([[9, 2, 5, 2], [9, 9, 10, 1], [0, 0, 0, 0], [9, 9, 9, 11]])
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)
    shown = np.zeros((4, ITEMS))
    for row, (items, real) in enumerate(zip(histories, mask, strict=True)):
        shown[row, items[real]] = 1  # an item bought twice speaks once
    expected = shown @ dense_weights(Config(**options))
    found = model_with(**options).scores(UserBatch(torch.arange(4), histories, mask))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert (found[:2] > 0).any()
    assert not found[2:].any()


def test_an_item_is_no_neighbour_of_itself_and_has_at_most_k() -> None:
    model = model_with(neighbours=3)
    owners = torch.repeat_interleave(model.offsets.diff())
    assert (owners != model.neighbours).all()
    assert int(model.offsets.diff().max()) == 3
    assert int(model.offsets.diff()[11]) == 0


def test_withheld_items_rank_first() -> None:
    split = checkerboard()
    ranked = evaluate(build("itemknn", "none"), split.test, split.train_counts, mask="hide", at=(4,))
    assert ranked.metrics["HR@4"] == 1.0
