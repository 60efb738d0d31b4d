"""The RecBole folder: the split row by row, read back by our own reader, and every rule of RecBole broken once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

import run_pipeline
from features.errors import ConfigError, StoreError
from features.store import FeatureFile
from pipelines.data.data_config import DataConfig
from pipelines.data.load import Data, load_data
from pipelines.data.split import EvalPart, Split
from pipelines.recbole.atomic_check import check_recbole_folder
from pipelines.recbole.atomic_files import read_atomic_file
from pipelines.recbole.export import export_recbole
from tests.support.shared import made_once
from tests.support.small import item_ids, small_dataset, write, write_interactions, write_layers, write_vectors

OPTIONS: dict[str, dict[str, Any]] = {
    "leave-one-out": {},
    "time": {"split": "time", "valid_from": 6, "test_from": 10},
    "ratio": {"split": "ratio", "test_share": 0.3},
    "random": {"split": "ratio", "order": "random"},
    "user-folds": {"split": "user-folds", "test_share": 0.2},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "recbole-small", small_dataset)


def exported(small: Path, out: Path, kind: str, **more: Any) -> tuple[Data, Path]:
    data = load_data(DataConfig(str(small), max_length=4, **OPTIONS[kind]))
    report = export_recbole(out, "toy", data.split, max_length=4, titles=data.dataset.titles, **more)
    assert check_recbole_folder(report.folder, "toy") == []
    return data, report.folder


def raw(split: Split, pairs: Any) -> list[tuple[str, str]]:
    return [(split.users.ids[user], split.items.ids[item]) for user, item in pairs.T]


def rows(path: Path) -> list[dict[str, str]]:
    header, cells = read_atomic_file(path)
    return [dict(zip((name.partition(":")[0] for name in header), row, strict=True)) for row in cells]


def settings(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


@pytest.mark.parametrize("kind", ["time", "ratio", "random"])
def test_a_file_per_part_is_the_split(kind: str, small: Path, tmp_path: Path) -> None:
    data, folder = exported(small, tmp_path, kind)
    split = data.split
    for part, pairs in (("train", split.train_edges), ("valid", split.valid.pairs), ("test", split.test.pairs)):
        found = [(row["user_id"], row["item_id"]) for row in rows(folder / f"toy.{part}.inter")]
        assert found == raw(split, pairs)
    options = settings(folder / "toy.yaml")
    assert options["benchmark_filename"] == ["train", "valid", "test"]
    assert options["load_col"] == {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]}
    again = load_data(DataConfig(str(folder))).split
    assert raw(again, again.train_edges) == raw(split, split.train_edges)
    for mine, its in ((split.valid, again.valid), (split.test, again.test)):
        assert sorted(raw(again, its.pairs)) == sorted(raw(split, mine.pairs))


@pytest.mark.parametrize("kind", ["time", "random", "user-folds"])
def test_rows_with_histories_are_what_our_models_see(kind: str, small: Path, tmp_path: Path) -> None:
    data, folder = exported(small, tmp_path, kind)
    split = data.split
    sequences: dict[str, list[str]] = {}
    for user, item in raw(split, split.train_edges):
        sequences.setdefault(user, []).append(item)
    found = [
        (row["user_id"], row["item_id_list"].split(), row["item_id"])
        for row in rows(folder / "toy.train_sequences.inter")
    ]
    assert found == [
        (user, items[max(0, place - 4) : place], items[place])
        for user, items in sequences.items()
        for place in range(1, len(items))
    ]
    for name, part in (("valid", split.valid), ("test", split.test)):
        lines = [
            (row["user_id"], row["item_id_list"].split(), row["item_id"])
            for row in rows(folder / f"toy.{name}_sequences.inter")
        ]
        assert Counter((user, item) for user, _, item in lines) == Counter(raw(split, part.pairs))
        assert {user: history for user, history, _ in lines} == histories(split, part)
    options = settings(folder / "toy-sequential.yaml")
    assert options["benchmark_filename"] == ["train_sequences", "valid_sequences", "test_sequences"]
    assert options["alias_of_item_id"] == ["item_id_list"]
    assert (options["MAX_ITEM_LIST_LENGTH"], options["train_neg_sample_args"]) == (4, None)
    assert (folder / "toy.yaml").exists() == (kind != "user-folds")  # whose users train nothing


def histories(split: Split, part: EvalPart) -> dict[str, list[str]]:
    return {
        split.users.ids[user]: [split.items.ids[item] for item in items[mask]]
        for user, items, mask in zip(part.users, part.items, part.mask, strict=True)
    }


def test_leave_one_out_is_one_file_that_recbole_splits(small: Path, tmp_path: Path) -> None:
    data, folder = exported(small, tmp_path, "leave-one-out")
    split = data.split
    lines = rows(folder / "toy.inter")
    assert len(lines) == split.sizes()["interactions"]
    last: dict[str, list[str]] = {}
    for row in sorted(lines, key=lambda row: (row["user_id"], float(row["timestamp"]))):
        last.setdefault(row["user_id"], []).append(row["item_id"])
    for place, part in ((-2, split.valid), (-1, split.test)):
        assert [(user, items[place]) for user, items in last.items()] == raw(split, part.pairs)
    for file in ("toy.yaml", "toy-sequential.yaml"):
        assert settings(folder / file)["eval_args"]["split"] == {"LS": "valid_and_test"}
        assert "benchmark_filename" not in settings(folder / file)
    again = load_data(DataConfig(str(folder), max_length=4)).split
    assert (again.tested_on(), again.sizes()) == (split.tested_on(), split.sizes())


def test_titles_and_vectors(small: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for seed, path in enumerate(paths):
        write_vectors(path, "recbole-small", item_ids(), seed=seed, missing=["003"] if seed else [])
    files = [FeatureFile(path) for path in paths]
    data, folder = exported(small, tmp_path / "out", "time", features=files)
    titles = {row["item_id"]: row["item_title"] for row in rows(folder / "toy.item")}
    assert tuple(titles) == data.split.items.ids
    assert (titles["004"], titles["029"]) == ("title, 4", "")
    for file, suffix, number in zip(files, ("itememb", "itememb2"), ("", "2"), strict=True):
        found = rows(folder / f"toy.{suffix}")
        ids = [row[f"iid{number}"] for row in found]
        assert ids == [item for item in item_ids() if not (number and item == "003")]
        vectors = np.array([row[f"item_emb{number}"].split() for row in found], dtype=np.float32)
        np.testing.assert_array_equal(vectors, file.read(ids))
    for name in ("toy.yaml", "toy-sequential.yaml"):
        options = settings(folder / name)
        assert options["additional_feat_suffix"] == ["itememb", "itememb2"]
        assert options["preload_weight"] == {"iid": "item_emb", "iid2": "item_emb2"}
        assert options["alias_of_item_id"][-2:] == ["iid", "iid2"]
        assert options["load_col"]["itememb2"] == ["iid2", "item_emb2"]
        assert "# NAME.itememb2 holds b.h5; 1 items have none." in (folder / name).read_text()
    record = json.loads((folder / "freezeframe.json").read_text())
    assert record["features"][0]["recipe"]["encoder"] == "noise"
    assert record["vectors"] == {"itememb": ["a.h5", 0], "itememb2": ["b.h5", 1]}


def test_ids_that_recbole_cannot_hold_become_numbers(tmp_path: Path) -> None:
    odd = ["NA", "two words", '"quoted', "[PAD]", "é"]
    write(tmp_path / "d" / "items.csv", 'item,title\nNA,"a ""b""\tc\nd"\n')
    lines = [json.dumps({"user": "u", "item": item, "timestamp": n}) for n, item in enumerate(odd)]
    write(tmp_path / "d" / "interactions.jsonl", "\n".join(lines))
    data = load_data(DataConfig(str(tmp_path / "d")))
    report = export_recbole(tmp_path / "out", "toy", data.split, max_length=3, titles=data.dataset.titles)
    assert report.numbered
    told = [line.split("\t") for line in (report.folder / "item_ids.tsv").read_text().splitlines()]
    names = {number: json.loads(raw) for number, raw in told}
    assert [names[row["item_id"]] for row in rows(report.folder / "toy.inter")] == odd
    assert {names[row["item_id"]]: row["item_title"] for row in rows(report.folder / "toy.item")}["NA"] == "a 'b' c d"
    assert (report.folder / "user_ids.tsv").read_text() == '0\t"u"\n'


def test_an_export_is_whole_or_nothing(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = exported(small, tmp_path, "leave-one-out")
    exported(small, tmp_path, "time")  # an export of the same dataset is replaced
    assert not (folder / "toy.inter").exists()
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr("pipelines.recbole.export.check_recbole_folder", lambda *_: ["a reason"])
    with pytest.raises(ConfigError, match=r"this split and these features cannot go to RecBole: a reason"):
        exported(small, tmp_path, "ratio")
    assert sorted(path.name for path in folder.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_what_is_refused(small: Path, tmp_path: Path) -> None:
    for name, why in (
        ("a.b", "use letters, digits"),
        ("../x", "use letters"),
        ("ml-100k", "RecBole reads its own copy"),
    ):
        with pytest.raises(ConfigError, match=rf"RecBole dataset name '{name}' becomes a folder .*{why}"):
            export_recbole(tmp_path, name, load_data(DataConfig(str(small))).split, max_length=4)
    write(tmp_path / "toy" / "mine.txt", "x")
    with pytest.raises(
        StoreError, match=r"toy holds dataset 'unknown', not 'recbole-small'; choose another name, or `--over"
    ):
        exported(small, tmp_path, "time")
    exported(small, tmp_path, "time", overwrite=True)
    assert not (tmp_path / "toy" / "mine.txt").exists()
    write_layers(tmp_path / "l.h5", "recbole-small", item_ids())
    with pytest.raises(StoreError, match=r"holds activations or pixels \(.*\); RecBole takes one vector per item"):
        exported(small, tmp_path, "time", features=[FeatureFile(tmp_path / "l.h5")])


@pytest.fixture
def broken(small: Path, tmp_path: Path) -> Path:
    write_vectors(tmp_path / "v.h5", "recbole-small", item_ids())
    return exported(small, tmp_path / "out", "time", features=[FeatureFile(tmp_path / "v.h5")])[1]


def change(name: str, old: str, new: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return run


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (change("toy.train.inter", "user_id:token", "user_id"), "column 'user_id' is not of the form name:type"),
        (change("toy.train.inter", "item_id:token", "item:token"), "toy.train.inter has no column item_id:token"),
        (change("toy.train.inter", "\t0\n", "\n"), "toy.train.inter: line 2 has 2 cells for 3 columns"),
        (change("toy.train.inter", "u00", "NA"), "id 'NA' is a missing value or several words to RecBole"),
        (change("toy.test.inter", "u00", "u99"), "1 users of validation or test have no training row, first 'u99'"),
        (change("toy.valid.inter", "u00", '"u00'), "a cell of line 2 begins with a quote"),
        (change("toy.item", "\n001\t", "\nx\t"), "item '001' is not in the .item file"),
        (change("toy.itememb", "\n001\t", "\n000\t"), "toy.itememb: an id stands twice, or is not in the .item file"),
        (change("toy.itememb", "\n001\t", "\n001\tnan "), "toy.itememb: vectors are 8 to 9 wide"),
        (change("toy.itememb", "\n001\t", "\n001\tnan "), "toy.itememb holds NaN or infinity"),
        (
            change("toy.itememb", "item_emb:float_seq", "item_emb:token_seq"),
            "toy.itememb has columns iid:token, item_emb:t",
        ),
        (change("toy-sequential.yaml", "LENGTH: 4", "LENGTH: 3"), "longer than MAX_ITEM_LIST_LENGTH, 3"),
        (change("toy.test_sequences.inter", "\t0", "\tx0"), "a history holds an item that is not in the .item file"),
        (change("toy.yaml", "load_col: {", "load_col: ["), "toy.yaml is no YAML"),
        (lambda folder: (folder / "toy.valid.inter").unlink(), "toy.valid.inter cannot be read"),
        (lambda folder: [path.unlink() for path in folder.glob("*.yaml")], "holds no settings"),
    ],
)
def test_the_check_sees_what_recbole_would_not(breaks: Callable[[Path], object], message: str, broken: Path) -> None:
    breaks(broken)
    assert any(message in problem for problem in check_recbole_folder(broken, "toy"))


def test_the_command_line(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vectors(tmp_path / "v.h5", "recbole-small", item_ids(), missing=["001"])
    words = ["export", "recbole", "--data", str(small), "--name", "toy", "--out", str(tmp_path / "out")]
    assert run_pipeline.main([*words, "--features", str(tmp_path / "v.h5"), "--set", "data.split=ratio"]) == 0
    said = capsys.readouterr().out
    assert "40 users, 30 items, train / valid / test rows" in said
    assert "split: ratio split: of each user 0.1 validates and 0.1 tests" in said
    assert "toy.itememb: v.h5; 1 items have none, zeros in RecBole" in said
    write_interactions(tmp_path / "none", [("u", "1", 1)])
    assert run_pipeline.main([*words[:3], str(tmp_path / "none"), *words[4:]]) == 2
    assert "fewer than data.min_interactions=3" in capsys.readouterr().err
