"""Folders of media: every file is an item's, or counted and named; odd names cost a row and stop nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

import run_pipeline
from extract.media.catalog import build_catalog, media_ids, source, why_missing
from extract.media.folder_listing import COVER_SUFFIXES, VIDEO_SUFFIXES, Ignored, list_folder
from features.errors import ConfigError
from features.paths import shown
from features.store import FeatureFile, State
from pipelines.data.detection import read_dataset
from pipelines.feature_files.extraction import dataset_catalog
from tests.support.media import pictures, write_clip, write_cover
from tests.support.small import write

ROOT = Path(__file__).resolve().parents[3]
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"  # NFC as tables have it, NFD as macOS writes names
UNDECODABLE = os.fsdecode(b"caf\xe9")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_what_is_no_items_is_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "a.txt", "b.txt", "2.HEIC", "README", ".hidden.mp4", ".DS_Store", "@eaDir/1.mp4/x.jpg")
    (tmp_path / "3.mp4").mkdir()
    os.mkfifo(tmp_path / "4.mp4")  # to read it would never end
    listing = list_folder(tmp_path, VIDEO_SUFFIXES, "videos")
    assert list(listing.found) == ["1"]
    assert listing.ignored.count == 5
    assert listing.ignored.kinds == {".txt": 2, ".heic": 1, "not a regular file": 1, "without a suffix": 1}
    assert str(listing.ignored) == (
        "5 files ignored: 2 .txt, 1 .heic (convert to JPEG), 1 not a regular file, 1 without a suffix, first 2.HEIC"
    )


def test_many_kinds_are_summed_up() -> None:
    kinds = {".a": 9, ".b": 8, ".c": 7, ".d": 6, ".e": 2, ".f": 1}
    assert str(Ignored(33, kinds, "x.a")) == "33 files ignored: 9 .a, 8 .b, 7 .c, 6 .d, 3 others, first x.a"
    assert str(Ignored(1, {".a": 1}, "x.a")) == "1 file ignored: 1 .a, first x.a"
    assert str(Ignored()) == ""


def test_one_folder_for_both_is_not_told_of_the_other_kind(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4", "1.jpg", "notes.txt")
    catalog = build_catalog("d", None, videos=tmp_path, covers=tmp_path)
    assert [str(ignored) for ignored in catalog.ignored.values()] == ["1 file ignored: 1 .txt, first notes.txt"] * 2


def test_every_suffix_is_taken_in_any_case(tmp_path: Path) -> None:
    touch(tmp_path / "v", *(f"{suffix[1:]}{suffix.upper()}" for suffix in VIDEO_SUFFIXES))
    touch(tmp_path / "c", *(f"{suffix[1:]}{suffix}" for suffix in COVER_SUFFIXES))
    assert media_ids(videos=tmp_path / "v", covers=None) == {suffix[1:] for suffix in VIDEO_SUFFIXES}
    assert media_ids(videos=None, covers=tmp_path / "c") == {suffix[1:] for suffix in COVER_SUFFIXES}


def test_folders_inside_are_looked_through(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "a/b/2.mp4", "3.mp4", "a/notes.txt")
    (tmp_path / "a" / "round").symlink_to(tmp_path)  # a folder in itself
    (tmp_path / "z").symlink_to(tmp_path / "a")  # the same folder by another name
    catalog = build_catalog("d", None, videos=tmp_path)
    found = {item.id: str(item.video.relative_to(tmp_path)) for item in catalog.items if isinstance(item.video, Path)}
    assert found == {"1": "a/1.mp4", "2": "a/b/2.mp4", "3": "3.mp4"}
    touch(tmp_path, "b/3.mkv")
    with pytest.raises(ConfigError, match=r"item '3' has two files in .*: 3\.mp4 and b/3\.mkv; keep one"):
        build_catalog("d", None, videos=tmp_path)


def test_a_link_to_nothing_is_a_missing_row_that_says_so(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "1.mp4")
    (videos / "2.mp4").symlink_to("1.mp4")
    (videos / "3.mp4").symlink_to("nowhere.mp4")
    items = build_catalog("d", None, videos=videos).items
    assert [item.id for item in items] == ["1", "2", "3"]
    assert [source(item, "video") is None for item in items] == [False, False, True]
    assert why_missing(items[2], "video") == "3.mp4 is a broken link (to nowhere.mp4)"
    assert why_missing(items[2], "cover") == "no cover"


@pytest.mark.parametrize(("named", "asked"), [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_names_in_another_unicode_form_are_found(tmp_path: Path, named: str, asked: str) -> None:
    touch(tmp_path, f"{named}.mp4")
    items = build_catalog("d", [asked, "other"], videos=tmp_path).items
    assert items[0].video == tmp_path / f"{named}.mp4"
    assert items[1].video is None
    assert media_ids(videos=tmp_path, covers=None, known={asked}) == {asked}
    assert media_ids(videos=tmp_path, covers=None) == {COMPOSED}


def test_forms_that_cannot_be_told_apart_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "two", "\u1e69.mp4", "s\u0323\u0307.mp4")
    other = "s\u0307\u0323"  # a third way to write the letter
    with pytest.raises(ConfigError, match=r"videos: two names fit item .*rename one"):
        build_catalog("d", [other], videos=tmp_path / "two")
    with pytest.raises(ConfigError, match="one name fits items"):
        build_catalog("d", ["\u1e69", other], videos=touch(tmp_path / "one", "s\u0323\u0307.mp4"))
    exact = build_catalog(
        "d", [COMPOSED, DECOMPOSED], videos=touch(tmp_path / "d", f"{COMPOSED}.mp4", f"{DECOMPOSED}.mkv")
    )
    assert [item.video.name for item in exact.items if isinstance(item.video, Path)] == [
        f"{COMPOSED}.mp4",
        f"{DECOMPOSED}.mkv",
    ]


def test_an_item_is_one_whatever_forms_its_names_have(tmp_path: Path) -> None:
    write(tmp_path / "items.csv", f"item,title\n{COMPOSED},a title\n")
    touch(tmp_path / "videos", f"{DECOMPOSED}.mp4")
    touch(tmp_path / "covers", f"{DECOMPOSED}.jpg", "x\u0301.jpg")
    items = dataset_catalog(read_dataset(tmp_path)).items
    assert [item.id for item in items] == [COMPOSED, unicodedata.normalize("NFC", "x\u0301")]
    assert all(source(items[0], kind) for kind in ("video", "cover", "title"))
    assert source(items[1], "cover")
    (tmp_path / "items.csv").unlink()
    united = build_catalog("d", None, videos=tmp_path / "videos", covers=tmp_path / "covers")
    assert united.items[0].id == COMPOSED
    assert len(united.items) == 2


def test_shown_leaves_text_alone_and_makes_bytes_visible() -> None:
    assert shown("猫 é 😀") == "猫 é 😀"
    assert shown(UNDECODABLE) == r"caf\xe9"
    assert shown("\ud800x") == r"\ud800x"


@pytest.fixture
def odd_dataset(tmp_path: Path) -> Path:
    """A dataset whose folder, and some of whose files, have names that are not UTF-8."""
    folder = tmp_path / os.fsdecode(b"d\xe9t")
    (folder / "covers" / os.fsdecode(b"p\xe9rt")).mkdir(parents=True)
    for number in range(3):
        write_cover(folder / "covers" / f"{number}.png", kind=number)
    write_cover(folder / "covers" / os.fsdecode(b"p\xe9rt") / "3.png", kind=3)
    (folder / "covers" / f"{UNDECODABLE}.png").write_bytes((folder / "covers" / "0.png").read_bytes())
    (folder / "covers" / "broken.png").symlink_to("nowhere")
    touch(folder / "covers", f"x.t{UNDECODABLE}", "thumbs.db")
    return folder


def test_odd_names_cost_their_rows_and_nothing_else(
    odd_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["extract", "--data", str(odd_dataset), "--encoders", "resnet-tiny", "--weights", "random", "--out"]
    rest = ["--max-failed", "0.5", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["run_pipeline.py", *line])
    assert run_pipeline.main([*line, str(tmp_path / "out"), *rest]) == 0
    told = capsys.readouterr().out
    assert r"covers: 2 files ignored: 1 .db, 1 .tcaf\xe9, first thumbs.db" in told
    assert r"missing  caf\xe9: the file name caf\xe9.png is not UTF-8; rename it to the item's id" in told
    assert "missing  broken: broken.png is a broken link (to nowhere)" in told
    (written,) = (tmp_path / "out").glob("*.h5")
    file = FeatureFile(written)
    assert dict(zip(file.columns.ids, file.columns.states.tolist(), strict=True)) == {
        **dict.fromkeys(["0", "1", "2", "3"], State.DONE),
        **dict.fromkeys([r"caf\xe9", "broken"], State.MISSING),
    }
    assert run_pipeline.main([*line, str(tmp_path / "again"), *rest, "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["ignored"] == {"count": 2, "kinds": {".db": 1, r".tcaf\xe9": 1}, "first": "thumbs.db"}
    assert report["counts"] == {"done": 4, "missing": 2, "failed": 0}


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_terminals_and_systems_of_other_encodings(tmp_path: Path, locale: dict[str, str]) -> None:
    touch(tmp_path / "covers", "\u732b.txt", "\U0001f600.png")
    write_cover(tmp_path / "covers" / "\u732b.png")
    line = ["extract", "--data", str(tmp_path), "--encoders", "resnet-tiny", "--weights", "random", "--max-failed", "1"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_pipeline.py"), *line, "--out", str(tmp_path / "out"), "--device", "cpu"],
        env=os.environ | locale | {"PYTHONPATH": path},
        capture_output=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert b"covers: 1 file ignored: 1 .txt, first " in done.stdout
    (written,) = (tmp_path / "out").glob("*.h5")
    assert dict(zip(FeatureFile(written).columns.ids, FeatureFile(written).columns.states.tolist(), strict=True)) == {
        "\u732b": State.DONE,
        "\U0001f600": State.FAILED,
    }


def test_without_a_usable_file_the_error_names_what_was_ignored(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no items: .*; 1 file ignored: 1 \.heic \(convert to JPEG\), first 1"):
        build_catalog("d", None, covers=touch(tmp_path, "1.heic"))


OTHERS = {"1.ts": "mpeg2video", "2.mpg": "mpeg1video", "3.3gp": "mpeg4", "4.wmv": "wmv2", "5.vob": "mpeg2video"}


@pytest.mark.parametrize(("name", "codec"), list(OTHERS.items()))
def test_other_suffixes_are_read(tmp_path: Path, name: str, codec: str) -> None:
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / name, pictures(20), codec=codec, b_frames=0)
    line = [
        "extract",
        "--data",
        str(tmp_path),
        "--encoders",
        "videomae-tiny",
        "--weights",
        "random",
        "--max-failed",
        "0",
    ]
    assert run_pipeline.main([*line, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
