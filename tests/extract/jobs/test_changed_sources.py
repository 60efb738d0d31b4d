"""A changed source makes its row again, a copied one does not: marks first, bytes where marks differ."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract, extract_all, prepare_all
from extract.jobs.farm import Order, work
from extract.jobs.report import ExtractReport
from extract.jobs.sharding import extract_shard, plan
from extract.media import catalog as catalog_module
from extract.media.catalog import Catalog, build_catalog
from features.merge import merge
from features.shards.job import FeatureJob, Wanted
from features.shards.marks import KnownDigests, same_source, without_time
from features.store import FeatureFile, FeatureRows
from tests.support.media import pictures, write_clip, write_cover
from tests.support.stores import JOB
from tests.support.toy_media import options

SPEC = ENCODERS["resnet-tiny"]


@pytest.fixture
def covers(tmp_path: Path) -> Path:
    folder = tmp_path / "covers"
    folder.mkdir()
    for number in range(5):
        write_cover(folder / f"{number}.bmp", kind=number)  # all of one size
    return folder


def listed(covers: Path) -> Catalog:
    return build_catalog("toy", None, covers=covers)


def run(covers: Path, out: Path, **changes: Any) -> ExtractReport:
    return extract(listed(covers), SPEC, options(out, max_failed=1, **changes))


def swap(folder: Path, first: str, second: str) -> None:
    """Let two files change places; their times move with them."""
    (folder / first).rename(folder / "x")
    (folder / second).rename(folder / first)
    (folder / "x").rename(folder / second)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose bytes are read to compare them."""
    names: list[str] = []
    real = catalog_module.file_digest

    def counting(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(catalog_module, "file_digest", counting)
    return names


def test_a_cover_replaced_by_one_of_its_size_is_made_again(tmp_path: Path, covers: Path) -> None:
    before = FeatureFile(run(covers, tmp_path / "out").path).read([*"01234"])
    size = (covers / "1.bmp").stat().st_size
    write_cover(covers / "1.bmp", kind=5)
    assert (covers / "1.bmp").stat().st_size == size
    report = run(covers, tmp_path / "out")
    assert report.new_rows == 1
    after = FeatureFile(report.path).read([*"01234"])
    assert np.array_equal(before[[0, 2, 3, 4]], after[[0, 2, 3, 4]])
    assert not np.array_equal(before[1], after[1])
    alone = run(covers, tmp_path / "alone")
    assert np.allclose(after, FeatureFile(alone.path).read([*"01234"]), atol=1e-3)


def test_files_that_change_places_are_made_again(tmp_path: Path, covers: Path) -> None:
    before = FeatureFile(run(covers, tmp_path / "out").path).read(["0", "3"])
    swap(covers, "0.bmp", "3.bmp")
    report = run(covers, tmp_path / "out")
    assert report.new_rows == 2
    assert np.allclose(FeatureFile(report.path).read(["3", "0"]), before, atol=1e-3)


def test_a_video_replaced_by_one_of_its_size_is_made_again(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "v.mp4", pictures(12))
    catalog = build_catalog("toy", None, videos=tmp_path)
    spec = ENCODERS["videomae-tiny"]
    extract(catalog, spec, options(tmp_path / "out"))
    content = path.read_bytes()
    other = write_clip(tmp_path / "other.mp4", pictures(12, kind=3)).read_bytes()
    size = max(len(content), len(other))
    path.write_bytes(content + bytes(size - len(content)))
    extract(catalog, spec, options(tmp_path / "out"))
    path.write_bytes(other + bytes(size - len(other)))
    assert extract(catalog, spec, options(tmp_path / "out")).new_rows == 1


def test_a_second_run_opens_no_file(tmp_path: Path, covers: Path, hashed: list[str]) -> None:
    run(covers, tmp_path / "out")
    assert run(covers, tmp_path / "out").unchanged
    assert hashed == []


def test_a_copied_dataset_is_looked_at_once_and_kept(tmp_path: Path, covers: Path, hashed: list[str]) -> None:
    report = run(covers, tmp_path / "out")
    sealed = FeatureFile(report.path).vectors_sha256
    shutil.copytree(covers, tmp_path / "copy", copy_function=shutil.copyfile)  # with times of its own
    shutil.copytree(tmp_path / "out", tmp_path / "out2")
    lines: list[str] = []
    for expected in (5, 5):  # the second time it is known
        (again,) = extract_all(listed(tmp_path / "copy"), [SPEC], options(tmp_path / "out2"), tell=lines.append)
        assert again.unchanged
        assert FeatureFile(again.path).vectors_sha256 == sealed
        assert len(hashed) == expected
    assert [line.split(":")[0] for line in lines] == ["5 covers have another date than when their rows were made"]
    write_cover(tmp_path / "copy" / "2.bmp", kind=5)
    assert extract(listed(tmp_path / "copy"), SPEC, options(tmp_path / "out2")).new_rows == 1
    stamps = FeatureFile(report.path.parent.with_name("out2") / report.path.name).columns.stamps
    current = [f"size:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in sorted((tmp_path / "copy").iterdir())]
    assert list(stamps) == current  # refreshed with the rows that were made


def test_two_encoders_read_the_bytes_once(tmp_path: Path, covers: Path, hashed: list[str]) -> None:
    specs = [ENCODERS["resnet-tiny"], ENCODERS["clip-tiny-image"]]
    extract_all(listed(covers), specs, options(tmp_path / "out"))
    for path in covers.iterdir():
        os.utime(path)
    again = extract_all(listed(covers), specs, options(tmp_path / "out"))
    assert [report.unchanged for report in again] == [True, True]
    assert len(hashed) == 5


def test_where_nothing_may_be_kept_it_is_looked_at_again(
    tmp_path: Path, covers: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(covers, tmp_path / "out")
    os.utime(covers / "0.bmp")
    (tmp_path / "out" / ".toy.cover.digests.json").mkdir()  # stands for a folder that takes no files
    for expected in (1, 2):
        assert run(covers, tmp_path / "out").unchanged
        assert len(hashed) == expected


def test_failed_and_missing_rows_whose_source_changed_are_tried_again(tmp_path: Path, covers: Path) -> None:
    good = (covers / "1.bmp").read_bytes()
    (covers / "1.bmp").write_bytes(bytes(len(good)))
    (covers / "2.bmp").unlink()
    catalog = build_catalog("toy", [*"01234"], covers=covers)
    first = extract(catalog, SPEC, options(tmp_path / "out", max_failed=1))
    assert first.counts == {"done": 3, "missing": 1, "failed": 1}
    (covers / "1.bmp").write_bytes(good)  # of the same size
    (covers / "2.bmp").write_bytes(good)
    catalog = build_catalog("toy", [*"01234"], covers=covers)
    report = extract(catalog, SPEC, options(tmp_path / "out", max_failed=1))
    assert report.counts == {"done": 5, "missing": 0, "failed": 0}
    assert report.new_rows == 2


def test_files_of_earlier_versions_are_understood(tmp_path: Path, covers: Path, hashed: list[str]) -> None:
    """They recorded the size alone: then the size decides."""
    report = run(covers, tmp_path / "out")
    file = FeatureFile(report.path)
    sizes = {item: f"size:{(covers / f'{item}.bmp').stat().st_size}" for item in file.columns.ids}
    merge(report.path, dict.fromkeys(file.columns.ids, file), file.provenance, stamps=sizes)
    assert FeatureFile(report.path).columns.stamps[0] == sizes["0"]
    assert run(covers, tmp_path / "out").unchanged
    write_cover(covers / "3.bmp", size=(90, 60))
    assert run(covers, tmp_path / "out").new_rows == 1
    assert all(stamp.count(":") == 2 for stamp in FeatureFile(report.path).columns.stamps)
    assert hashed == []  # a size tells enough


def test_shards_of_a_broken_run_are_told_by_their_sources_too(tmp_path: Path, covers: Path) -> None:
    """The shard of the same rows has the same name: what it was made from decides."""
    catalog = listed(covers)
    works = prepare_all(catalog, [SPEC], options(tmp_path / "out"))
    for _ in extract_shard(plan(catalog, works, 4)[0]):
        pass
    write_cover(covers / "1.bmp", kind=5)
    order = Order(listed(covers), ("resnet-tiny",), options(tmp_path / "out"))
    assert work(order) == 0
    report = run(covers, tmp_path / "out")
    assert report.new_rows == 0
    alone = run(covers, tmp_path / "alone")
    both = [FeatureFile(each.path).read([*"01234"]) for each in (report, alone)]
    assert np.allclose(*both, atol=1e-3)


def test_workers_with_copies_of_their_own_know_each_others_shards(tmp_path: Path) -> None:
    ids = [f"item {number}" for number in range(4)]
    one = FeatureJob(tmp_path / "f.h5", JOB, Wanted(ids, [f"size:5:{number}" for number in range(4)]))
    other = FeatureJob(tmp_path / "f.h5", JOB, Wanted(ids, [f"size:5:{number + 9}" for number in range(4)]))
    empty = [""] * 4
    one.write(FeatureRows(ids, np.ones((4, 3), np.float16), np.zeros(4, np.uint8), empty, one.wanted.stamps, empty))
    assert other.made_elsewhere([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("recorded", "now", "same"),
    [
        ("size:5", "size:5:1", True),
        ("size:5:1", "size:5:1", True),
        ("size:5:1", "size:5:2", False),
        ("size:5", "size:50:1", False),
        ("size:5:1", "size:5", False),
        ("", "size:5:1", False),
        ("size:5:1", "", False),
        ("lmdb:5:ab", "lmdb:5:ab", True),
        ("lmdb:5", "lmdb:5:ab", False),
    ],
)
def test_marks_are_compared_by_what_they_tell(recorded: str, now: str, same: bool) -> None:
    assert same_source(recorded, now) == same


def test_a_mark_without_its_time() -> None:
    assert [without_time(mark) for mark in ("size:5:1", "size:5", "lmdb:5:ab", "", "blake2b:00")] == [
        "size:5",
        "size:5",
        "lmdb:5:ab",
        "",
        "blake2b:00",
    ]


def test_of_many_workers_one_reads_the_bytes(tmp_path: Path) -> None:
    asked: list[int] = []
    ready = threading.Barrier(4)

    def digest(rows: Sequence[int]) -> list[str]:
        asked.extend(rows)
        time.sleep(0.2)
        return ["d"] * len(rows)

    found: list[list[str]] = []

    def ask() -> None:
        ready.wait()
        found.append(KnownDigests(tmp_path / "digests.json", digest).of([0, 1], ["a", "b"], ["m", "n"]))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["d", "d"]] * 4
    assert asked == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["digests.json"]


@pytest.mark.parametrize("content", ["", "[", "[1]", '{"a": 1}', '{"a": [1, 2, 3]}', "null"])
def test_a_damaged_memory_knows_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "digests.json"
    path.write_text(content)
    asked: list[int] = []

    def digest(rows: Any) -> list[str]:
        asked.extend(rows)
        return ["d", ""]

    known = KnownDigests(path, digest)
    assert known.of([3, 4], ["a", "b"], ["m", "n"]) == ["d", ""]
    assert KnownDigests(path, digest).of([3], ["a"], ["m"]) == ["d"]
    assert asked == [3, 4]  # what could not be read is asked for again, and nothing else
