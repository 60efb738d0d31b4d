from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.metrics import hit_rate, ndcg, ranks

few_values = st.sampled_from([-torch.inf, -2.5, -1.0, 0.0, 1e-30, 1.0, 1.0000001, 3.0])  # many ties, and hidden items
rows = st.integers(2, 12).flatmap(
    lambda n: st.lists(st.lists(few_values, min_size=n, max_size=n), min_size=1, max_size=4)
)


@settings(max_examples=200, deadline=None)
@given(rows, st.data())
def test_ranks_equal_brute_force(scores: list[list[float]], data: st.DataObject) -> None:
    targets = [data.draw(st.sampled_from([i for i, s in enumerate(row) if s > -torch.inf] or [0])) for row in scores]
    for row, target in zip(scores, targets, strict=True):
        row[target] = max(row[target], -9.0)  # a target is never hidden here
    table = torch.tensor(scores)
    found = ranks(table.clone(), table.gather(1, torch.tensor(targets)[:, None]))
    exact = table.tolist()  # as float32 holds them
    for rank, row, target in zip(found.tolist(), exact, targets, strict=True):
        higher = sum(score > row[target] for score in row)
        equal = sum(score == row[target] for i, score in enumerate(row) if i != target)
        assert rank == 1 + higher + 0.5 * equal


def test_a_constant_model_ranks_everyone_in_the_middle() -> None:
    assert ranks(torch.zeros(2, 101), torch.zeros(2, 1)).tolist() == [51.0, 51.0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 60).map(lambda half: half / 2), min_size=1, max_size=20), st.integers(1, 25))
def test_metrics_equal_their_definition(values: list[float], k: int) -> None:
    given_ranks = np.array(values)
    for rank, hit, gain in zip(values, hit_rate(given_ranks, k), ndcg(given_ranks, k), strict=True):
        assert hit == (1.0 if rank <= k else 0.0)
        assert gain == pytest.approx(1 / math.log2(1 + rank) if rank <= k else 0.0)


def test_a_hidden_target_is_a_miss_at_any_length() -> None:
    infinite = np.array([np.inf])
    assert hit_rate(infinite, 10**9).tolist() == ndcg(infinite, 10**9).tolist() == [0.0]
