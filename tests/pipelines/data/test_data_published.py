"""Folders as they are distributed: MicroLens and IISAN's Amazon tables, with the oddities such files have."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from features.errors import ConfigError
from pipelines.data.dataset import Dataset
from pipelines.data.detection import read_dataset
from tests.support.small import write


def sequences(dataset: Dataset) -> dict[str, list[str]]:
    table = dataset.interactions.group_by("user", maintain_order=True).agg("item")
    return dict(table.iter_rows())


def gz(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


# MicroLens.


def test_microlens_sequences(tmp_path: Path) -> None:
    write(tmp_path / "MicroLens-9_pairs.tsv", "2\t00017 3 00017\n1\t5 4 \n")
    dataset = read_dataset(tmp_path)
    assert sequences(dataset) == {"1": ["5", "4"], "2": ["00017", "3", "00017"]}
    assert dataset.name == "MicroLens-9"
    assert dataset.layout == "MicroLens folder: MicroLens-9_pairs.tsv, titles none"
    assert dataset.interactions["timestamp"].to_list() == [0, 1, 0, 1, 2]


def test_microlens_interactions_with_media(tmp_path: Path) -> None:
    write(tmp_path / "M_pairs.csv", "user,item,timestamp\n1,8,1583378629552\n1,7,1583378590331\n")
    (tmp_path / "M_videos").mkdir()
    (tmp_path / "M_covers").mkdir()
    dataset = read_dataset(tmp_path)
    assert sequences(dataset) == {"1": ["7", "8"]}
    assert (dataset.videos, dataset.covers) == (tmp_path / "M_videos", tmp_path / "M_covers")


def test_of_two_microlens_files_the_tsv_is_read(tmp_path: Path) -> None:
    write(tmp_path / "M_pairs.csv", "user,item,timestamp\n1,8,1\n1,7,2\n")
    write(tmp_path / "M_pairs.tsv", "1\t7 8\n")
    assert sequences(read_dataset(tmp_path)) == {"1": ["7", "8"]}


@pytest.mark.parametrize("header", ["", "item,title\n", "\ufeffitem,title\n"])
def test_microlens_titles_with_stray_quotes_and_commas(tmp_path: Path, header: str) -> None:
    lines = ['1,He said "no", twice', '2,"all, quoted ""so"""', '3,"', "4, spaced ", "5,one\u2028line, not two", "6,"]
    write(tmp_path / "M_pairs.tsv", "1\t1 2 3\n")
    write(tmp_path / "M_titles.csv", header + "\n".join(lines) + "\n")
    assert read_dataset(tmp_path).titles == {
        "1": 'He said "no", twice',
        "2": 'all, quoted "so"',
        "3": '"',
        "4": "spaced",
        "5": "one\u2028line, not two",
        "6": "",
    }


def test_microlens_english_titles_come_first(tmp_path: Path) -> None:
    write(tmp_path / "M_pairs.tsv", "1\t1 2 3\n")
    write(tmp_path / "M_titles.csv", "1,other\n")
    write(tmp_path / "M_title_en.csv", "1,english\n")
    dataset = read_dataset(tmp_path)
    assert dataset.titles == {"1": "english"}
    assert dataset.layout == "MicroLens folder: M_pairs.tsv, titles M_title_en.csv"


def test_microlens_title_named_twice(tmp_path: Path) -> None:
    write(tmp_path / "M_pairs.tsv", "1\t1 2 3\n")
    write(tmp_path / "M_titles.csv", "item,title\n1,a\n2,b\n1,c\n")
    with pytest.raises(ConfigError, match=r"M_titles\.csv names item '1' twice \(again in line 4\)"):
        read_dataset(tmp_path)


def test_microlens_titles_that_are_no_text(tmp_path: Path) -> None:
    write(tmp_path / "M_pairs.tsv", "1\t1 2 3\n")
    (tmp_path / "M_titles.csv").write_bytes(b"1,caf\xe9\n")
    with pytest.raises(ConfigError, match=r"M_titles\.csv is not UTF-8 text .*; save it as UTF-8"):
        read_dataset(tmp_path)


def test_two_microlens_datasets_in_one_folder(tmp_path: Path) -> None:
    for name in ("A", "B"):
        write(tmp_path / f"{name}_pairs.tsv", "1\t1 2 3\n")
    with pytest.raises(ConfigError, match=r"holds A_pairs\.tsv and B_pairs\.tsv; keep one dataset per folder"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("text", ["", "\n", "1\t\n"])
def test_sequences_without_items(tmp_path: Path, text: str) -> None:
    write(tmp_path / "M_pairs.tsv", text)
    with pytest.raises(ConfigError, match=r"M_pairs\.tsv holds no interactions; one line per user"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("text", ["1\t2 3\n4 5 6\n", "1 2 3\n4 5 6\n"])
def test_a_sequence_line_without_a_tab_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path / "M_pairs.tsv", text)
    line = 2 if "\t" in text else 1
    with pytest.raises(ConfigError, match=rf"M_pairs\.tsv has no tab in line {line}; each line is: user TAB items"):
        read_dataset(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_user(tmp_path: Path) -> None:
    write(tmp_path / "M_pairs.tsv", "\ufeff1\t2 3 4\n")
    assert sequences(read_dataset(tmp_path)) == {"1": ["2", "3", "4"]}


# IISAN.


def test_iisan_tables_with_entities_and_quotes(tmp_path: Path) -> None:
    gz(tmp_path / "am_Tools_users.tsv.gz", "AX\tB1 B2 B1\nAB\tB2\n")
    gz(tmp_path / "Tools_items.tsv.gz", 'B1\t3/8" Bolt &amp; Nut\nB2\t"quoted" &quot;x&quot;\n')
    (tmp_path / "videos").mkdir()
    dataset = read_dataset(tmp_path)
    assert sequences(dataset) == {"AB": ["B2"], "AX": ["B1", "B2", "B1"]}
    assert dataset.titles == {"B1": '3/8" Bolt & Nut', "B2": '"quoted" "x"'}
    assert dataset.name == "Tools"
    assert dataset.videos == tmp_path / "videos"
    assert dataset.layout == "IISAN folder: am_Tools_users.tsv.gz, Tools_items.tsv.gz"


def test_iisan_prefers_the_unpacked_file(tmp_path: Path) -> None:
    write(tmp_path / "X_users.tsv", "a\t1 2\n")
    gz(tmp_path / "X_users.tsv.gz", "b\t1 2\n")
    write(tmp_path / "X_items.tsv", "1\tone\n2\ttwo\n")
    assert sequences(read_dataset(tmp_path)) == {"a": ["1", "2"]}


def test_two_iisan_datasets_in_one_folder(tmp_path: Path) -> None:
    for name in ("A", "B"):
        write(tmp_path / f"{name}_users.tsv", "a\t1 2\n")
        write(tmp_path / f"{name}_items.tsv", "1\tone\n")
    with pytest.raises(ConfigError, match=r"holds A_users\.tsv and B_users\.tsv; keep one dataset per folder"):
        read_dataset(tmp_path)


def test_an_iisan_title_without_tab_and_a_repeated_one(tmp_path: Path) -> None:
    write(tmp_path / "X_users.tsv", "a\t1 2\n")
    items = write(tmp_path / "X_items.tsv", "1\tone\n2 two\n")
    with pytest.raises(ConfigError, match=r"X_items\.tsv has a line without a tab: '2 two'; write each line as"):
        read_dataset(tmp_path)
    items.write_text("1\tone\n\n1\tuno\n")
    with pytest.raises(ConfigError, match=r"X_items\.tsv names item '1' twice \(again in line 3\)"):
        read_dataset(tmp_path)


def test_a_broken_gz_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "X_users.tsv", "a\t1 2\n")
    write(tmp_path / "X_items.tsv.gz", "this is no gzip")
    with pytest.raises(ConfigError, match=r"cannot read .*X_items\.tsv\.gz: .*copy it again"):
        read_dataset(tmp_path)


# Which of them.


def test_a_folder_that_reads_in_two_ways_names_both(tmp_path: Path) -> None:
    write(tmp_path / "M_pairs.tsv", "1\t1 2 3\n")
    write(tmp_path / "interactions.csv", "user,item,timestamp\n1,1,1\n")
    message = r"can be read as MicroLens \(M_pairs\.tsv\) or plain \(interactions\.csv\); move one of them elsewhere"
    with pytest.raises(ConfigError, match=message):
        read_dataset(tmp_path)


def test_amazon_scientific_as_distributed(scientific: Path) -> None:
    dataset = read_dataset(scientific)
    table = dataset.interactions
    assert dataset.name == "Industrial_and_Scientific"
    assert (len(table), table["user"].n_unique(), table["item"].n_unique()) == (85_211, 12_076, 20_825)
    assert set(dataset.titles) == set(table["item"])
    assert not any("&amp;" in title for title in dataset.titles.values())
    assert sum('"' in title for title in dataset.titles.values()) >= 95
    assert len(sequences(dataset)) == 12_076
