"""Item ids are data and never paths: whatever they hold, nothing outside the folders given is read or written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from extract.encoders.registry import get_encoder
from extract.jobs.extractor import extract
from extract.jobs.options import ExtractOptions
from extract.media.catalog import Catalog, Item, build_catalog
from features.convert import import_features
from features.errors import StoreError
from features.export import FORMATS, export_features
from features.merge import merge
from features.shards.job import FeatureJob, Wanted
from features.store import MAX_ID_BYTES, FeatureFile
from tests.support.stores import JOB, RECIPE, make_rows, write

PLAIN = [
    "../../x",
    "../x",
    "..",
    ".",
    "a/b",
    "~/x",
    "$HOME",
    "*",
    "-rf",
    "C:\\x",
    "x.h5",
    ".x.tmp",
    "%2e%2e%2fx",
    "a\tb",
    '"',
    "😀" * (MAX_ID_BYTES // 4),
]
LINES = ["a\nb", "../x\n../../x", "\r", "\u2028"]


@pytest.fixture
def cage(tmp_path: Path) -> Iterator[Path]:
    """A folder in which everything must stay; around it lie files that escaping ids would name."""
    inner = tmp_path / "one" / "two" / "cage"
    inner.mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "one", tmp_path / "one" / "two"):
        for name in ("x", "x.h5", "x.mp4", "x.jpg", "b.mp4"):
            (folder / name).write_text("outside")
    before = around(tmp_path, inner)
    yield inner
    assert around(tmp_path, inner) == before


def around(folder: Path, inner: Path) -> dict[Path, bytes | None]:
    """Return every path outside the cage, with what it holds."""
    paths = [path for path in folder.rglob("*") if inner not in path.parents]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def hostile(cage: Path) -> list[str]:
    return [*PLAIN, str(cage.parent / "x"), str(cage.parent / "new"), *LINES]


def vectors(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_catalog_finds_no_media_outside_its_folders(cage: Path) -> None:
    ids = [*hostile(cage), "a\0b", "\udcff", "good"]
    folders = {"videos": cage / "videos", "covers": cage / "covers"}
    for what, folder in folders.items():
        folder.mkdir()
        suffix = {"videos": ".mp4", "covers": ".jpg"}[what]
        for stem in ("good", "*", "$HOME", ".."):
            (folder / f"{stem}{suffix}").write_text("inside")
        (folder / "a").mkdir()
        (folder / "a" / f"b{suffix}").write_text("in a folder of its own")
    catalog = build_catalog("micro", ids, videos=folders["videos"], covers=folders["covers"])
    found = {item.id: (item.video, item.cover) for item in catalog.items if item.video or item.cover}
    # Only by the stem of a listed file that is not hidden: '*' is no pattern, '$HOME' no variable, 'a/b' no path.
    assert set(found) == {"good", "*", "$HOME"}
    for item, (video, cover) in found.items():
        assert (video, cover) == (folders["videos"] / f"{item}.mp4", folders["covers"] / f"{item}.jpg")


def test_extraction_writes_into_its_folder_alone(cage: Path) -> None:
    """Titles need no media, so every id gets a row; the dataset's name becomes part of the file name."""
    ids = hostile(cage)
    catalog = Catalog("../../x/../😀", tuple(Item(item, None, None, f"title {n}") for n, item in enumerate(ids)))
    options = ExtractOptions(out=cage / "out", weights="random", dtype="float32", shard_size=5)
    report = extract(catalog, get_encoder("minilm-tiny"), options)
    (written,) = names(cage / "out")
    assert written.startswith("x.minilm-tiny.")
    file = FeatureFile(report.path, dataset="../../x/../😀")
    assert file.columns.ids == tuple(ids)
    assert np.isfinite(file.read(ids)).all()


def test_shards_and_merges_are_named_by_hashes(cage: Path) -> None:
    ids = hostile(cage)
    rows = make_rows(ids, vectors(len(ids)))
    job = FeatureJob(cage / "f.h5", JOB, Wanted(ids, rows.stamps))
    job.write(rows, dtype="int8")
    assert all(name.removesuffix(".h5").removesuffix(".json").isalnum() for name in names(job.folder))
    file = job.finish()
    assert names(cage) == {"f.h5"}
    assert file.columns.ids == tuple(ids)
    parts = [write(cage / f"{n}.h5", ids[n::2], vectors(len(ids))[n::2]) for n in (0, 1)]
    merge(cage / "both.h5", {item: parts[n % 2] for n, item in enumerate(ids)}, RECIPE)
    np.testing.assert_array_equal(FeatureFile(cage / "both.h5").read(ids), vectors(len(ids)))


@pytest.mark.parametrize("form", list(FORMATS))
def test_exports_hold_hostile_ids_as_text_and_give_them_back(cage: Path, form: str) -> None:
    ids = hostile(cage) if form != "npy" else [item for item in hostile(cage) if not {"\n", "\r"} & set(item)]
    file = write(cage / "f.h5", ids, vectors(len(ids)))
    files = export_features(file, cage / "out", form=form)
    assert {path.name for path in files} == names(cage / "out")
    given = files[1] if len(files) > 1 else None
    again = import_features(files[0], cage / "in", dataset="micro", ids=given, name="again", dtype="float32")
    assert again.columns.ids == tuple(ids)
    np.testing.assert_array_equal(again.read(ids), vectors(len(ids)))
    assert names(cage) - {"f.h5", "out", "in"} == {f"out/{path.name}" for path in files} | {f"in/{again.path.name}"}


@pytest.mark.parametrize("bad", ["a\0b", "../x\0", "\udcff", "😀" * (MAX_ID_BYTES // 4) + "x"])
def test_what_no_text_can_hold_is_refused_before_anything_is_written(cage: Path, bad: str) -> None:
    with pytest.raises(StoreError, match="cannot be stored"):
        write(cage / "f.h5", [bad], vectors(1))
    with pytest.raises(StoreError, match="cannot be stored"):
        Wanted([bad], [""])
    np.save(cage / "x.npy", vectors(1))
    with pytest.raises(StoreError, match="cannot be stored"):
        import_features(cage / "x.npy", cage / "in", dataset="micro", ids=[bad], name="x")
    assert names(cage) == {"x.npy"}


@pytest.mark.parametrize("line", [item for item in LINES if "\u2028" not in item])
def test_line_ends_cannot_make_two_ids_of_one(cage: Path, line: str) -> None:
    file = write(cage / "f.h5", [line, "b"], vectors(2))
    with pytest.raises(StoreError, match="holds a line end"):
        export_features(file, cage / "out")
    assert names(cage) == {"f.h5"}
