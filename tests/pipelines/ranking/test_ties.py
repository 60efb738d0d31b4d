"""Where items tie, every metric is its mean over all orders of the tied items: held against every order, one by one."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.split import EvalPart
from pipelines.ranking.full_ranking import Evaluation, Mask, evaluate
from pipelines.ranking.metrics import LIST_METRICS, METRICS, Ranked, per_user
from tests.pipelines.ranking.test_evaluate import Fixed
from tests.pipelines.ranking.test_independent_metrics import many
from tests.support.checkerboard import eval_part

MASKS: tuple[Mask, ...] = ("keep", "hide", "strict")
ITEMS = 6  # 720 orders at most


def by_hand(order: list[int], targets: list[int], k: int) -> dict[str, float]:
    """Return every metric of ranks by its definition, for one user and one order of what is not hidden."""
    places = sorted(order.index(target) + 1 if target in order else np.inf for target in targets)
    found = [place for place in places if place <= k]
    ideal = sum(1 / np.log2(place + 1) for place in range(1, min(k, len(targets)) + 1))
    return {
        "HR": float(bool(found)),
        "Recall": len(found) / len(targets),
        "Precision": len(found) / k,
        "NDCG": sum(1 / np.log2(place + 1) for place in found) / ideal,
        "MRR": 1 / found[0] if found else 0.0,
        "MAP": sum((number + 1) / place for number, place in enumerate(found)) / min(k, len(targets)),
    }


def orders(scores: np.ndarray, shown: list[int]) -> list[list[int]]:
    """Return every order of the items that are shown in which no item stands before a better one."""
    values = sorted({scores[item] for item in shown}, reverse=True)
    groups = [permutations([item for item in shown if scores[item] == value]) for value in values]
    return [[item for group in choice for item in group] for choice in product(*groups)]


def shown_to(user: int, part: EvalPart, targets: list[int], mask: Mask) -> list[int]:
    seen = set(part.seen[part.seen_offsets[user] : part.seen_offsets[user + 1]].tolist())
    hidden = {"keep": set(), "hide": seen - set(targets), "strict": seen}[mask]
    return [item for item in range(ITEMS) if item not in hidden]


def ranked(scores: np.ndarray, part: EvalPart, mask: Mask, k: int, batch_size: int = 2) -> Evaluation:
    counts = np.array([0, 1, 2, 0, 5, 3])
    names = (*METRICS, *LIST_METRICS)
    model = Fixed(torch.from_numpy(scores).float(), torch.eye(ITEMS))
    return evaluate(model, part, counts, mask=mask, at=(k,), metrics=names, batch_size=batch_size)


user_rows = st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=ITEMS, max_size=ITEMS)
some_items = st.lists(st.integers(0, ITEMS - 1), max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(user_rows, some_items), min_size=1, max_size=2), st.integers(1, ITEMS + 1), st.data())
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("mask", MASKS)
def test_every_metric_is_its_mean_over_all_orders(
    mask: Mask, most: int, users: list[tuple[list[float], list[int]]], k: int, data: st.DataObject
) -> None:
    scores, seen = np.array([row for row, _ in users]), [items for _, items in users]
    some_targets = st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=most, unique=True)
    targets = [sorted(data.draw(some_targets)) for _ in users]
    part = eval_part(seen, [row[0] for row in targets]) if most == 1 else many(seen, targets)
    found = ranked(scores, part, mask, k)
    for user, wanted in enumerate(targets):
        each = [by_hand(order, wanted, k) for order in orders(scores[user], shown_to(user, part, wanted, mask))]
        for name in METRICS:
            mean = np.mean([values[name] for values in each])
            assert per_user(found.ranked, f"{name}@{k}")[user] == pytest.approx(mean, abs=1e-12), name


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(user_rows, some_items), min_size=2, max_size=2), st.integers(1, ITEMS + 1))
@pytest.mark.parametrize("mask", MASKS)
def test_what_is_offered_is_its_mean_over_all_orders(
    mask: Mask, users: list[tuple[list[float], list[int]]], k: int
) -> None:
    scores, seen = np.array([row for row, _ in users]), [items for _, items in users]
    part, counts = eval_part(seen, [0, 0]), np.array([0, 1, 2, 0, 5, 3])
    lists = [{tuple(sorted(o[:k])): 0 for o in orders(scores[u], shown_to(u, part, [0], mask))} for u in range(2)]
    for user in range(2):  # orders are equally likely, the sets they begin with are not
        for order in orders(scores[user], shown_to(user, part, [0], mask)):
            lists[user][tuple(sorted(order[:k]))] += 1
    pairs = list(product(*(list(ways.items()) for ways in lists)))
    weights = np.array([a[1] * b[1] for a, b in pairs]) / np.prod([sum(ways.values()) for ways in lists])
    covered = [len({*a[0], *b[0]}) / ITEMS for a, b in pairs]
    offered = [[*a[0], *b[0]] for a, b in pairs]
    total = len(offered[0])
    found = ranked(scores, part, mask, k).catalog
    if not total:
        return
    assert found is not None
    assert found[f"Coverage@{k}"] == pytest.approx(weights @ covered)
    assert found[f"Popularity@{k}"] == pytest.approx(weights @ [counts[items].mean() for items in offered])
    assert found[f"NeverMet@{k}"] == pytest.approx(weights @ [(counts[items] == 0).mean() for items in offered])


@pytest.mark.parametrize(("equal", "hit"), [(58, 10 / 58), (13, 10 / 13), (10, 1.0)])
def test_a_model_that_knows_nothing_hits_by_chance(equal: int, hit: float) -> None:
    model = Fixed(torch.zeros(1, 2), torch.zeros(equal, 2))
    found = evaluate(model, eval_part([[]], [equal - 1]), np.ones(equal, np.int64), mask="keep", at=(10,))
    assert found.metrics["HR@10"] == pytest.approx(hit)
    assert found.metrics["NDCG@10"] == pytest.approx(sum(1 / np.log2(p + 1) for p in range(1, 11)) / equal)


def test_ranks_of_runs_before_ties_were_kept_count_as_they_did() -> None:
    old = Ranked.of_one(np.array([1.5, 10.5, 10.0]))
    assert per_user(old, "HR@10").tolist() == [1, 0, 1]
    assert per_user(old, "MRR@10") == pytest.approx([1 / 1.5, 0, 0.1])


def test_many_items_are_counted_in_the_other_way_too(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.array([[1.0, 1, 0, 2, 1, 0], [0.0, 0, 0, 0, 0, 0]])
    part = eval_part([[], []], [1, 2])
    quick = ranked(scores, part, "keep", 3)
    monkeypatch.setattr("pipelines.ranking.metrics.EXACT_NORM", 0)
    slow = ranked(scores, part, "keep", 3)
    assert quick.ranks.tolist() == slow.ranks.tolist() == [2, 1]
    assert quick.ties is not None
    assert slow.ties is not None
    assert quick.ties.tolist() == slow.ties.tolist() == [3, 6]
