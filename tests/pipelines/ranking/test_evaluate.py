from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from features.errors import ConfigError
from models.shared.recommender import Recommender, TrainBatch, TrainingFacts, TrainOutput, UserBatch
from pipelines.data.split import EvalPart
from pipelines.ranking.full_ranking import Mask, evaluate, seen_pairs
from pipelines.ranking.metrics import hit_rate, ndcg
from tests.support.checkerboard import ITEMS, build, checkerboard, eval_part

USER_COUNT, ITEM_COUNT, WIDTH = 37, 23, 3


class Fixed(Recommender):
    """Vectors given as they are; users by their index."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        nn.Module.__init__(self)
        self.user_table, self.item_table = users, items
        self.facts = TrainingFacts(len(users), len(items), torch.zeros(len(items)), torch.zeros(2, 0))

    def forward(self, batch: TrainBatch) -> TrainOutput:
        raise NotImplementedError

    def user_vectors(self, batch: UserBatch) -> Tensor:
        return self.user_table[batch.users]

    def item_vectors(self) -> Tensor:
        return self.item_table


def corpus(seed: int) -> tuple[Fixed, EvalPart, np.ndarray]:
    """Integer vectors (exact products, many ties), histories with repeats and, for some users, the target itself."""
    rng = np.random.default_rng(seed)
    histories = [rng.integers(0, ITEM_COUNT, rng.integers(0, 9)).tolist() for _ in range(USER_COUNT)]
    targets = [h[0] if h and rng.random() < 0.4 else int(rng.integers(ITEM_COUNT)) for h in histories]
    vectors = [torch.from_numpy(rng.integers(-2, 3, (n, WIDTH))).float() for n in (USER_COUNT, ITEM_COUNT)]
    counts = rng.integers(0, 3, ITEM_COUNT)
    return Fixed(*vectors), eval_part(histories, targets), counts


def brute_force_rank(scores: np.ndarray, target: int, seen: set[int], mask: Mask) -> float:
    if mask == "strict" and target in seen:
        return np.inf
    hidden = set() if mask == "keep" else seen - {target}
    others = [scores[i] for i in range(len(scores)) if i != target and i not in hidden]
    return 1 + sum(s > scores[target] for s in others)


@pytest.mark.parametrize("batch_size", [1, 5, 37, 64])
@pytest.mark.parametrize("mask", ["keep", "hide", "strict"])
def test_ranks_and_means_equal_brute_force(mask: Mask, batch_size: int) -> None:
    for seed in range(5):
        model, part, counts = corpus(seed)
        scores = (model.user_table @ model.item_table.T).numpy()
        seen = [
            set(part.seen[a:b].tolist()) for a, b in zip(part.seen_offsets[:-1], part.seen_offsets[1:], strict=True)
        ]
        wanted = np.array([brute_force_rank(scores[u], part.targets[u], seen[u], mask) for u in range(USER_COUNT)])
        found = evaluate(model, part, counts, mask=mask, at=(1, 5), batch_size=batch_size)
        np.testing.assert_array_equal(found.ranks, wanted)
        cold = counts[part.targets] == 0
        for means, chosen in ((found.metrics, np.ones(USER_COUNT, bool)), (found.warm, ~cold), (found.cold, cold)):
            assert means is not None
            assert means["HR@5"] == pytest.approx(hit_rate(found.ranked, 5)[chosen].mean())  # test_ties.py
            assert means["NDCG@5"] == pytest.approx(ndcg(found.ranked, 5)[chosen].mean())
        assert (found.n_users, found.n_warm, found.n_cold) == (USER_COUNT, (~cold).sum(), cold.sum())
        assert found.candidates == ITEM_COUNT
        assert set(found.metrics) == {"HR@1", "NDCG@1", "HR@5", "NDCG@5"}


def test_masks_differ_where_targets_are_repeats() -> None:
    model, part, counts = corpus(0)
    keep, hide, strict = (evaluate(model, part, counts, mask=mask).ranks for mask in ("keep", "hide", "strict"))
    assert (hide <= keep).all()
    assert (hide < keep).any()
    assert np.isinf(strict).sum() > 3
    assert np.isfinite(hide).all()


def test_a_group_without_users_has_no_metrics() -> None:
    model, part, _ = corpus(0)
    found = evaluate(model, part, np.ones(ITEM_COUNT, np.int64), mask="hide")
    assert found.cold is None
    assert found.n_cold == 0
    assert found.warm == found.metrics


def test_a_real_model_is_ranked_as_its_vectors_say() -> None:
    model, split = build("sasrec", "id+v"), checkerboard()
    model.train()
    found = evaluate(model, split.test, split.train_counts, mask="keep")
    assert model.training
    model.eval()
    batch = UserBatch(*(torch.from_numpy(array) for array in (split.test.users, split.test.items, split.test.mask)))
    with torch.no_grad():
        scores = (model.user_vectors(batch) @ model.item_vectors().T).numpy()
    wanted = [1 + (row > row[target]).sum() for row, target in zip(scores, split.test.targets, strict=True)]
    assert found.candidates == ITEMS
    assert found.ranks.tolist() == wanted


def test_seen_pairs_are_one_line_per_seen_item() -> None:
    part = eval_part([[4, 5], [], [6, 6, 1], [2]], [0, 0, 0, 0])
    rows, items = seen_pairs(part, 1, 2)
    assert rows.tolist() == [1, 1, 1]
    assert items.tolist() == [6, 6, 1]


@pytest.mark.parametrize("which", ["user", "item"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_vectors_that_are_not_finite_are_named(which: str, value: float) -> None:
    model, part, counts = corpus(0)
    (model.user_table if which == "user" else model.item_table)[2, 1] = value
    with pytest.raises(ConfigError, match=rf"1 of \d+ {which} vectors are not finite"):
        evaluate(model, part, counts, mask="hide")


def test_scores_that_overflow_are_named() -> None:
    model, part, counts = corpus(0)
    model.user_table *= 1e30
    model.item_table *= 1e30
    with pytest.raises(ConfigError, match="score"):
        evaluate(model, part, counts, mask="keep")


def test_an_unknown_mask_and_an_empty_part_are_refused() -> None:
    model, part, counts = corpus(0)
    with pytest.raises(ConfigError, match="mask is 'hidden'; known: keep, hide, strict"):
        evaluate(model, part, counts, mask="hidden")
    with pytest.raises(ConfigError, match="no users"):
        evaluate(model, eval_part([], []), counts, mask="hide")
