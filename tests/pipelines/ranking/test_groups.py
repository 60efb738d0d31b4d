"""Groups of test users, what is offered to them, and the metrics file that holds both."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import run_pipeline
from features.errors import ConfigError
from pipelines.data.load import load_data
from pipelines.ranking.full_ranking import Mask, evaluate
from pipelines.ranking.metrics import Ranked, hit_rate
from pipelines.ranking.user_groups import group_metrics, history_groups, popularity_groups
from pipelines.runs.experiment import run_recipe
from tests.pipelines.ranking.test_evaluate import ITEM_COUNT, USER_COUNT, Fixed, corpus
from tests.pipelines.ranking.test_independent_metrics import many
from tests.support.checkerboard import eval_part
from tests.support.small import ITEMS, USERS, recipe, small_dataset


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 7))
def test_bins_part_the_users_by_popularity(counts: list[int], bins: int) -> None:
    part = eval_part([[] for _ in counts], list(range(len(counts))))  # user u's target is item u
    groups = popularity_groups(part, np.array(counts), bins=bins)
    assert sum(group.chosen.astype(int) for group in groups).tolist() == [1] * len(counts)  # type: ignore[union-attr]
    values = [{counts[user] for user in np.flatnonzero(group.chosen)} for group in groups]
    assert all(max(low) < min(high) for low, high in pairwise(values))
    assert [group.name == "cold" for group in groups] == [found == {0} for found in values]
    warm = [group for group in groups if group.name != "cold"]
    assert len(warm) <= bins
    most_common = max((counts.count(value) for value in set(counts) - {0}), default=0)
    for group in warm:  # a count that many users share cannot be parted, nothing else makes a bin larger
        assert group.chosen.sum() <= -(-sum(count > 0 for count in counts) // bins) + most_common


def test_given_edges_and_histories() -> None:
    part = eval_part([[0], [0, 1], [0, 1, 2], []], [0, 1, 2, 3])
    groups = popularity_groups(part, np.array([4, 1, 0, 9]), edges=(4, 9))
    assert [(group.name, np.flatnonzero(group.chosen).tolist()) for group in groups] == [
        ("cold", [2]),
        ("1", [1]),
        ("4", [0]),
        ("9", [3]),
    ]
    by_history = history_groups(part, edges=(2,))
    assert [(group.name, np.flatnonzero(group.chosen).tolist()) for group in by_history] == [
        ("0 to 1", [0, 3]),
        ("2 to 3", [1, 2]),
    ]


def test_several_targets_count_by_their_mean() -> None:
    part = many([[], []], [[0, 1], [2, 3]])
    groups = popularity_groups(part, np.array([4, 1, 0, 0]), bins=1)
    assert [(group.name, group.chosen.tolist()) for group in groups] == [
        ("cold", [False, True]),
        ("2.5", [True, False]),
    ]


def test_group_metrics_are_means_of_the_group() -> None:
    ranked = Ranked.of_one(np.array([1.0, 5.0, 30.0]))
    part = eval_part([[], [0], [0]], [0, 0, 0])
    found = group_metrics(ranked, history_groups(part, edges=(1,)), ["HR", "MRR"], [10])
    assert found == [
        {"group": "0", "users": 1, "HR@10": 1.0, "MRR@10": 1.0},
        {"group": "1", "users": 2, "HR@10": 0.5, "MRR@10": 0.1},
    ]


@pytest.mark.parametrize(("options", "message"), [({"bins": 0}, "--bins is 0"), ({"edges": (5, 1)}, "ascending")])
def test_bins_and_edges_that_make_no_groups(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        history_groups(eval_part([[]], [0]), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", ["keep", "hide", "strict"])
def test_lists_are_the_best_that_are_not_hidden(mask: Mask) -> None:
    _, part, counts = corpus(3)
    scores = np.stack([np.random.default_rng(user).permutation(ITEM_COUNT) for user in range(USER_COUNT)])  # no ties
    model = Fixed(torch.from_numpy(scores).float(), torch.eye(ITEM_COUNT))
    found = evaluate(model, part, counts, mask=mask, at=(3, 20), metrics=("HR", "Coverage"), lists=True, batch_size=7)
    plain = evaluate(model, part, counts, mask=mask, at=(3, 20), batch_size=7)
    assert found.ranks.tolist() == plain.ranks.tolist()
    assert plain.lists is None
    assert plain.catalog is None
    assert found.lists is not None
    shown: set[int] = set()
    for user, listed in enumerate(found.lists.tolist()):
        seen = set() if mask == "keep" else set(part.seen[part.seen_offsets[user] : part.seen_offsets[user + 1]])
        if mask == "hide":
            seen -= {part.targets[user]}
        wanted = sorted(set(range(ITEM_COUNT)) - seen, key=lambda item: -scores[user, item])
        assert listed == wanted[:20] + [-1] * (20 - len(wanted))
        shown |= set(listed[:3])
        if part.targets[user] in listed[:3]:
            assert found.ranks[user] <= 3
    assert found.catalog == pytest.approx({"Coverage@3": len(shown) / ITEM_COUNT, "Coverage@20": 1.0})


def test_lists_stop_at_the_number_of_items() -> None:
    found = evaluate(Fixed(torch.eye(2), torch.eye(2)), eval_part([[], []], [0, 1]), np.ones(2, np.int64), mask="keep",
                     at=(5,), metrics=("HR", "Gini"))  # fmt: skip
    assert found.catalog == {"Gini@5": 0.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    asked = {"at": [5], "metrics": ["HR", "Coverage", "Popularity"], "lists": True}
    run_recipe(recipe(small_dataset(folder / "small"), {"evaluate": asked}), folder / "run")
    return folder / "run"


def test_the_metrics_file_holds_groups_and_what_is_offered(run: Path) -> None:
    test = json.loads((run / "metrics.json").read_text())["test"]
    lists = np.load(run / "lists.npy")
    assert lists.shape == (USERS, 5)
    assert (run / "users.txt").read_text().split() == [f"u{user:02}" for user in range(USERS)]
    assert test["lists"]["Coverage@5"] == len(np.unique(lists)) / ITEMS
    assert set(test["all"]) == {"HR@5"}
    ranked = Ranked.of_one(np.load(run / "ranks.npy"))
    for groups in test["groups"].values():
        assert sum(group["users"] for group in groups) == USERS
        total = sum(group["users"] * group["HR@5"] for group in groups)
        assert total == pytest.approx(hit_rate(ranked, 5).sum())


def test_evaluate_prints_groups_and_other_metrics(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["evaluate", str(run), "--metrics", "MRR,Precision,Gini", "--at", "1,7"]
    assert run_pipeline.main([*again, "--groups", "--bins", "3", "--history-edges", "5,9"]) == 0
    printed = capsys.readouterr().out
    assert "small by training count of the target" in printed
    assert "Gini@7" in printed
    assert run_pipeline.main([*again, "--json", "--history-edges", "5,9"]) == 0
    found = json.loads(capsys.readouterr().out)["test"]
    assert set(found["all"]) == {"MRR@1", "Precision@1", "MRR@7", "Precision@7"}
    assert [group["group"].split()[0] for group in found["groups"]["history"]] == ["3", "5", "9"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--metrics", "HR,NDGC"], "evaluate.metrics names 'NDGC'; did you mean 'NDCG'"),
        (["--metrics", "Gini"], "it needs at least one of HR"),
        (["--at", "10;20"], "--at is '10;20'; give whole numbers separated by commas"),
        (["--at", "0"], "evaluate.at is [0]"),
        (["--popularity-edges", "1,9"], "--popularity-edges 1,9 is for groups of users; add --groups, or --json"),
        (["--history-edges", "1,9"], "--history-edges 1,9 is for groups of users; add --groups"),
        (["--groups", "--popularity-edges", "9,3"], "--popularity-edges are 9, 3; give them in ascending order"),
    ],
)
def test_wrong_options_are_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    assert run_pipeline.main(["evaluate", str(run), *option]) == 2
    assert message in capsys.readouterr().err


# Warm-k subsets.


def test_the_run_of_a_warm_subset_says_its_size(tmp_path: Path) -> None:
    folder = small_dataset(tmp_path / "small")
    made = recipe(folder, {"data": {"folder": str(folder), "min_item_interactions": 14}})
    metrics = run_recipe(made, tmp_path / "run")
    split = load_data(made.data).split
    assert metrics["sizes"] == split.sizes()
    assert metrics["sizes"]["candidates"] < ITEMS
    assert metrics["candidates"] == metrics["sizes"]["candidates"]
    record = json.loads((tmp_path / "run" / "record.json").read_text())["dataset"]
    assert record["dropped_items"] == ITEMS - metrics["sizes"]["candidates"]
