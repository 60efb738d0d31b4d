"""Published numbers stand beside their own dataset only: known by its counts, at the published size."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.comparing.machine import as_data
from pipelines.comparing.result_table import Comparison, Row
from pipelines.recipe.published_data import DATASETS, known_dataset, withheld
from pipelines.recipe.recipe import Recipe, build_recipe

TABLE_2, TABLE_9 = "arXiv 2309.15379, Table 2", "arXiv 2309.15379, Table 9"
OF_100K = {"users": 100_000, "items": 19_738, "interactions": 719_405}
OF_1M = {"users": 1_000_000, "items": 91_402, "interactions": 9_095_620}


def published(source: str, **changes: Any) -> Recipe:
    paper = {"source": source, "metrics": {"HR@10": 0.05}}
    return build_recipe({"name": "r", "data": {"folder": "x"}, "model": {"name": "sasrec"}, "paper": paper, **changes})


@pytest.mark.parametrize(
    ("source", "read", "why"),
    [
        (TABLE_2, OF_100K, ""),
        (TABLE_2, OF_100K | {"users": 99_500}, ""),  # within the tolerance
        (TABLE_2, OF_100K | {"users": 98_129, "items": 17_228, "interactions": 705_174}, "98,129 users, 17,228 items"),
        (TABLE_2, OF_1M, "is about MicroLens-100K"),
        (TABLE_9, OF_1M, ""),
        (TABLE_9, OF_100K, "is about MicroLens-1M"),
        ("arXiv 2309.15379", OF_1M, ""),
        ("arXiv 2309.15379", {"users": 60, "items": 60, "interactions": 300}, "or MicroLens-1M"),
        ("my own paper, Table 2", {"users": 60, "items": 60, "interactions": 300}, ""),  # cannot be checked
        (TABLE_2, {"users": 10**9, "items": 10**9, "interactions": 10**12}, "1,000,000,000 users"),
    ],
)
def test_the_counts_decide(source: str, read: dict[str, int], why: str) -> None:
    found = withheld(published(source), {"read": {"dataset": "mydata", **read}})
    assert (why in found) if why else found == ""


def test_synthetic_data_and_small_scale_have_no_published_numbers() -> None:
    made_up = {"read": {"dataset": "synthetic-demo", **OF_100K}}
    assert withheld(published("my own paper"), made_up) == "synthetic-demo is synthetic data"
    small = published(TABLE_2, scale="small")
    assert (
        withheld(small, {"read": {"dataset": "m", **OF_100K}}) == "scale=small is narrower and shorter than published"
    )
    assert withheld(small, {"read": {"dataset": "m", **OF_1M}}).endswith(
        "interactions; scale=small is narrower and shorter than published"
    )


def test_without_a_published_number_nothing_is_left_out() -> None:
    recipe = build_recipe({"name": "r", "data": {"folder": "x"}, "model": {"name": "sasrec"}, "scale": "full"})
    assert withheld(recipe, {"read": {"dataset": "synthetic", "users": 1}}) == ""


def test_a_run_of_an_earlier_version_is_known_by_its_users() -> None:
    old = {"sizes": {"users": 99_990, "items": 5, "interactions": 9}, "dropped_users": 10}
    assert withheld(published(TABLE_2), old) == ""
    assert "this dataset has 40 users" in withheld(published(TABLE_2), {"sizes": {"users": 40}})
    assert withheld(published(TABLE_2), {}) == ""  # nothing is known


def test_a_known_dataset_is_recognised() -> None:
    assert [known_dataset(one.counts()) for one in DATASETS] == list(DATASETS)
    assert known_dataset({"users": 100_000, "items": 19_738, "interactions": 5}) is None


def test_published_numbers_are_left_out_beside_another_split() -> None:
    found = withheld(published(TABLE_2), {"read": {"dataset": "m", **OF_100K}, "split": "time"})
    assert found.endswith("tests leave-one-out, and this run tests by data.split=time")
    assert withheld(published("my own paper"), {"split": "time"}) == ""


@pytest.mark.parametrize(("read", "fits"), [(OF_100K, True), (OF_1M, False)])
def test_json_leaves_them_out_as_the_table_does(read: dict[str, int], fits: bool) -> None:
    test = {"users": {"all": 1, "warm": 1, "cold": 0}, "all": {"HR@10": 0.1}}
    metrics = {"test": test, "candidates": 5, "read": {"dataset": "m", **read}}
    row = as_data(Comparison([Row(published(TABLE_2), (metrics,))]))["rows"][0]
    assert (row["paper"] is not None) == fits
    assert ("is about MicroLens-100K" in row["paper_left_out"]) != fits
