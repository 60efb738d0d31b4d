"""Full ranking and its metrics against libraries that share no code with them, one target per user and several."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    label_ranking_average_precision_score,
    ndcg_score,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)

from pipelines.data.split import EvalPart, ManyTargets
from pipelines.ranking.full_ranking import Evaluation, evaluate
from tests.pipelines.ranking.test_evaluate import Fixed
from tests.support.checkerboard import eval_part

ALL = ("HR", "NDCG", "Recall", "Precision", "MRR", "MAP")


class Case(NamedTuple):
    scores: np.ndarray  # (N, I), no two equal in a row
    truth: np.ndarray  # (N, I) bool
    part: EvalPart


def many(histories: list[list[int]], targets: list[list[int]]) -> ManyTargets:
    """Return a part of users 0..N-1 with these histories and targets."""
    one = eval_part(histories, [row[0] for row in targets])
    flat = np.array([item for row in targets for item in row], np.int64)
    bounds = np.cumsum([0] + [len(row) for row in targets])
    return ManyTargets(one.users, one.items, one.mask, flat, one.seen, one.seen_offsets, bounds)


@st.composite
def cases(draw: st.DrawFn, most: int) -> Case:
    """Draw up to `most` targets per user."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_users, n_items = draw(st.integers(2, 9)), draw(st.integers(3, 30))
    scores = np.stack([rng.permutation(n_items) for _ in range(n_users)]).astype(np.float32)
    targets = [
        rng.choice(n_items, size=rng.integers(1, min(most, n_items - 1) + 1), replace=False).tolist()
        for _ in range(n_users)
    ]
    truth = np.zeros(scores.shape, bool)
    for row, items in enumerate(targets):
        truth[row, items] = True
    empty: list[list[int]] = [[] for _ in targets]
    return Case(scores, truth, eval_part(empty, [t[0] for t in targets]) if most == 1 else many(empty, targets))


def evaluated(case: Case, k: int, batch_size: int = 4) -> Evaluation:
    model = Fixed(torch.from_numpy(case.scores), torch.eye(case.scores.shape[1]))
    counts = np.ones(case.scores.shape[1], np.int64)
    return evaluate(model, case.part, counts, mask="keep", at=(k,), metrics=ALL, batch_size=batch_size)


def top_k(case: Case, k: int) -> np.ndarray:
    """Return (N, I) bool: the K best of each row."""
    listed = np.zeros(case.scores.shape, bool)
    np.put_along_axis(listed, np.argsort(-case.scores, axis=1)[:, :k], True, axis=1)
    return listed


@settings(max_examples=60, deadline=None)
@given(cases(1), st.integers(1, 12))
def test_one_target_agrees_with_scikit_learn(case: Case, k: int) -> None:
    found = evaluated(case, k).metrics
    n_items = case.scores.shape[1]
    labels = np.arange(n_items)
    hits = 1.0 if k >= n_items else top_k_accuracy_score(case.part.targets, case.scores, k=k, labels=labels)
    assert found[f"HR@{k}"] == pytest.approx(hits)
    assert found[f"NDCG@{k}"] == pytest.approx(ndcg_score(case.truth, case.scores, k=k, ignore_ties=True))
    everything = evaluated(case, n_items).metrics
    assert everything[f"MRR@{n_items}"] == pytest.approx(label_ranking_average_precision_score(case.truth, case.scores))


@settings(max_examples=60, deadline=None)
@given(cases(6), st.integers(1, 12))
def test_several_targets_agree_with_scikit_learn(case: Case, k: int) -> None:
    found = evaluated(case, k).metrics
    listed, n_items = top_k(case, k), case.scores.shape[1]
    assert found[f"NDCG@{k}"] == pytest.approx(ndcg_score(case.truth, case.scores, k=k, ignore_ties=True))
    assert found[f"Recall@{k}"] == pytest.approx(recall_score(case.truth, listed, average="samples"))
    if k <= n_items:  # a shorter list than K is still divided by K here
        assert found[f"Precision@{k}"] == pytest.approx(precision_score(case.truth, listed, average="samples"))
    everything = evaluated(case, n_items).metrics
    assert everything[f"MAP@{n_items}"] == pytest.approx(label_ranking_average_precision_score(case.truth, case.scores))


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 6])
def test_agrees_with_ranx_where_it_is_installed(most: int) -> None:
    ranx = pytest.importorskip("ranx")

    @settings(max_examples=40, deadline=None)
    @given(cases(most), st.integers(1, 12))
    def check(case: Case, k: int) -> None:
        names = [str(row) for row in range(len(case.scores))]
        items = [str(item) for item in range(case.scores.shape[1])]
        truth = {n: {items[i]: 1 for i in np.flatnonzero(row)} for n, row in zip(names, case.truth, strict=True)}
        run = {n: dict(zip(items, map(float, row), strict=True)) for n, row in zip(names, case.scores, strict=True)}
        metrics = {"HR": "hit_rate", "NDCG": "ndcg", "Recall": "recall", "Precision": "precision", "MRR": "mrr"}
        wanted = ranx.evaluate(ranx.Qrels(truth), ranx.Run(run), [f"{name}@{k}" for name in metrics.values()])
        found = evaluated(case, k).metrics
        for ours, theirs in metrics.items():
            assert found[f"{ours}@{k}"] == pytest.approx(wanted[f"{theirs}@{k}"]), ours

    check()


@settings(max_examples=30, deadline=None)
@given(cases(6), st.integers(1, 9), st.data())
def test_chunks_do_not_change_ranks(case: Case, batch_size: int, data: st.DataObject) -> None:
    ranked = evaluated(case, 5, batch_size).ranked
    order = np.argsort(-case.scores, axis=1)
    for user, (start, end) in enumerate(zip(ranked.offsets[:-1], ranked.offsets[1:], strict=True)):
        assert ranked.ranks[start:end].tolist() == (np.flatnonzero(case.truth[user][order[user]]) + 1).tolist()


def test_targets_that_tie_share_their_places() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    part = many([[], []], [[0, 1], [3, 0, 1]])
    found = evaluate(Fixed(scores, torch.eye(4)), part, np.ones(4, np.int64), mask="keep", metrics=ALL, at=(4,))
    assert found.ranks.tolist() == [1, 1, 1, 1, 1]
    assert found.ties is not None
    assert found.ties.tolist() == [3, 3, 4, 4, 4]
    assert found.offsets is not None
    assert found.metrics["Recall@4"] == 1
