"""RecBole's folders: typed columns, other separators, and files per part as a given split."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.errors import ConfigError
from pipelines.data.data_config import DataConfig
from pipelines.data.detection import read_dataset
from pipelines.data.load import load_data
from tests.support.small import write

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
PARTS = {
    "train": ["a\t007\t5\t1.0", "a\t8\t5\t2.0", "b\t8\t1\t1.5"],
    "valid": ["a\t9\t3\t3.0"],
    "test": ["a\t8\t3\t4.0", "b\t9\t3\t4.5", "c\t9\t3\t1.0"],
}


def parts(folder: Path, names: dict[str, str] | None = None) -> Path:
    for part, rows in PARTS.items():
        write(folder / f"toy.{(names or {}).get(part, part)}.inter", HEADER + "\n".join(rows) + "\n")
    return folder


def test_files_per_part_are_a_given_split(tmp_path: Path) -> None:
    parts(tmp_path)
    write(
        tmp_path / "toy.item", "item_id:token\titem_title:token_seq\tgenre:token_seq\n007\tA Bond\taction fun\n8\t\t\n"
    )
    write(tmp_path / "toy.train_sequences.inter", "user_id:token\titem_id_list:token_seq\titem_id:token\na\t007\t8\n")
    found = load_data(DataConfig(str(tmp_path)))
    assert found.dataset.layout == (
        "RecBole folder: toy.test.inter, toy.train.inter, toy.valid.inter, toy.item with their split (user = "
        "user_id:token, item = item_id:token, time = timestamp:float)"
    )
    assert found.dataset.name == "toy"
    assert found.dataset.titles == {"007": "A Bond", "8": ""}
    split = found.split
    ids = split.items.ids
    assert [(split.users.ids[u], ids[i]) for u, i in split.train_edges.T] == [("a", "007"), ("a", "8"), ("b", "8")]
    assert [(split.users.ids[u], ids[i]) for u, i in split.test.pairs.T] == [("a", "8"), ("b", "9")]
    assert [ids[item] for item in split.test.seen] == ["007", "8", "9", "8"]  # validation is history at test
    assert split.told == (
        "split by files, 3 training, 1 validation and 2 test rows; 1 users without training rows are left out with 1 "
        "rows"
    )


def test_parts_by_other_names(tmp_path: Path) -> None:
    parts(tmp_path, {"valid": "dev", "train": "training"})
    assert load_data(DataConfig(str(tmp_path))).split.sizes()["interactions"] == 6


def test_commas_separate_too(tmp_path: Path) -> None:
    text = (HEADER + "\n".join(PARTS["train"]) + "\n").replace("\t", ",")
    write(tmp_path / "toy.inter", text)
    assert read_dataset(tmp_path).interactions["item"].to_list() == ["007", "8", "8"]


def test_two_readings_are_named(tmp_path: Path) -> None:
    parts(tmp_path)
    write(tmp_path / "toy.inter", HEADER + "a\tb\t1\t1\n")
    with pytest.raises(
        ConfigError,
        match=r"can be read as toy\.inter \(no split\) or as toy\.test\.inter and .* \(a given split\); move",
    ):
        read_dataset(tmp_path)
    (tmp_path / "toy.inter").rename(tmp_path / "other.inter")
    with pytest.raises(ConfigError, match=r"holds other\.inter and toy\.test\.inter; keep one dataset per folder"):
        read_dataset(tmp_path)


def test_parts_that_are_no_split_are_refused(tmp_path: Path) -> None:
    parts(tmp_path)
    (tmp_path / "toy.train.inter").rename(tmp_path / "toy.val.inter")
    with pytest.raises(
        ConfigError, match=r"holds toy\.test\.inter, toy\.val\.inter, toy\.valid\.inter; a given split has"
    ):
        read_dataset(tmp_path)
    (tmp_path / "toy.val.inter").rename(tmp_path / "toy.train.inter")
    write(tmp_path / "toy.test.inter", "user_id:token\titem_id:token\ttimestamp:float\na\t8\t1\n")
    with pytest.raises(ConfigError, match=r"toy\.test\.inter and .* differ in their columns; make them agree"):
        read_dataset(tmp_path)


def test_rows_with_histories_are_no_interactions(tmp_path: Path) -> None:
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp:float\n"
    write(tmp_path / "toy.inter", header + "a\t1 2\t3\t4\n")
    with pytest.raises(
        ConfigError, match=r"holds a history in every row \(item_id_list:token_seq\).* and not interactions"
    ):
        read_dataset(tmp_path)
