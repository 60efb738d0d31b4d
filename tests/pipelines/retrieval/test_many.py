"""Lists for many people are those that `recommend` makes one by one, in whatever pieces they are made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run_pipeline
from features.errors import ConfigError
from models import recommenders
from pipelines.retrieval import list_files, many
from pipelines.retrieval.many import Choice, Lister, rows_of_users
from pipelines.retrieval.retrieve import recommend
from pipelines.runs.experiment import run_recipe
from pipelines.runs.run import Run, open_run, open_to_serve
from tests.support.small import ITEMS, item_ids, recipe, small_dataset, write

SEARCHABLE = [name for name, kind in recommenders().items() if kind.inner_product and "id" in kind.takes]
Capture = pytest.CaptureFixture[str]


def cli(*arguments: object) -> int:
    return run_pipeline.main([str(argument) for argument in arguments])


def trained(folder: Path, model: str) -> Path:
    data = small_dataset(folder / "small")
    settings_ = {"folder": str(data), "keep_last": 4, "max_length": 6}
    made = recipe(data, {"data": settings_, "model": {"name": model}, "train": {"epochs": 1, "batch_size": 16}})
    run_recipe(made, folder / "run", device="cpu")
    return folder / "run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SASRec that keeps 4 interactions per user."""
    return trained(tmp_path_factory.mktemp("many"), "sasrec")


def lists_of(run: Run, choice: Choice, users: list[str] | None = None) -> dict[str, list[tuple[str, float]]]:
    lister = Lister(run, choice)
    parts = [part for rows in rows_of_users(run, users) for part in lister.lists(rows)]
    found: dict[str, list[tuple[str, float]]] = {}
    for user, rank, item, score in pl.concat(parts).iter_rows():
        found.setdefault(user, []).append((item, score))
        assert rank == len(found[user])
    return found


@pytest.mark.parametrize("model", SEARCHABLE)
def test_lists_are_those_of_one_user_at_a_time(tmp_path: Path, model: str) -> None:
    run = open_to_serve(trained(tmp_path, model), rows=False)
    found = lists_of(run, Choice(7))
    assert list(found) == list(run.data.split.users.ids)
    whole = open_run(tmp_path / "run")
    for user, hits in found.items():
        expected = recommend(whole, user, 7)
        assert [score for _, score in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)
        if model != "popularity":  # whose counts tie
            assert [item for item, _ in hits] == [hit.item for hit in expected]


def test_pieces_of_any_size_give_the_same_lists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_to_serve(folder, rows=False)
    expected = lists_of(run, Choice(5))
    for rows, users in ((1, 1), (7, 3), (40, 2048)):
        monkeypatch.setattr(many, "ROWS_AT_A_TIME", rows)
        monkeypatch.setattr(many, "USERS_AT_A_TIME", users)
        found = lists_of(run, Choice(5))
        assert {user: [item for item, _ in hits] for user, hits in found.items()} == {
            user: [item for item, _ in hits] for user, hits in expected.items()
        }


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, ITEMS - 1), min_size=1), st.sets(st.integers(0, ITEMS - 1), max_size=ITEMS // 2))
def test_choices_leave_the_order_of_the_rest(folder: Path, only: set[int], never: set[int]) -> None:
    run = open_to_serve(folder, rows=False)
    ids = item_ids()
    choice = Choice(30, [ids[item] for item in only], [ids[item] for item in never], hide_seen=False)
    everything = dict(lists_of(run, Choice(30, hide_seen=False), ["u03"]))["u03"]
    wanted = [item for item, _ in everything if int(item) in only - never]
    if not only - never:
        with pytest.raises(ConfigError, match="none of the 30 items may be chosen"):
            Lister(run, choice)
        return
    assert [item for item, _ in lists_of(run, choice, ["u03"])["u03"]] == wanted


def test_a_history_of_thousands_shortens_no_list(tmp_path: Path) -> None:
    """One user has had all items but three."""
    data = small_dataset(tmp_path / "small")
    with (data / "interactions.tsv").open("a") as handle:
        handle.writelines(f"much\t{item:03}\t{item}\n" for item in range(ITEMS - 3))
    run_recipe(recipe(data), tmp_path / "run", device="cpu")
    found = lists_of(open_to_serve(tmp_path / "run", rows=False), Choice(10))
    assert sorted(item for item, _ in found["much"]) == ["027", "028", "029"]
    assert all(len(hits) == 10 for user, hits in found.items() if user != "much")


@pytest.mark.parametrize("ending", list_files.ENDINGS)
def test_files_hold_one_row_per_place(folder: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / "new" / f"lists{ending}"
    assert cli("recommend", folder, "--users", "all", "--top", 3, "--out", out) == 0
    read = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}[ending]
    table = read(out)
    assert table.columns == ["user", "rank", "item", "score"]
    assert len(table) == 40 * 3
    expected = lists_of(open_to_serve(folder, rows=False), Choice(3))
    rows = table.filter(pl.col("user") == "u07")
    assert [f"{int(item):03}" for item in rows["item"]] == [item for item, _ in expected["u07"]]
    assert rows["score"].to_list() == pytest.approx([score for _, score in expected["u07"]], abs=1e-6)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_users_of_a_file_are_answered_and_others_are_counted(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    users = write(tmp_path / "users.txt", "u05\nnobody\nu01\nno one\nu05\n")
    out = tmp_path / "lists.csv"
    assert cli("recommend", folder, "--users", users, "--out", out, "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["users"] == 2
    assert json.loads(told.out)["without"] == {"unknown": 2, "untrained": 0, "strange": 0}
    assert "2 users unknown to the dataset, such as 'nobody', 'no one'" in " ".join(told.err.split())
    assert set(pl.read_csv(out)["user"]) == {"u05", "u01"}


def test_users_who_came_later_are_answered_by_their_history_or_counted(tmp_path: Path, capsys: Capture) -> None:
    for model, count in (("sasrec", 41), ("bprmf", 40)):
        run = trained(tmp_path / model, model)
        with (tmp_path / model / "small" / "interactions.tsv").open("a") as handle:
            handle.write("fresh\t003\t1\nodd\tnever-seen\t1\n")
        assert cli("recommend", run, "--users", "all", "--out", tmp_path / "lists.parquet") == 0
        assert pl.read_parquet(tmp_path / "lists.parquet")["user"].n_unique() == count
        said = " ".join(capsys.readouterr().err.split())
        if model == "sasrec":
            assert "1 users without an item that the model knows, such as 'odd'" in said
        else:
            assert "2 users not trained on, and bprmf knows users by number, such as 'fresh', 'odd'" in said


def test_somebody_elses_history_counts_as_a_users_does(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    run = open_run(folder)
    rows = run.data.dataset.interactions.filter(pl.col("user") == "u04")
    expected = [hit.item for hit in recommend(run, "u04", 5)]
    assert cli("recommend", folder, "--history", ",".join(rows["item"]), "--top", 5, "--json") == 0
    assert [hit["item"] for hit in json.loads(capsys.readouterr().out)] == expected
    table = write(tmp_path / "people.csv", "user,item\n" + "".join(f"x,{item}\n" for item in rows["item"]))
    assert cli("recommend", folder, "--histories", table, "--top", 5, "--out", tmp_path / "x.parquet") == 0
    assert pl.read_parquet(tmp_path / "x.parquet")["item"].to_list() == expected
    assert cli("recommend", folder, "--history", "003,strange", "--top", 5) == 0
    assert "1 of 2 items are unknown to the model, such as 'strange'" in " ".join(capsys.readouterr().err.split())


def test_times_in_a_table_of_other_people_count(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "people.csv"
    lists = []
    for rows in ("x,003,2\nx,007,1\n", "x,007,1\nx,003,2\n"):
        write(table, f"user,item,timestamp\n{rows}")
        assert cli("recommend", folder, "--histories", table, "--out", tmp_path / "x.parquet") == 0
        lists.append(pl.read_parquet(tmp_path / "x.parquet"))
    assert lists[0].equals(lists[1])
    write(table, "user,item,timestamp\nx,003,2\nx,007,soon\n")  # not the order of the file in silence
    assert cli("recommend", folder, "--histories", table, "--out", tmp_path / "x.parquet") == 2
    assert "time that is neither a number nor an ISO 8601 date" in " ".join(capsys.readouterr().err.split())


def test_a_user_who_came_later_has_choices_too(tmp_path: Path, capsys: Capture) -> None:
    run = trained(tmp_path, "sasrec")
    with (tmp_path / "small" / "interactions.tsv").open("a") as handle:
        handle.write("fresh\t003\t1\n")
    assert cli("recommend", run, "--user", "fresh", "--seen", "keep", "--json") == 0
    told = capsys.readouterr()
    assert len(json.loads(told.out)) == 10
    assert "user 'fresh' was not trained on; sasrec ranks by the history alone" in " ".join(told.err.split())


def test_a_dataset_that_is_gone_is_named_once(tmp_path: Path, capsys: Capture) -> None:
    run = trained(tmp_path, "sasrec")
    (tmp_path / "small").rename(tmp_path / "elsewhere")
    assert cli("recommend", run, "--users", "all", "--out", tmp_path / "lists.csv") == 0
    assert " ".join(capsys.readouterr().err.split()).count("does not exist any more") == 1


def test_a_run_that_keeps_rows_in_another_order_gives_the_same_lists(tmp_path: Path) -> None:
    """Earlier versions kept them in the order of the dataset, and said nothing about it."""
    run = trained(tmp_path, "sasrec")
    expected = lists_of(open_to_serve(run, rows=False), Choice(5))
    rows = pl.read_parquet(run / "interactions.parquet")
    rows.sort("timestamp", maintain_order=True).write_parquet(run / "interactions.parquet")
    told = json.loads((run / "dataset.json").read_text())
    del told["by_user"]
    (run / "dataset.json").write_text(json.dumps(told))
    assert lists_of(open_to_serve(run, rows=False), Choice(5)) == expected


def test_choices_of_one_user(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    only = write(tmp_path / "only.txt", "003\n004\n005\nzzz\n")
    never = write(tmp_path / "not.txt", "004\n")
    asked = ("recommend", folder, "--user", "u04", "--json", "--only", only, "--not", never, "--seen", "keep")
    assert cli(*asked) == 0
    told = capsys.readouterr()
    assert {hit["item"] for hit in json.loads(told.out)} == {"003", "005"}
    assert "1 of 4 items are unknown to the model, such as 'zzz'" in " ".join(told.err.split())


WRONG = {
    "nobody asked for": ((), "give one of --user, --users, --history and --histories; found: none of them"),
    "two asked for": (("--user", "u01", "--users", "all"), "found: --user, --users"),
    "no file": (("--users", "all"), "--users needs --out FILE"),
    "a file for one": (("--user", "u01", "--out", "x.csv"), "--user prints its list"),
    "unknown ending": (("--users", "all", "--out", "x.txt"), "must end in one of .parquet, .csv, .jsonl"),
    "above the catalogue": (("--user", "u01", "--top", "31"), "at most the 30 that there are"),
    "above it for many": (("--users", "all", "--out", "x.csv", "--top", "31"), "at most the 30 that there are"),
    "a user of nobody": (("--user", "u99"), "unknown user 'u99'"),
    "the same with a choice": (("--user", "u99", "--seen", "keep"), "unknown user 'u99'"),
    "unknown items": (("--history", "a,b"), "names no item that the model knows"),
    "no items": (("--history", " , "), "names no item that the model knows"),
    "no such file": (("--users", "missing.txt", "--out", "x.csv"), "missing.txt does not exist"),
    "nobody known": (("--users", "strangers.txt", "--out", "x.csv"), "nobody got a list: 1 users unknown"),
    "an empty file": (("--users", "empty.txt", "--out", "x.csv"), "empty.txt holds no ids"),
    "only unknown items": (("--user", "u01", "--only", "strangers.txt"), "names no item that the model knows"),
    "a folder": (("--users", "all", "--out", "folder.csv"), "which is a folder"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, wrong: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "strangers.txt", "who\n")
    write(tmp_path / "empty.txt", "\n")
    (tmp_path / "folder.csv").mkdir()
    options, said = WRONG[wrong]
    assert cli("recommend", folder, *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert said in " ".join(" ".join(lines).split())
    assert not Path("x.csv").exists()
    assert not list(tmp_path.glob(".*.tmp"))


def test_models_that_know_users_by_number_refuse_histories(tmp_path: Path, capsys: Capture) -> None:
    run = trained(tmp_path, "bprmf")
    table = write(tmp_path / "people.csv", "user,item\nx,003\n")
    for asked in (("--history", "003"), ("--histories", table, "--out", tmp_path / "x.csv")):
        assert cli("recommend", run, *asked) == 2
        assert "needs a model that reads histories; bprmf knows users by number" in " ".join(
            capsys.readouterr().err.split()
        )


def test_a_disk_without_room_leaves_the_old_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write(tmp_path / "lists.csv", "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_csv", full)
    assert cli("recommend", folder, "--users", "all", "--out", out) == 2
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["lists.csv"]


def test_scores_are_computed_in_the_same_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "USERS_AT_A_TIME", 8)
    run = open_to_serve(folder, rows=False)
    lister = Lister(run, Choice(5))
    rows = next(iter(rows_of_users(run, None)))
    places = {lister._scores.data_ptr() for _ in lister.lists(rows) if len(lister._scores)}
    assert len(places) == 1
    assert np.prod(lister._scores.shape) == 8 * ITEMS
