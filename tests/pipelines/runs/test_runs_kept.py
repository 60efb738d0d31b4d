"""Runs are of use from any folder, after new interactions, and may go on with more epochs."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

import run_pipeline
from features.errors import ConfigError
from features.provenance import file_sha256
from features.published import read_ids
from pipelines.data.load import load_data
from pipelines.data.split import EvalPart, Split, TrainWindows
from pipelines.data.vocabulary import Vocabulary
from pipelines.recipe.recipe import build_recipe
from pipelines.retrieval.retrieve import recommend
from pipelines.runs.experiment import run_recipe
from pipelines.runs.kept.kept_data import id_lines, kept_user, write_row_ids
from pipelines.runs.run import Run, open_run
from tests.support.small import item_ids, plain_recipe, recipe, small_dataset, write_vectors

Capture = pytest.CaptureFixture[str]
MODELS: dict[str, dict[str, Any]] = {
    "sasrec": {"name": "sasrec", "dropout": 0.1},
    "lightgcn": {"name": "lightgcn"},
    "bprmf": {"name": "bprmf"},
}


def cli(*arguments: object) -> int:
    return run_pipeline.main([str(argument) for argument in arguments])


def append(folder: Path, *rows: tuple[str, str, int]) -> None:
    with (folder / "interactions.tsv").open("a") as handle:
        handle.writelines("\t".join(map(str, row)) + "\n" for row in rows)


def test_a_run_is_of_use_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    small_dataset(tmp_path / "here" / "data")
    write_vectors(tmp_path / "here" / "f.h5", "data", item_ids())
    monkeypatch.chdir(tmp_path / "here")
    changes = {"items": {"kind": "v", "dim": 8}, "features": [{"path": "f*.h5"}]}
    run_recipe(recipe(Path("data"), changes), Path("run"))
    expected = recommend(open_run(Path("run")), "u01", 5)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    assert recommend(open_run(Path("../here/run")), "u01", 5) == expected
    assert cli("evaluate", "../here/run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test"] == json.loads((tmp_path / "here" / "run" / "metrics.json").read_text())["test"]


def test_another_folder_may_take_the_datasets_place(tmp_path: Path, capsys: Capture) -> None:
    data = small_dataset(tmp_path / "farm")
    run_recipe(recipe(data), tmp_path / "run")
    data.rename(tmp_path / "laptop")
    assert cli("evaluate", tmp_path / "run") == 2
    assert "farm does not exist" in capsys.readouterr().err
    assert cli("recommend", tmp_path / "run", "--user", "u01") == 0  # from what the run keeps
    assert cli("recommend", tmp_path / "run", "--user", "u01", "--data", tmp_path / "laptop") == 0
    assert cli("evaluate", tmp_path / "run", "--data", tmp_path / "laptop") == 0


@pytest.mark.parametrize("model", MODELS)
def test_new_interactions_count_where_something_is_recommended(tmp_path: Path, capsys: Capture, model: str) -> None:
    data = small_dataset(tmp_path / "small")
    run_recipe(recipe(data, {"model": MODELS[model]}), tmp_path / "run")
    before = {user: recommend(open_run(tmp_path / "run"), user, 30) for user in ("u01", "u02")}
    taken = before["u01"][0].item
    append(data, ("u01", taken, 99), ("u01", "new", 100), ("fresh", "003", 1))
    opened = open_run(tmp_path / "run", new_interactions=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "'small' changed since" in said
    assert "1 users and 1 items of it are unknown to the model" in said
    assert recommend(opened, "u02", 30) == before["u02"]  # what was trained on has not changed
    after = recommend(opened, "u01", 30)
    assert {hit.item for hit in after} == {hit.item for hit in before["u01"]} - {taken}
    if model == "sasrec":
        assert after[0].score != before["u01"][1].score  # the history is longer by one known item
        assert len(recommend(opened, "fresh", 30)) == 29
        assert "user 'fresh' was not trained on; sasrec ranks by the history alone" in capsys.readouterr().err
    else:
        assert after == before["u01"][1:]
        with pytest.raises(
            ConfigError, match=r"user 'fresh' has 1 interactions but was not trained on .* by number alone"
        ):
            recommend(opened, "fresh", 30)


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every try to read a dataset fail."""

    def refuse(_: object) -> NoReturn:
        raise AssertionError("the dataset is read")

    monkeypatch.setattr("pipelines.runs.run.load_data", refuse)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("no_reading")
def test_one_users_rows_are_read_from_the_run(tmp_path: Path, model: str) -> None:
    data = small_dataset(tmp_path / "small")
    append(data, ("short", "003", 1))
    made = recipe(data, {"model": MODELS[model], "data": {"folder": str(data), "keep_last": 4, "repeats": "last"}})
    run_recipe(made, tmp_path / "run", data=load_data(made.data))
    whole = open_run(tmp_path / "run", data=load_data(made.data))
    for user in ("u01", "u07", *(["short"] if model == "sasrec" else [])):
        opened = open_run(tmp_path / "run", new_interactions=True, only_user=user)
        assert opened.data.dataset.interactions["user"].unique().to_list() == [user]
        assert opened.data.dataset.titles == whole.data.dataset.titles
        assert recommend(opened, user, 5) == recommend(whole, user, 5)
    with pytest.raises(ConfigError, match="unknown user 'nobody'"):
        recommend(open_run(tmp_path / "run", new_interactions=True, only_user="nobody"), "nobody", 5)


def test_a_dataset_of_another_date_is_the_same_and_one_of_other_bytes_is_not(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "small")
    table = data / "interactions.tsv"
    config = recipe(data).data
    run_recipe(recipe(data), tmp_path / "run")
    text = table.read_text()
    os.utime(table, ns=(1, 1))
    assert kept_user(tmp_path / "run", config, "u01") is not None
    table.write_text(text.replace("\t5\n", "\t6\n"))
    assert len(table.read_text()) == len(text) != 0
    assert kept_user(tmp_path / "run", config, "u01") is None
    table.write_text(text)
    assert kept_user(tmp_path / "run", config, "u01") is not None
    (data / "more").mkdir()
    (data / "more" / "table.csv").touch()  # a reader might take it
    assert kept_user(tmp_path / "run", config, "u01") is None


@pytest.mark.parametrize("name", ["interactions.parquet", "titles.parquet", "dataset.json"])
def test_what_a_run_keeps_badly_is_read_from_the_dataset(tmp_path: Path, name: str) -> None:
    data = small_dataset(tmp_path / "small")
    run_recipe(recipe(data), tmp_path / "run")
    expected = recommend(open_run(tmp_path / "run"), "u01", 5)
    (tmp_path / "run" / name).write_text("{}")
    assert recommend(open_run(tmp_path / "run", new_interactions=True, only_user="u01"), "u01", 5) == expected


def test_nothing_is_kept_of_files_that_changed_while_they_were_read(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "small")
    read = load_data(recipe(data).data)
    append(data, ("u01", "003", 99))
    run_recipe(recipe(data), tmp_path / "run", data=read)
    assert kept_user(tmp_path / "run", recipe(data).data, "u01") is None


def test_a_test_is_not_falsified_by_new_interactions(tmp_path: Path, capsys: Capture) -> None:
    data = small_dataset(tmp_path / "small")
    made = recipe(data)
    run_recipe(made, tmp_path / "run")
    append(data, ("u01", "003", 99))
    assert cli("evaluate", tmp_path / "run") == 2
    assert "and its test would change with it; train into another folder" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="changed since"):
        run_recipe(made, tmp_path / "run")


def test_runs_of_earlier_versions_keep_nothing_and_say_what_they_did(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "small")
    run_recipe(recipe(data), tmp_path / "run")
    for name in ("users.json", "items.json", "training.npy"):
        (tmp_path / "run" / name).unlink()
    assert recommend(open_run(tmp_path / "run", new_interactions=True), "u01", 3)
    append(data, ("u01", "003", 99))
    with pytest.raises(ConfigError, match="changed since"):
        open_run(tmp_path / "run", new_interactions=True)


def test_users_who_were_too_few_or_have_had_all(tmp_path: Path, capsys: Capture) -> None:
    data = small_dataset(tmp_path / "small")
    append(data, ("short", "003", 1), *(("all", item, time) for time, item in enumerate(item_ids())), ("none", "x", 1))
    changes = {"data": {"folder": str(data), "candidates": "kept"}}
    run_recipe(recipe(data, changes), tmp_path / "run")
    assert cli("recommend", tmp_path / "run", "--user", "short") == 0
    assert "user 'short' was not trained on" in capsys.readouterr().err
    assert cli("recommend", tmp_path / "run", "--user", "all") == 0
    assert "nothing to recommend: user 'all' has had 30 items, all of the 30 there are" in capsys.readouterr().err
    assert cli("recommend", tmp_path / "run", "--user", "none") == 2
    assert "knows none of the items that user 'none' has had" in capsys.readouterr().err
    assert cli("recommend", tmp_path / "run", "--user", "nobody") == 2
    assert "unknown user 'nobody'" in capsys.readouterr().err


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(run / "checkpoint.pt", weights_only=True)["model"])


def test_more_epochs_are_those_of_an_unbroken_run(tmp_path: Path, capsys: Capture) -> None:
    data = small_dataset(tmp_path / "small")
    plain = plain_recipe(data)

    def trained(epochs: int, folder: str) -> Run:
        train = {"epochs": epochs, "batch_size": 16, "patience": 50}
        run_recipe(build_recipe(plain | {"train": train}), tmp_path / folder)
        return open_run(tmp_path / folder)

    trained(2, "run")
    recommend(open_run(tmp_path / "run"), "u01", 3)
    first = (tmp_path / "run" / "index.faiss").read_bytes()
    trained(5, "run")
    trained(5, "whole")
    one, two = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert np.array_equal(np.load(tmp_path / "run" / "ranks.npy"), np.load(tmp_path / "whole" / "ranks.npy"))
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 5
    assert recommend(open_run(tmp_path / "run"), "u01", 3) == recommend(open_run(tmp_path / "whole"), "u01", 3)
    assert (tmp_path / "run" / "index.faiss").read_bytes() != first
    with pytest.raises(ConfigError, match=r"other settings \(train\.epochs was 5, now 3\)"):
        trained(3, "run")


def test_the_rows_of_ranks_lists_and_index_have_their_ids_beside_them(tmp_path: Path) -> None:
    odd = "\ufeffone\nof \\n\r\u2028 lines"
    users, items = Vocabulary(("u1", "u0", "u2"), "user"), Vocabulary(("a", odd, "\\", "b"), "item")
    none, nobody = np.zeros(0, np.int64), np.zeros((0, 1), np.int64)
    tested = EvalPart(np.array([2, 0]), nobody, nobody.astype(bool), none, none, np.zeros(1, np.int64))
    train = TrainWindows(none, nobody, nobody.astype(bool))
    split = Split("small", users, items, train, tested, tested, none, nobody.T, "", 0)
    digests = write_row_ids(tmp_path, split)
    assert digests == {name: file_sha256(tmp_path / name) for name in ("users.txt", "items.txt")}
    assert read_ids(tmp_path / "users.txt") == ["u2", "u1"]
    assert [unescaped(line) for line in read_ids(tmp_path / "items.txt")] == list(items.ids)
    (tmp_path / "first.txt").write_bytes(id_lines((odd, "b")).encode())
    assert [unescaped(line) for line in read_ids(tmp_path / "first.txt")] == [odd, "b"]


def unescaped(line: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r"}.get(found[1], found[1]), line)


def test_what_a_run_keeps_are_its_ids(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "small")
    run_recipe(recipe(data), tmp_path / "run")
    split = open_run(tmp_path / "run").data.split
    assert json.loads((tmp_path / "run" / "items.json").read_text()) == list(split.items.ids)
    assert json.loads((tmp_path / "run" / "users.json").read_text()) == list(split.users.ids)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    (tmp_path / "copy" / "items.json").write_text("[")
    append(data, ("u01", "003", 99))
    with pytest.raises(ConfigError, match=r"items\.json is damaged"):
        open_run(tmp_path / "copy", new_interactions=True)
