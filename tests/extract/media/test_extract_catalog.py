"""The catalog: ids matched with files by stem, hostile ids included."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.media.catalog import Item, build_catalog, natural_key, source, stamp
from features.errors import ConfigError


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


def test_files_are_matched_by_stem_and_counted(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "1.mp4", "2.MKV", "10.webm", "notes.txt", ".hidden.mp4", "3.mp4.part")
    covers = touch(tmp_path / "c", "1.jpg", "x y.png")
    catalog = build_catalog("d", ["2", "1", "7"], videos=videos, covers=covers, titles={"1": "one", "2": " \n"})
    assert [item.id for item in catalog.items] == ["2", "1", "7"]
    assert catalog.items[0].video == videos / "2.MKV"
    assert catalog.items[1].cover == covers / "1.jpg"
    assert catalog.items[2] == Item("7", None, None, None)
    assert catalog.count_missing() == {"video": 1, "cover": 2, "title": 2}


def test_without_ids_everything_found_in_natural_order(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "10.mp4", "9.mp4", "007.mp4")
    catalog = build_catalog("d", None, videos=videos, titles={"b2": "x", "b10": "y", "9": "z"})
    assert [item.id for item in catalog.items] == ["007", "9", "10", "b2", "b10"]


def test_hostile_ids_reach_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "secret.mp4", "secret.jpg")
    videos = touch(tmp_path / "v", "1.mp4")
    hostile = ["../secret", str(tmp_path / "secret"), "..", ".", "", "1.mp4", "v/1", "*", "~", "a\0b", "http:x", "1 "]
    catalog = build_catalog("d", hostile, videos=videos, covers=videos, titles={"*": "a star"})
    assert all(item.video is None and item.cover is None for item in catalog.items)
    assert [stamp(item, "video") for item in catalog.items] == [""] * len(hostile)


def test_two_files_for_one_id_are_both_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'5' has two files .*: 5\.mkv and 5\.mp4"):
        build_catalog("d", ["1"], videos=touch(tmp_path, "5.mp4", "5.mkv"))


def test_wrong_catalogs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"folder of covers .*nowhere"):
        build_catalog("d", None, covers=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="has no items"):
        build_catalog("d", None, videos=tmp_path)
    with pytest.raises(ConfigError, match="'a' is listed 2 times"):
        build_catalog("d", ["a", "b", "a"])


def test_stamps_follow_the_source(tmp_path: Path) -> None:
    videos = touch(tmp_path, "1.mp4")
    item = build_catalog("d", None, videos=videos, titles={"1": "one"}).items[0]
    changed = (videos / "1.mp4").stat().st_mtime_ns
    assert stamp(item, "video") == f"size:5:{changed}"
    assert stamp(item, "cover") == ""
    assert stamp(item, "title").startswith("blake2b:")
    assert len(stamp(item, "title")) == len("blake2b:") + 32
    assert stamp(item, "title") != stamp(Item("1", None, None, "One"), "title")
    assert stamp(Item("1", None, None, "\ud800"), "title")  # a broken title still has a mark
    assert source(Item("1", None, None, "\t "), "title") is None
    (videos / "1.mp4").unlink()
    assert stamp(item, "video") == ""


@given(st.lists(st.text(max_size=8), unique=True))
def test_natural_order_is_total(names: list[str]) -> None:
    expected = sorted(names, key=natural_key)
    shuffled = random.Random(1).sample(names, len(names))
    assert sorted(shuffled, key=natural_key) == expected
