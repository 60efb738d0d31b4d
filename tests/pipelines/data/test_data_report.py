"""What `data` says of a dataset, and what `train` warns of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import run_pipeline
from pipelines.data.data_config import DataConfig
from pipelines.data.detection import read_dataset
from pipelines.data.load import make_split
from pipelines.data.report import data_report
from pipelines.recipe.yaml_text import dump_yaml
from tests.support.small import plain_recipe, small_dataset, write, write_interactions

Capture = pytest.CaptureFixture[str]


def test_counts_of_a_dataset(tmp_path: Path) -> None:
    rows = [("u", "a", 1), ("u", "b", 2), ("u", "a", 3), ("v", "a", 1), ("v", "c", 2), ("w", "d", 9), ("w", "d", 9)]
    write_interactions(tmp_path, rows)
    write(tmp_path / "items.csv", "item,title\na,A\nb,\nz,Z\n")
    for name in ("a", "c", "y"):
        write(tmp_path / "videos" / f"{name}.mp4", "x")
    found = data_report(read_dataset(tmp_path))
    assert (found.users, found.items, found.interactions) == (3, 4, 7)
    assert (found.repeats, found.duplicates) == (2, 1)
    assert found.lengths == (2, 2.0, 7 / 3, 3)
    assert [(one.what, one.items, one.others) for one in found.joined] == [("titles", 1, 1), ("videos", 2, 1)]
    assert found.line == (
        "data: 3 users, 4 items, 7 interactions, 2 to 3 per user (median 2), 2 repeats, 0 test targets tied in time, "
        "titles of 1, videos of 2"
    )


def test_ties_are_those_that_decide_a_target(tmp_path: Path) -> None:
    rows = [
        *(("a", item, time) for item, time in zip("wxyz", (1, 2, 3, 3), strict=True)),  # test and validation
        *(("b", item, time) for item, time in zip("wxyz", (1, 2, 2, 3), strict=True)),  # validation alone
        *(("c", item, time) for item, time in zip("wxyz", (1, 1, 2, 3), strict=True)),  # no target
        *(("d", item, time) for item, time in zip("wxyy", (1, 2, 3, 3), strict=True)),  # one item, whichever row
    ]
    write_interactions(tmp_path, rows)
    found = data_report(read_dataset(tmp_path))
    assert (found.tied_tests, found.tied_valids) == (1, 2)


def test_what_ties_decide_is_warned_of(tmp_path: Path) -> None:
    """A file sorted by item under one time: who comes last is the item's number, which a model can learn."""
    write_interactions(tmp_path, [(f"u{user}", f"{item:02}", 7) for user in range(5) for item in range(user, user + 4)])
    (warning,) = data_report(read_dataset(tmp_path)).warnings()
    assert warning.startswith("the test target of 5 of 5 users, and the validation target of 5, has the same time")


def test_a_table_with_every_row_twice_is_warned_of(tmp_path: Path) -> None:
    rows = [("u", item, time) for time, item in enumerate("abcd")]
    write_interactions(tmp_path, [row for row in rows for _ in range(2)])
    dataset = read_dataset(tmp_path)
    (warning,) = data_report(dataset).warnings()
    assert warning.startswith("4 of 8 interactions repeat the user, item and time of another row")
    assert "data.repeats=first" in warning
    clean = make_split(dataset, DataConfig(str(tmp_path), repeats="first"))
    assert [
        clean.items.ids[item] for item in (*clean.train_edges[1], *clean.valid.targets, *clean.test.targets)
    ] == list("abcd")


def test_joins_that_lose_more_than_they_keep_show_both_kinds_of_ids(tmp_path: Path) -> None:
    write_interactions(tmp_path, [("u", f"{item}.0", item) for item in range(1, 9)])
    write(tmp_path / "items.csv", "item,title\n" + "".join(f"{item},t\n" for item in range(1, 9)))
    write(tmp_path / "covers" / "cover_1.jpg", "x")
    told = data_report(read_dataset(tmp_path)).warnings()
    assert told == [
        (
            "only 0 of 8 items have titles, and 8 titles belong to no item: ids of items look like '1.0', "
            "ids of titles like '1'; make them agree"
        ),
        (
            "only 0 of 8 items have covers, and 1 covers belong to no item: ids of items look like '1.0', "
            "ids of covers like 'cover_1'; make them agree"
        ),
    ]


def test_a_catalogue_larger_than_the_interactions_is_no_matter(tmp_path: Path) -> None:
    write_interactions(tmp_path, [("u", f"{item}", item) for item in range(4)])
    write(tmp_path / "items.csv", "item,title\n" + "".join(f"{item},t\n" for item in range(1000)))
    assert data_report(read_dataset(tmp_path)).warnings() == []


def test_the_verb_data(tmp_path: Path, capsys: Capture) -> None:
    folder = small_dataset(tmp_path / "small")
    assert run_pipeline.main(["data", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "plain folder: interactions.tsv, items.csv" in printed
    assert "test targets tied in time" in printed
    assert run_pipeline.main(["data", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["users"], found["items"]) == (40, 30)
    assert found["warnings"] == []


@pytest.mark.parametrize("verb", ["train", "compare", "search"])
def test_runs_print_the_line_and_the_warnings(tmp_path: Path, capsys: Capture, verb: str) -> None:
    folder = small_dataset(tmp_path / "small")
    text = (folder / "interactions.tsv").read_text().splitlines()
    (folder / "interactions.tsv").write_text("\n".join([*text, *text[1:]]) + "\n")
    plain = plain_recipe(folder) | {"train": {"epochs": 1}}
    write(tmp_path / "r.yaml", dump_yaml(plain))
    more = ["--trials", "1", "--space", "train.lr=1e-3,1e-2"] if verb == "search" else []
    assert run_pipeline.main([verb, str(tmp_path / "r.yaml"), "--out", str(tmp_path / verb), *more]) == 0
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("data: 40 users, 30 items") == 1
    assert " ".join(printed.err.split()).count("interactions repeat the user, item and time") == 1
    write(tmp_path / "r.yaml", dump_yaml(plain | {"data": plain["data"] | {"repeats": "last"}}))
    assert run_pipeline.main([verb, str(tmp_path / "r.yaml"), "--out", str(tmp_path / f"{verb}2"), *more]) == 0
    assert "repeat the user, item and time" not in capsys.readouterr().err
