"""Folders of Hugging Face: repositories by README or by names, saved folders, and what makes one unreadable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from features.errors import ConfigError
from pipelines.data.data_config import DataConfig
from pipelines.data.detection import read_dataset
from pipelines.data.load import load_data
from tests.support.small import write, write_interactions

Rows = Sequence[tuple[str, str, int]]
TRAIN: Rows = [(f"u{n % 3}", f"B{n % 5:03}", n) for n in range(15)]
VALID: Rows = [(f"u{n}", "B001", 20 + n) for n in range(3)]
TEST: Rows = [(f"u{n}", "B007", 30 + n) for n in range(3)]


def table(rows: Rows) -> pl.DataFrame:
    columns = {"user_id": pl.String, "parent_asin": pl.String, "timestamp": pl.Int64}
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(pl.lit(5.0).alias("rating"))


def parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table(rows).write_parquet(path)


def shards(folder: Path, split: str, rows: Rows, count: int) -> None:
    size = -(-len(rows) // count)
    for n in range(count):
        parquet(folder / f"{split}-{n:05}-of-{count:05}.parquet", rows[n * size : (n + 1) * size])


def readme(folder: Path, configs: str) -> None:
    write(folder / "README.md", f"---\nlicense: mit\nconfigs:\n{configs}---\n# A dataset\n---\nmore\n")


def saved(folder: Path, rows: Rows) -> None:
    folder.mkdir(parents=True)
    table(rows[:1]).write_ipc_stream(folder / "data-00000-of-00002.arrow")
    table(rows[1:]).write_ipc_stream(folder / "data-00001-of-00002.arrow")
    files = [{"filename": f"data-0000{n}-of-00002.arrow"} for n in range(2)]
    write(folder / "state.json", json.dumps({"_data_files": files, "_split": None}))
    write(folder / "dataset_info.json", "{}")


def by_shards(folder: Path) -> None:
    shards(folder / "data", "train", TRAIN, 3)
    shards(folder / "data", "validation", VALID, 1)
    shards(folder / "data", "test", TEST, 1)


def by_folders(folder: Path) -> None:
    for split, rows in (("train", TRAIN), ("val", VALID), ("test", TEST)):
        parquet(folder / split / "0000.parquet", rows)


def by_csv(folder: Path) -> None:
    for split, rows in (("Train", TRAIN), ("dev", VALID), ("test", TEST)):
        write(folder / f"{split}.csv", table(rows).write_csv())


def by_readme(folder: Path) -> None:
    readme(
        folder,
        "- config_name: default\n  data_files:\n  - split: train\n    path: [a/one-*, a/two.csv]\n"
        "  - split: validation\n    path: b/held.parquet\n  - split: test\n    path: c\n",
    )
    parquet(folder / "a" / "one-1.parquet", TRAIN[:9])
    write(folder / "a" / "two.csv", table(TRAIN[9:]).write_csv())
    parquet(folder / "b" / "held.parquet", VALID)
    parquet(folder / "c" / "x.parquet", TEST)


def by_saving(folder: Path) -> None:
    write(folder / "dataset_dict.json", json.dumps({"splits": ["train", "validation", "test"]}))
    for split, rows in (("train", TRAIN), ("validation", VALID), ("test", TEST)):
        saved(folder / split, rows)


@pytest.mark.parametrize("make", [by_shards, by_folders, by_csv, by_readme, by_saving])
def test_files_per_split_are_a_given_split(make, tmp_path: Path) -> None:
    make(tmp_path)
    found = load_data(DataConfig(str(tmp_path)))
    assert found.dataset.layout.startswith("Hugging Face folder: ")
    assert found.dataset.layout.endswith(", with their split (user = user_id, item = parent_asin)")
    split = found.split
    assert (split.protocol, split.sizes()["interactions"], len(split.users)) == ("given", 21, 3)
    assert split.train_edges.shape == (2, 15)
    assert {split.items.ids[item] for item in split.valid.targets} == {"B001"}
    assert {split.items.ids[item] for item in split.test.targets} == {"B007"}
    assert split.test.seen_offsets.tolist() == [0, 6, 12, 18]  # validation is history at test
    other = load_data(DataConfig(str(tmp_path), split="time", min_interactions=1)).split
    assert other.protocol == "time"


@pytest.mark.parametrize(
    "make", [lambda folder: shards(folder, "train", TRAIN, 2), lambda folder: saved(folder / "x", TRAIN)]
)
def test_one_split_is_all_interactions(make, tmp_path: Path) -> None:
    make(tmp_path)
    folder = tmp_path / "x" if (tmp_path / "x").is_dir() else tmp_path
    found = load_data(DataConfig(str(folder)))
    assert (found.split.protocol, len(found.dataset.interactions)) == ("leave-one-out", 15)


def test_a_split_of_any_name_is_all_interactions(tmp_path: Path) -> None:
    readme(tmp_path, "- config_name: all\n  data_files:\n  - split: full\n    path: reviews.parquet\n")
    parquet(tmp_path / "reviews.parquet", TRAIN)
    assert len(read_dataset(tmp_path).interactions) == 15
    readme(tmp_path, "- data_files:\n  - {split: full, path: reviews.parquet}\n  - {split: y2, path: more.parquet}\n")
    parquet(tmp_path / "more.parquet", TRAIN)
    with pytest.raises(ConfigError, match=r"has splits full, y2; 'full' is neither train, validation nor test"):
        read_dataset(tmp_path)


def test_titles_come_from_a_config_or_a_table_of_items(tmp_path: Path) -> None:
    configs = "- config_name: reviews\n  data_files: reviews/*.parquet\n- config_name: meta\n  data_files: meta.jsonl\n"
    readme(tmp_path, configs)
    shards(tmp_path / "reviews", "part", TRAIN, 2)
    write(
        tmp_path / "meta.jsonl", '{"parent_asin": "B000", "title": "a lamp"}\n{"parent_asin": "B009", "title": null}\n'
    )
    found = read_dataset(tmp_path)
    assert found.titles == {"B000": "a lamp", "B009": ""}
    assert "config 'reviews': train = part-00000-of-00002.parquet and 1 more; titles of config 'meta'" in found.layout
    write(tmp_path / "items.csv", "item,title,tags\nB000,a shade,x|y\n")
    assert (read_dataset(tmp_path).titles, read_dataset(tmp_path).tags) == ({"B000": "a shade"}, {"B000": ("x", "y")})


def test_two_readings_are_named(tmp_path: Path) -> None:
    shards(tmp_path / "data", "train", TRAIN, 2)
    write_interactions(tmp_path, [("u", "i", 1)])
    with pytest.raises(
        ConfigError, match=r"as Hugging Face \(train = train-0+-of-00002\.parquet and 1 more\) or plain \(int"
    ):
        read_dataset(tmp_path)
    (tmp_path / "interactions.tsv").unlink()
    readme(
        tmp_path, "- {config_name: a, data_files: data/train-00000*}\n- {config_name: b, data_files: data/train-*}\n"
    )
    with pytest.raises(ConfigError, match=r"can be read as config 'a': train = .* or as config 'b': .*; leave one"):
        read_dataset(tmp_path)


def test_a_repository_that_is_a_plain_folder_is_one(tmp_path: Path) -> None:
    parquet(tmp_path / "interactions.parquet", TRAIN)
    readme(tmp_path, "- config_name: default\n  data_files: interactions.parquet\n")
    assert read_dataset(tmp_path).layout.startswith("plain folder: interactions.parquet")


def test_a_table_called_test_alone_is_no_dataset(tmp_path: Path) -> None:
    parquet(tmp_path / "test.parquet", TEST)
    with pytest.raises(ConfigError, match=r"is not a dataset folder: .* nor Hugging Face's 'train-\*\.parquet', nor"):
        read_dataset(tmp_path)


def test_without_a_validation_part_the_message_says_what_to_do(tmp_path: Path) -> None:
    shards(tmp_path, "train", TRAIN, 1)
    shards(tmp_path, "test", TEST, 1)
    with pytest.raises(
        ConfigError, match=r"validation part of .* is empty \(split by files, 15 .*set data\.split=leave-one"
    ):
        load_data(DataConfig(str(tmp_path)))
    assert load_data(DataConfig(str(tmp_path), split="leave-one-out")).split.sizes()["interactions"] == 18


def test_damage_is_named_in_one_line(tmp_path: Path) -> None:
    shards(tmp_path, "train", TRAIN, 3)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(ConfigError, match=r"train-00001-of-00003\.parquet is missing, one of 3 shards; copy it, too"):
        read_dataset(tmp_path)
    write(
        tmp_path / "train-00001-of-00003.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(
        ConfigError, match=r"00001-of-00003\.parquet is a pointer of Git LFS, not the data; run `git lfs"
    ):
        read_dataset(tmp_path)
    table(TRAIN).rename({"rating": "stars"}).write_parquet(tmp_path / "train-00001-of-00003.parquet")
    with pytest.raises(ConfigError, match=r"and 2 others differ in their columns"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("pattern", ["../x.parquet", "/etc/*", "hf://datasets/a/b.parquet"])
def test_nothing_outside_the_folder_is_read(pattern: str, tmp_path: Path) -> None:
    readme(tmp_path, f"- config_name: default\n  data_files: {pattern}\n")
    with pytest.raises(ConfigError, match=r"names '.*', which is not in the folder"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    "front", ["---\nconfigs: [\n---\n", "---\nconfigs: 3\n---\n", "no front matter\n---\n---\n", "---\n- a\n---\n"]
)
def test_a_readme_without_configs_names_nothing(front: str, tmp_path: Path) -> None:
    write(tmp_path / "README.md", front)
    parquet(tmp_path / "train.parquet", TRAIN)
    assert len(read_dataset(tmp_path).interactions) == 15


def test_a_damaged_saved_folder(tmp_path: Path) -> None:
    saved(tmp_path / "x", TRAIN)
    write(tmp_path / "x" / "data-00001-of-00002.arrow", "nothing")
    with pytest.raises(ConfigError, match=r"cannot read .*00001-of-00002\.arrow.*save the dataset again"):
        read_dataset(tmp_path / "x")
    write(tmp_path / "x" / "state.json", "{")
    with pytest.raises(ConfigError, match=r"cannot read .*state\.json"):
        read_dataset(tmp_path / "x")
