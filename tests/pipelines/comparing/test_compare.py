"""Comparisons: every seed, mean and spread, the paper's number beside ours; finished runs are taken as they are."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from features.errors import ConfigError
from pipelines.commands.results import compare as verb
from pipelines.comparing.compare import compare, finished_rows, run_tests
from pipelines.comparing.result_table import (
    Comparison,
    Row,
    by_popularity,
    comparison,
    notes,
    significance,
    spread,
    summary,
    untested,
)
from pipelines.comparing.significance import load_ranks
from pipelines.comparing.table_files import escape_latex, latex, markdown, write_csv
from pipelines.ranking.full_ranking import EvaluateConfig
from pipelines.ranking.metrics import hit_rate
from pipelines.recipe.paper import PaperResult
from pipelines.recipe.recipe import Recipe, recipe_to_dict
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.runs.results import print_metrics
from tests.support.small import USERS, recipe, small_dataset, write

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
    assert header == ["recipe", "seeds", *metrics, "ours - paper HR@10", "ours - paper NDCG@10"]
    values = rows[0].values("all", "HR@10")
    mean = statistics.fmean(values)
    assert cells[0][1:3] == ["2", f"{mean:.4f} ± {statistics.stdev(values):.4f}"]
    more = f"{mean - 0.0496:+.4f} ({100 * (mean / 0.0496 - 1):+.1f} %)"
    assert cells[0][8:] == ["0.0496", "-", more, "-"]
    assert cells[1][0] == "small"
    assert cells[1][2].endswith(" ± 0.0000")
    assert cells[1][8:] == ["-"] * 4


def test_without_published_numbers_there_are_no_columns_for_them(runs: tuple[Path, list[Row]]) -> None:
    header, cells = comparison(runs[1][1:])
    assert not [name for name in header if "paper" in name]
    assert {len(line) for line in cells} == {len(header)}


def test_published_numbers_stand_beside_no_other_data(
    runs: tuple[Path, list[Row]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rows = runs
    source = PaperResult("arXiv 2309.15379, Table 2", {"HR@10": 0.05}, "of the paper")
    copied = replace(rows[0], recipe=replace(rows[0].recipe, name="copied", paper=source))
    header, _ = comparison([copied, rows[1]])
    assert not [name for name in header if "paper" in name]
    (said,) = notes([copied, rows[1]])
    expected = (
        "Table 2 is about MicroLens-100K (100,000 users, 19,738 items, 719,405 interactions), and small has 40 users"
    )
    assert said.startswith("the published numbers are left out: arXiv")
    assert expected in said
    header, cells = comparison([copied, rows[0]])  # only the row whose source cannot be checked keeps its number
    assert [line[header.index("paper HR@10")] for line in cells] == ["-", "0.0496"]
    assert notes([copied, rows[0]])[0].startswith("the published numbers of copied are left out: arXiv")
    write_csv(tmp_path / "t.csv", Comparison([copied]))
    assert not any(line["paper"] for line in csv.DictReader((tmp_path / "t.csv").open()))
    print_metrics(copied.recipe, copied.metrics[0])
    printed = capsys.readouterr().out
    assert "paper" not in printed
    assert "the published numbers are left out: arXiv 2309.15379, Table 2 is about MicroLens-100K" in printed
    print_metrics(rows[0].recipe, rows[0].metrics[0])
    assert "paper" in capsys.readouterr().out


def test_the_summary_says_what_the_numbers_are(runs: tuple[Path, list[Row]]) -> None:
    _, rows = runs
    users, sizes = rows[0].metrics[0]["test"]["users"], rows[0].metrics[0]["sizes"]
    said = (
        f"{USERS} test users, {users['warm']} warm and {users['cold']} cold targets, 30 candidates "
        f"({sizes['items']} items ({sizes['trained_items']} in training) in {sizes['interactions']} interactions), "
        "seen items: hide"
    )
    assert summary(rows) == f"2 seed(s), mean ± standard deviation; {said}"
    other = replace(rows[1], recipe=replace(rows[1].recipe, evaluate=EvaluateConfig(mask="keep")))
    assert summary([rows[0], other]).endswith(f"; {said}; small: {said.replace('hide', 'keep')}")


@pytest.mark.parametrize(
    ("values", "text"),
    [([], "-"), ([0.12347], "0.1235"), ([0.1, 0.2], "0.1500 ± 0.0707"), ([0, 0, 3], "1.0000 ± 1.7321")],
)
def test_spread(values: list[float], text: str) -> None:
    assert spread(values) == text


def test_markdown() -> None:
    assert markdown(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n"


def test_latex() -> None:
    text = latex(["recipe", "HR@10"], [["id+v_2", "0.1 ± 0.2 (+5 %)"], [r"a\b{c}&d#e~f^g$h", "<0.0001"]], "50 % & more")
    lines = text.splitlines()
    assert lines[2:-3] == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"recipe & HR@10 \\",
        r"\midrule",
        r"id+v\_2 & 0.1 $\pm$ 0.2 (+5 \%) \\",
        r"a\textbackslash{}b\{c\}\&d\#e\textasciitilde{}f\textasciicircum{}g\$h & $<$0.0001 \\",
        r"\bottomrule",
    ]
    assert r"\caption{50 \% \& more}" in lines
    assert escape_latex("plain words, 1.5") == "plain words, 1.5"
    assert escape_latex("[a]") == "{}[a]"


def test_known_oddities_of_the_source_are_notes(runs: tuple[Path, list[Row]]) -> None:
    _, rows = runs
    assert notes(rows) == ["ids: made up, table 1; other features"]
    source = PaperResult("arXiv 2309.15379, Table 6, column frozen", {"HR@10": 0.05})
    read = {"dataset": "MicroLens-100k", "users": 100_000, "items": 19_738, "interactions": 719_405}
    metrics = tuple(one | {"read": read} for one in rows[0].metrics)
    of_table_6 = notes([replace(rows[0], recipe=replace(rows[0].recipe, paper=source), metrics=metrics)] * 2)
    assert of_table_6[0] == "ids: arXiv 2309.15379, Table 6, column frozen"
    assert [note.split(" gives")[0].split(":")[0] for note in of_table_6[1:]] == ["MicroLens", "Table 6 of MicroLens"]


def test_rows_are_tested_against_a_baseline(runs: tuple[Path, list[Row]]) -> None:
    _, rows = runs
    tests = run_tests(rows, "small")
    assert tests is not None
    assert (tests.baseline, tests.rows, tests.left_out) == ("small", ("ids", "small"), ())
    header, cells = significance(tests)
    assert header == ["recipe", "metric", "mean [95 %]", "minus small [95 %]", "p", "p (Holm)"]
    assert [line[:2] for line in cells] == [[name, m] for m in ("HR@10", "NDCG@10") for name in ("ids", "small")]
    hits = [hit_rate(load_ranks(folder), 10) for row in rows for folder in row.folders]
    ids, popular = (hits[0] + hits[1]) / 2, hits[2]
    found = tests.compared[0][0]
    assert found.own.mean == pytest.approx(statistics.fmean(rows[0].values("all", "HR@10")))
    assert found.difference is not None
    assert found.difference.mean == pytest.approx((ids - popular).mean())
    assert found.p == pytest.approx(stats.ttest_rel(ids, popular).pvalue)
    assert tests.compared[1][0].difference is None


def test_rows_of_other_users_or_masks_are_not_tested(runs: tuple[Path, list[Row]]) -> None:
    _, rows = runs
    other = replace(rows[1], recipe=replace(rows[1].recipe, evaluate=EvaluateConfig(mask="keep")))
    assert run_tests([rows[0], other]) is None
    tests = run_tests([rows[0], other, replace(rows[1], label="third")])
    assert tests is not None
    assert (tests.rows, tests.left_out) == (("ids", "third"), ("small",))
    with pytest.raises(ConfigError, match=r"--baseline 'smal' is no row of the table; did you mean 'small'\?"):
        run_tests(rows, "smal")


def test_what_cannot_be_tested_is_told(
    runs: tuple[Path, list[Row]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rows = runs
    keep = replace(rows[1], recipe=replace(rows[1].recipe, evaluate=EvaluateConfig(mask="keep")))
    assert untested([rows[0]], rows[0]) == ""
    assert untested([rows[0], keep], rows[0]).startswith("no tests against ids: tested on other users, candidates")
    given = replace(rows[1], metrics=tuple(metrics | {"split": "given"} for metrics in rows[1].metrics))
    assert summary([rows[0], given]).endswith("seen items: hide, the dataset's own split")
    for name in ("ids-seed0", "small-seed0"):
        shutil.copytree(runs[0] / name, tmp_path / name)
    path = tmp_path / "small-seed0" / "metrics.json"
    older = json.loads(path.read_text())
    del older["tested_on"]
    path.write_text(json.dumps(older))
    run_command([tmp_path / "ids-seed0", tmp_path / "small-seed0"], tmp_path)
    assert "no tests: small is a run of an older version, which kept too little" in capsys.readouterr().out


def test_rows_that_hide_other_items_are_not_tested(data: Path, tmp_path: Path) -> None:
    """The newest five of each user: the same targets, fewer seen items to hide."""
    made = [
        recipe(data, {"name": name, "model": {"name": "popularity"}, "data": {"folder": str(data), **options}})
        for name, options in (("all", {}), ("newest", {"keep_last": 5}))
    ]
    rows = compare(made, 1, tmp_path)
    assert run_tests(rows) is None


def test_groups_of_other_users_are_left_out(runs: tuple[Path, list[Row]]) -> None:
    _, rows = runs
    other = json.loads(json.dumps(rows[1].metrics))
    for metrics in other:
        metrics["test"]["groups"]["popularity"][0]["users"] -= 1
        metrics["test"]["groups"]["popularity"][-1]["users"] += 1
    header, _ = by_popularity([*rows, replace(rows[1], label="third", metrics=tuple(other))], 1, "HR@10")
    assert header[2:] == ["ids HR@10", "small HR@10"]
    shorter = json.loads(json.dumps(rows[1].metrics).replace("HR@10", "HR@5"))
    header, _ = by_popularity([*rows, replace(rows[1], label="third", metrics=tuple(shorter))], 0, "HR@10")
    assert header[2:] == ["ids HR@10", "small HR@10"]


def test_seeds_that_were_tested_on_other_data_share_no_row(data: Path, tmp_path: Path) -> None:
    made = [recipe(data, {"model": {"name": "popularity"}})]
    compare(made, 2, tmp_path)
    path = tmp_path / "small-seed1" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tested_on": "0" * 64}))
    with pytest.raises(ConfigError, match=r"seed0 and .*seed1 are runs of one recipe .* tested on different data"):
        finished_rows([tmp_path / f"small-seed{seed}" for seed in (0, 1)])


def test_groups_are_ratios_to_the_baseline(runs: tuple[Path, list[Row]]) -> None:
    _, rows = runs
    header, cells = by_popularity(rows, 1, "HR@10")
    assert header == ["training count of the target", "users", "ids HR@10", "small HR@10"]
    assert sum(int(line[1]) for line in cells) == USERS
    groups = [metrics["test"]["groups"]["popularity"] for metrics in rows[0].metrics]
    base = rows[1].metrics[0]["test"]["groups"]["popularity"]
    for place, line in enumerate(cells):
        mean = (groups[0][place]["HR@10"] + groups[1][place]["HR@10"]) / 2
        ratio = base[place]["HR@10"] and f" ({mean / base[place]['HR@10']:.2f} x)"
        assert line[2] == f"{mean:.4f}{ratio or ''}"


def run_command(sources: list[Path], out: Path, **options: Any) -> None:
    verb.run(verb.Compare(tuple(sources), **{"out": out / "runs", "device": "cpu", **options}))


def test_the_command_prints_and_writes_the_tables(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write(tmp_path / f"{made.name}.yaml", dump_yaml(recipe_to_dict(made))) for made in two_recipes(data)]
    files = {form: tmp_path / "tables" / form for form in ("markdown", "csv", "latex")}
    run_command(paths, tmp_path, overrides=["train.lr=5e-3"], groups=True, **files)
    printed = capsys.readouterr().out
    text = files["markdown"].read_text(encoding="utf-8")
    assert text.splitlines()[0].startswith("| recipe | seeds | HR@10 |")
    assert [line.split(" | ")[0] for line in text.splitlines()[2:4]] == ["| ids", "| small"]
    assert "1 seed(s)" in text
    assert "\n- ids: made up, table 1; other features\n" in text
    assert "minus ids [95 %]" in text
    for said in ("table 1; other features", "HR@10 by popularity", "paired t-test over users, against ids"):
        assert said in printed
    assert "lr: 0.005" in (tmp_path / "runs" / "ids-seed0" / "config.yaml").read_text()
    assert files["latex"].read_text().count(r"\bottomrule") == 2
    with files["csv"].open(newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    metrics = json.loads((tmp_path / "runs" / "ids-seed0" / "metrics.json").read_text())["test"]
    line = next(line for line in lines if (line["recipe"], line["group"], line["metric"]) == ("ids", "all", "HR@10"))
    assert float(line["mean"]) == float(line["values"]) == metrics["all"]["HR@10"]
    assert float(line["difference"]) == pytest.approx(metrics["all"]["HR@10"] - 0.0496)
    assert (line["baseline"], line["p"], line["sd"], line["source"]) == ("ids", "", "", "made up, table 1")
    assert float(line["low"]) <= float(line["mean"]) <= float(line["high"])
    small = next(line for line in lines if (line["recipe"], line["group"], line["metric"]) == ("small", "all", "HR@10"))
    assert 0 <= float(small["p"]) == float(small["p_holm"]) <= 1
    assert {line["group"] for line in lines} >= {"all", "warm"}


def test_finished_runs_are_compared_without_their_data(
    runs: tuple[Path, list[Row]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, rows = runs
    folders = [out / name for name in ("small-seed0", "ids-seed1", "ids-seed0")]
    found = finished_rows(folders)
    assert [(row.name, len(row.metrics)) for row in found] == [("small", 1), ("ids", 2)]
    assert found[1].folders == (out / "ids-seed1", out / "ids-seed0")
    assert sorted(found[1].values("all", "HR@10")) == sorted(rows[0].values("all", "HR@10"))
    run_command(folders, tmp_path, baseline="ids", test="wilcoxon")
    assert "Wilcoxon signed-rank test over users, against ids" in capsys.readouterr().out


def test_rows_of_one_name_are_told_apart_by_their_folders(data: Path, tmp_path: Path) -> None:
    for name, lr in (("a", 1e-3), ("b", 1e-2)):
        compare([recipe(data, {"name": "ids", "train": {"epochs": 1, "lr": lr}})], 1, tmp_path / name)
    folders = [tmp_path / name / "ids-seed0" for name in ("a", "b")]
    assert [row.name for row in finished_rows(folders)] == [str(folder) for folder in folders]


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (["ids-seed0", "r.yaml"], {}, "is a folder and .*r.yaml is none; compare recipes or finished runs, not both"),
        (["ids-seed0"], {"seeds": 3}, "is a run and stays as it is; --set, --axis and --seeds are for recipes"),
        (["ids-seed0", "ids-seed0"], {}, "are runs of one recipe and seed; give one of them"),
        (["."], {}, "is no finished run"),
        (["ids-seed0"], {"test": "z"}, "--test is 'z'"),
        (["ids-seed0"], {"baseline": "x"}, "--baseline 'x' is no row"),
    ],
)
def test_runs_that_cannot_be_compared(
    runs: tuple[Path, list[Row]], tmp_path: Path, sources: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_command([runs[0] / source for source in sources], tmp_path, **options)


def test_a_wrong_baseline_is_told_before_training(data: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", dump_yaml(recipe_to_dict(two_recipes(data)[0])))
    with pytest.raises(ConfigError, match=r"--baseline 'idz' is no row of the table; did you mean 'ids'\?"):
        run_command([path], tmp_path, baseline="idz")
    assert not (tmp_path / "runs").exists()


def test_no_seeds_and_two_recipes_of_one_name(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--seeds is 0; a comparison needs at least 1"):
        compare(two_recipes(data), 0, tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"2 recipes are named 'ids'; give each its own name, for its row"):
        compare(two_recipes(data)[:1] * 2, 1, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_ranks_of_another_test_are_refused(runs: tuple[Path, list[Row]], tmp_path: Path) -> None:
    _, rows = runs
    mixed = tmp_path / "mixed"
    shutil.copytree(rows[0].folders[0], mixed)
    assert len(load_ranks(mixed)) == USERS
    shutil.copy(rows[1].folders[0] / "ranks.npy", mixed)
    with pytest.raises(ConfigError, match=r"mixed/ranks\.npy does not have the sha256 in metrics\.json"):
        load_ranks(mixed)
