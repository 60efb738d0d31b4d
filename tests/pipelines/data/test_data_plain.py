"""Plain folders: what they hold is read as it is; what cannot be meant is refused with a line that helps."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from features.errors import ConfigError
from pipelines.data.dataset import Dataset
from pipelines.data.detection import read_dataset
from pipelines.feature_files.extraction import dataset_catalog
from tests.support.small import write, write_interactions

HEADER = "user,item,timestamp\n"


def rows(dataset: Dataset) -> list[tuple[str, str]]:
    return list(dataset.interactions.select("user", "item").iter_rows())


@pytest.mark.parametrize("suffix", ["tsv", "csv", "parquet"])
def test_every_table_format_reads_alike(tmp_path: Path, suffix: str) -> None:
    table = pl.DataFrame({"user": ["b", "a", "a"], "item": ["00017", "2", "00017"], "timestamp": [5, 9, 7]})
    path = tmp_path / f"interactions.{suffix}"
    if suffix == "parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="\t" if suffix == "tsv" else ",")
    dataset = read_dataset(tmp_path)
    assert rows(dataset) == [("a", "00017"), ("a", "2"), ("b", "00017")]
    assert dataset.interactions["timestamp"].to_list() == [7, 9, 5]
    assert dataset.layout == f"plain folder: interactions.{suffix}"
    assert (dataset.name, dataset.titles, dataset.videos, dataset.covers) == (tmp_path.name, {}, None, None)


def test_number_ids_of_a_parquet_table_become_text(tmp_path: Path) -> None:
    pl.DataFrame({"user": [1], "item": [17], "timestamp": [1.0]}).write_parquet(tmp_path / "interactions.parquet")
    assert rows(read_dataset(tmp_path)) == [("1", "17")]


def test_dates_of_a_parquet_table_order_interactions(tmp_path: Path) -> None:
    days = pl.Series([datetime(2024, 5, day, tzinfo=UTC) for day in (3, 1, 2)])
    table = pl.DataFrame({"user": ["u"] * 3, "item": ["3", "1", "2"], "timestamp": days})
    table.write_parquet(tmp_path / "interactions.parquet")
    assert rows(read_dataset(tmp_path)) == [("u", "1"), ("u", "2"), ("u", "3")]


def test_equal_timestamps_keep_the_order_of_the_file(tmp_path: Path) -> None:
    items = [f"{number * 7 % 50}" for number in range(50)]
    write_interactions(tmp_path, [("u", item, 3) for item in items] + [("u", "first", 1)])
    assert [item for _, item in rows(read_dataset(tmp_path))] == ["first", *items]


def test_parts_of_a_second_and_nanoseconds_order_interactions(tmp_path: Path) -> None:
    big = 1_700_000_000_000_000_000  # neighbours at this size are one float64
    times = [("s", "late", 1.75), ("s", "early", 1.25), ("n", "late", big + 1), ("n", "early", big)]
    write_interactions(tmp_path, times)
    assert rows(read_dataset(tmp_path)) == [("n", "early"), ("n", "late"), ("s", "early"), ("s", "late")]


def test_a_repeated_interaction_stays(tmp_path: Path) -> None:
    write_interactions(tmp_path, [("u", "a", 1), ("u", "a", 1), ("u", "a", 2)])
    assert rows(read_dataset(tmp_path)) == [("u", "a")] * 3


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"u,i,1\n")
    (tmp_path / "items.csv").write_bytes(b"\xef\xbb\xbfitem,title\ni,One\n")
    dataset = read_dataset(tmp_path)
    assert rows(dataset) == [("u", "i")]
    assert dataset.titles == {"i": "One"}


def test_titles_with_quotes_and_empty_titles(tmp_path: Path) -> None:
    write(tmp_path / "items.csv", 'item,title,tags\n007,"a ""b"", c",x\n8,,y\n')
    assert read_dataset(tmp_path).titles == {"007": 'a "b", c', "8": ""}


def test_a_folder_of_media_alone(tmp_path: Path) -> None:
    write(tmp_path / "covers" / "9.jpg", "x")
    write(tmp_path / "videos" / "00017.mp4", "x")
    dataset = read_dataset(tmp_path)
    assert dataset.interactions.is_empty()
    assert dataset.interactions.schema == {"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
    assert dataset.layout == "plain folder: videos/, covers/"
    assert [item.id for item in dataset_catalog(dataset).items] == ["9", "00017"]


def test_two_media_files_of_one_item_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "videos" / "5.mp4", "x")
    write(tmp_path / "videos" / "5.webm", "x")
    with pytest.raises(ConfigError, match=r"item '5' has two files in .*videos: 5\.mp4 and 5\.webm; keep one"):
        dataset_catalog(read_dataset(tmp_path))


def test_missing_folder_and_no_dataset_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere does not exist; check --data"):
        read_dataset(tmp_path / "nowhere")
    write(tmp_path / "interaction.tsv", "x")
    with pytest.raises(ConfigError, match=r"is not a dataset folder: .*'interactions' as \.tsv, .*docs/datasets\.md"):
        read_dataset(tmp_path)


def test_two_tables_for_one_part_are_refused(tmp_path: Path) -> None:
    for suffix in ("csv", "tsv"):
        write(tmp_path / f"interactions.{suffix}", HEADER)
    with pytest.raises(ConfigError, match=r"interactions\.tsv and interactions\.csv; keep one"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user,itm,timestamp", r"interactions\.csv has no column 'item'; did you mean 'itm'\?.*--columns item=NAME"),
        ("user\titem\ttimestamp", r"has 1 rows with an empty cell .* in line 2 \(1,2,3, empty, empty\)"),
        ("user,item,timstamp", r"has no column 'timestamp'; did you mean 'timstamp'\?.*--columns time=NAME.*time=none"),
    ],
)
def test_a_missing_column_offers_the_nearest(tmp_path: Path, header: str, message: str) -> None:
    write(tmp_path / "interactions.csv", f"{header}\n1,2,3\n")
    with pytest.raises(ConfigError, match=message):
        read_dataset(tmp_path)


@pytest.mark.parametrize("text", ["", HEADER])
def test_an_empty_table_of_interactions_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "interactions.csv", text)
    with pytest.raises(ConfigError, match=r"interactions\.csv holds no interactions; one row per interaction"):
        read_dataset(tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize("cell", ["2020-01-31", "soon", "", "nan", "inf", "1e40"])
def test_a_bad_timestamp_names_its_line(tmp_path: Path, cell: str) -> None:
    write(tmp_path / "interactions.csv", f"{HEADER}a,1,5\nb,2,{cell}\nc,3,{cell}\n")
    with pytest.raises(ConfigError, match=r"has 2 rows .* or a time .* first in line 3 \(b, 2, .*\); repair"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("line", [",2,5", "b,,5"])
def test_an_empty_id_names_its_line(tmp_path: Path, line: str) -> None:
    write(tmp_path / "interactions.csv", f"{HEADER}a,1,5\n{line}\n")
    with pytest.raises(ConfigError, match=r"has 1 rows with an empty cell .* first in line 3"):
        read_dataset(tmp_path)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_bytes(b"user,item,timestamp\n\xff\xfe,\x00,1\n")
    with pytest.raises(ConfigError, match=r"interactions\.csv is not UTF-8 text \(.* at byte 20\)"):
        read_dataset(tmp_path)


def test_a_damaged_parquet_table_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "interactions.parquet", "no parquet")
    with pytest.raises(ConfigError, match=r"cannot read table .*interactions\.parquet: "):
        read_dataset(tmp_path)


def test_an_item_with_two_titles_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "items.csv", "item,title\n1,a\n2,b\n1,c\n")
    with pytest.raises(ConfigError, match=r"items\.csv names item '1' twice \(again in line 4\); keep one title"):
        read_dataset(tmp_path)


def test_an_item_without_id_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "items.csv", "item,title\n1,a\n,b\n")
    with pytest.raises(ConfigError, match=r"items\.csv has a row without an item id \(line 3\)"):
        read_dataset(tmp_path)
