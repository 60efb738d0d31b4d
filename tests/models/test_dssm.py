"""DSSM against its equations: towers, similarity, batch statistics and loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.dssm import DSSM
from models.shared.layers import BatchNorm
from models.shared.recommender import PairBatch, UserBatch
from tests.support.checkerboard import checkerboard
from tests.support.pairs_by_hand import Array, numbers, scrambled


def tower_ends(tower: torch.nn.Sequential, rows: Array, training: bool) -> Array:
    for layer in tower:
        if isinstance(layer, torch.nn.Linear):
            rows = rows @ numbers(layer.weight).T + (0 if layer.bias is None else numbers(layer.bias))
        if isinstance(layer, BatchNorm):
            mean, variance = numbers(layer.running_mean), numbers(layer.running_var)
            if training:
                mean, variance = rows.mean(0), rows.var(0)
            rows = (rows - mean) / np.sqrt(variance + layer.eps) * numbers(layer.weight) + numbers(layer.bias)
        if isinstance(layer, torch.nn.Tanh):
            rows = np.tanh(rows)
    return rows


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize(("towers", "norm"), [((), "none"), ((5, 3), "none"), ((5, 3), "batch")])
@pytest.mark.parametrize("training", [True, False])
def test_dssm_towers(towers: tuple[int, ...], norm: str, similarity: str, training: bool) -> None:
    model = scrambled("dssm", "id+v", towers=towers, norm=norm, similarity=similarity, gamma=3.0).train(training)
    users, items = torch.arange(0, 9, 2), torch.arange(4, 14)
    starts = numbers(model.users.weight)[users], numbers(model.items.table())[items]
    expected = [
        tower_ends(tower, rows, training)
        for tower, rows in zip((model.user_tower, model.item_tower), starts, strict=True)
    ]
    if similarity == "cosine":
        expected = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in expected]
        expected[0] *= 3.0
    for found, wanted in zip(model.encode(users, items), expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_dssm_with_batch_norm_knows_no_company_at_inference() -> None:
    model = scrambled("dssm", towers=(5,), norm="batch")
    before = {label: tensor.clone() for label, tensor in model.state_dict().items()}
    table = model.item_vectors()
    model.eval()
    with torch.no_grad():
        for item in (0, 17):
            alone = model.encode(torch.tensor([3]), torch.tensor([item]))[1]
            torch.testing.assert_close(alone, table[item : item + 1])
        users = UserBatch(torch.tensor([3, 8, 3]), torch.zeros(3, 0).long(), torch.zeros(3, 0).bool())
        torch.testing.assert_close(model.user_vectors(users)[[0]], model.encode(users.users[:1], users.users[:0])[0])
    for label, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[label]), f"{label} moved at inference"


def test_dssm_loss_equals_its_definition() -> None:
    model: DSSM = scrambled("dssm")
    pairs = torch.from_numpy(checkerboard().train_edges[:, [0, 5, 70, 71, 130, 131, 200, 5]])
    met = [set(checkerboard().train_edges[1][checkerboard().train_edges[0] == u].tolist()) for u in range(64)]
    counts = checkerboard().train_counts
    shares = counts.clip(1) / counts.sum()
    scores = numbers(model.users.weight) @ numbers(model.items.table()).T
    terms = []
    for user, item in pairs.T.tolist():
        candidates = [item, *(other for other in pairs[1].tolist() if other not in met[user])]
        logits = [scores[user, candidate] - math.log(shares[candidate]) for candidate in candidates]
        terms.append(np.logaddexp.reduce(logits) - logits[0])
    found = model(PairBatch(pairs[0], pairs[1]))
    assert float(found.loss.detach()) == pytest.approx(float(np.mean(terms)), rel=1e-4)


def test_dssm_on_concatenated_parts_is_the_sum_of_an_id_and_a_content_half() -> None:
    model: DSSM = scrambled("dssm", "id+v concat").eval()
    batch = UserBatch(torch.tensor([1, 40]), torch.zeros(2, 0).long(), torch.zeros(2, 0).bool())
    learned, content = (numbers(part.table()) for part in model.items.parts)
    users = numbers(model.users.weight)[[1, 40]]
    expected = users[:, :8] @ learned.T + users[:, 8:] @ content.T
    np.testing.assert_allclose(model.scores(batch).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
