"""Comparisons: every seed, mean and spread, the paper's number beside ours; finished runs are taken as they are."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from features.errors import ConfigError
from pipelines.compare import Row, compare, comparison, markdown, run_compare, spread, summary
from pipelines.config import Recipe, dump_yaml, recipe_to_dict
from tests.small import USERS, recipe, small_dataset, write

PAPER = {"source": "made up, table 1", "metrics": {"HR@10": 0.0496}, "note": "other features"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("compare") / "small")


def two_recipes(data: Path) -> list[Recipe]:
    quick: dict[str, Any] = {"train": {"epochs": 1, "batch_size": 64}}
    return [recipe(data, {"name": "ids", "paper": PAPER, **quick}), recipe(data, {"model": {"name": "popularity"}})]


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    out = tmp_path_factory.mktemp("runs")
    return out, compare(two_recipes(data), 2, out)


def test_every_recipe_runs_with_every_seed(runs: tuple[Path, list[Row]]) -> None:
    out, rows = runs
    assert sorted(path.name for path in out.iterdir()) == ["ids-seed0", "ids-seed1", "small-seed0", "small-seed1"]
    for row in rows:
        for seed, metrics in enumerate(row.metrics):
            folder = out / f"{row.recipe.name}-seed{seed}"
            assert json.loads((folder / "record.json").read_text())["seed"] == seed
            assert json.loads((folder / "metrics.json").read_text()) == metrics
    ids, popular = rows
    assert ids.metrics[0]["valid"] != ids.metrics[1]["valid"]
    assert popular.metrics[0] == popular.metrics[1]


def test_finished_runs_are_taken_as_they_are(data: Path, tmp_path: Path) -> None:
    compare(two_recipes(data), 1, tmp_path)
    path = tmp_path / "ids-seed0" / "metrics.json"
    marked = json.loads(path.read_text())
    marked["test"]["all"]["HR@10"] = 0.987
    path.write_text(json.dumps(marked))
    rows = compare(two_recipes(data), 2, tmp_path)
    assert rows[0].values("all", "HR@10")[0] == 0.987
    assert (tmp_path / "ids-seed1" / "metrics.json").is_file()


def test_the_table_holds_mean_spread_and_the_papers_number(runs: tuple[Path, list[Row]]) -> None:
    _, rows = runs
    header, cells = comparison(rows)
    metrics = ["HR@10", "NDCG@10", "HR@20", "NDCG@20", "warm HR@10", "cold HR@10", "paper HR@10", "paper NDCG@10"]
    assert header == ["recipe", *metrics]
    values = rows[0].values("all", "HR@10")
    assert cells[0][1] == f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"
    assert cells[0][7:] == ["0.0496", "-"]
    assert cells[1][0] == "small"
    assert cells[1][1].endswith(" ± 0.0000")
    assert cells[1][7:] == ["-", "-"]


def test_without_published_numbers_there_are_no_columns_for_them(runs: tuple[Path, list[Row]]) -> None:
    header, cells = comparison(runs[1][1:])
    assert not [name for name in header if name.startswith("paper")]
    assert {len(line) for line in cells} == {len(header)}


def test_the_summary_says_what_the_numbers_are(runs: tuple[Path, list[Row]]) -> None:
    _, rows = runs
    users = rows[0].metrics[0]["test"]["users"]
    assert summary(rows) == (
        f"2 seed(s), mean ± standard deviation; {USERS} test users, {users['warm']} warm and {users['cold']} cold "
        "targets, 30 candidates, seen items: hide"
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [([], "-"), ([0.12347], "0.1235"), ([0.1, 0.2], "0.1500 ± 0.0707"), ([0, 0, 3], "1.0000 ± 1.7321")],
)
def test_spread(values: list[float], text: str) -> None:
    assert spread(values) == text


def test_markdown() -> None:
    assert markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"


def test_the_command_prints_and_writes_the_table(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write(tmp_path / f"{made.name}.yaml", dump_yaml(recipe_to_dict(made))) for made in two_recipes(data)]
    target = tmp_path / "tables" / "t.md"
    run_compare(paths, ["train.lr=5e-3"], 1, tmp_path / "runs", target, "cpu")
    printed = capsys.readouterr().out
    text = target.read_text(encoding="utf-8")
    assert text.splitlines()[0].startswith("| recipe | HR@10 |")
    assert [line.split(" | ")[0] for line in text.splitlines()[2:4]] == ["| ids", "| small"]
    assert "1 seed(s)" in text
    assert "ids: other features" in printed
    assert "lr: 0.005" in (tmp_path / "runs" / "ids-seed0" / "config.yaml").read_text()


def test_no_seeds_and_two_recipes_of_one_name(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--seeds is 0; a comparison needs at least 1"):
        compare(two_recipes(data), 0, tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"2 recipes are named 'ids'; rows and run folders need names of their own"):
        compare(two_recipes(data)[:1] * 2, 1, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
