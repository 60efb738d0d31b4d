from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import ConfigError
from pipelines.ranking.metrics import (
    METRICS,
    Offered,
    Ranked,
    average_precision,
    check_metrics,
    coverage,
    gini,
    never_met,
    per_user,
    popularity,
    ranks,
)

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
    best, ties = ranks(table.clone(), table.gather(1, torch.tensor(targets)[:, None]))
    exact = table.tolist()  # as float32 holds them
    for place, equal, row, target in zip(best.tolist(), ties.tolist(), exact, targets, strict=True):
        assert place == 1 + sum(score > row[target] for score in row)
        assert equal == sum(score == row[target] for score in row)


def test_a_constant_model_may_rank_everyone_anywhere() -> None:
    best, ties = ranks(torch.zeros(2, 101), torch.zeros(2, 1))
    assert (best.tolist(), ties.tolist()) == ([1.0, 1.0], [101, 101])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 60).map(lambda half: half / 2), min_size=1, max_size=20), st.integers(1, 25))
def test_metrics_of_one_target_equal_their_definition(values: list[float], k: int) -> None:
    one = Ranked.of_one(np.array(values))
    found = {name: metric(one, k).tolist() for name, metric in METRICS.items()}
    for number, rank in enumerate(values):
        hit = 1.0 if rank <= k else 0.0
        assert found["HR"][number] == found["Recall"][number] == hit
        assert found["Precision"][number] == pytest.approx(hit / k)
        assert found["MRR"][number] == found["MAP"][number] == pytest.approx(hit / rank)
        assert found["NDCG"][number] == pytest.approx(hit / math.log2(1 + rank))


@pytest.mark.parametrize("name", METRICS)
def test_a_hidden_target_is_a_miss_at_any_length(name: str) -> None:
    assert METRICS[name](Ranked.of_one(np.array([np.inf])), 10**9).tolist() == [0.0]
    assert METRICS[name](Ranked(np.array([1.0, np.inf]), np.array([0, 2])), 1).tolist() == [
        {"Recall": 0.5}.get(name, 1)
    ]


def test_several_targets_by_hand() -> None:
    ranked = Ranked(np.array([1.0, 4.0, 7.0, 2.0]), np.array([0, 3, 4]))
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    wanted = {
        "HR": [1, 1],
        "Recall": [2 / 3, 1],
        "Precision": [2 / 5, 1 / 5],
        "MRR": [1, 1 / 2],
        "MAP": [(1 + 2 / 4) / 3, 1 / 2],
        "NDCG": [(1 + 1 / math.log2(5)) / ideal, 1 / math.log2(3)],
    }
    for name, values in wanted.items():
        assert METRICS[name](ranked, 5) == pytest.approx(values), name
    assert average_precision(ranked, 2) == pytest.approx([1 / 2, 1 / 2])  # of at most two that could be found
    assert per_user(ranked, "MRR@1").tolist() == [1, 0]


def test_metrics_of_lists_by_hand() -> None:
    offered = Offered.nothing(4)
    offered.add(np.array([[0, 1], [0, 2], [0, -1]], np.int32))
    counts = np.array([9, 3, 0, 5])
    assert coverage(offered, counts) == 3 / 4
    assert popularity(offered, counts) == (9 + 3 + 9 + 0 + 9) / 5
    assert never_met(offered, counts) == 1 / 5
    shown = np.array([3, 1, 1, 0])
    pairs = sum(abs(int(a) - int(b)) for a in shown for b in shown)  # half the relative mean difference
    assert gini(offered, counts) == pytest.approx(pairs / (2 * len(shown) * shown.sum()))
    all_alike = Offered.nothing(4)
    all_alike.add(np.array([[0, 1, 2, 3]], np.int32))
    assert gini(all_alike, counts) == 0


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.metrics names 'NDGC'; did you mean 'NDCG'\? Known: Coverage, "):
        check_metrics(["HR", "NDGC"], "evaluate.metrics")
    for wrong in ("HR", "HR@0", "HR@x", "Coverage@3"):
        with pytest.raises(ConfigError, match=rf"metric '{wrong}' is not NAME@K"):
            per_user(Ranked.of_one(np.ones(1)), wrong)
