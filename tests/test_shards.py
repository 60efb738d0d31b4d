"""Extraction jobs: whatever is lost, killed or changed on the way, the finished file is the one of an unbroken run."""

from __future__ import annotations

import errno
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import StoreError
from features.provenance import Provenance
from features.shards import FeatureJob, Wanted
from features.store import FeatureFile, FeatureRows, State

RECIPE = Provenance("micro", {"encoder": "tiny"})
MISSING, FAILING = "item 3", "item 7"


def wanted(numbers: Iterable[int], stamps: Mapping[int, str] | None = None) -> Wanted:
    numbers = list(numbers)
    plain = {n: "" if f"item {n}" == MISSING else "v1" for n in numbers} | dict(stamps or {})
    return Wanted([f"item {n}" for n in numbers], [plain[n] for n in numbers])


def encode(job: FeatureJob, positions: Sequence[int], *, mended: bool = False) -> FeatureRows:
    """A stand-in for an encoder: the vector depends on the id and the stamp alone."""
    ids = [job.wanted.ids[row] for row in positions]
    stamps = [job.wanted.stamps[row] for row in positions]
    states, vectors = [], np.full((len(ids), 3), np.nan, np.float16)
    for row, (item, stamp) in enumerate(zip(ids, stamps, strict=True)):
        failed = item == FAILING and not mended
        states.append(State.MISSING if not stamp else State.FAILED if failed else State.DONE)
        if states[-1] == State.DONE:
            vectors[row] = [int(item.split()[1]), int(stamp[1:]), 1]
    reasons = ["" if state == State.DONE else state.name for state in states]
    return FeatureRows(ids, vectors, np.array(states, np.uint8), reasons, stamps, [""] * len(ids))


def run(job: FeatureJob, size: int = 4, *, mended: bool = False) -> tuple[FeatureFile, list[str]]:
    """Make what is pending and finish; also return the ids that had to be made."""
    made = [job.wanted.ids[row] for row in job.pending]
    for positions in job.shards(size):
        job.write(encode(job, positions, mended=mended))
    return job.finish(), made


def contents(file: FeatureFile) -> tuple[object, ...]:
    columns = file.columns
    return file.vectors_sha256, columns.ids, columns.states.tolist(), columns.reasons, columns.stamps, columns.digests


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "features.h5"


@pytest.fixture
def unbroken(tmp_path: Path) -> FeatureFile:
    return run(FeatureJob(tmp_path / "unbroken" / "f.h5", RECIPE, wanted(range(20))))[0]


def interrupted(target: Path, shards: int = 3) -> FeatureJob:
    """A job of 20 rows, stopped after some shards of 4."""
    job = FeatureJob(target, RECIPE, wanted(range(20)))
    for positions in job.shards(4)[:shards]:
        job.write(encode(job, positions))
    return FeatureJob(target, RECIPE, wanted(range(20)))


def test_a_whole_run(target: Path) -> None:
    job = FeatureJob(target, RECIPE, wanted(range(20)))
    assert (job.pending, job.unchanged) == (list(range(20)), False)
    file, _ = run(job)
    file.verify()
    assert file.columns.ids == tuple(f"item {n}" for n in range(20))
    np.testing.assert_array_equal(file.read(["item 19", "item 0"]), [[19, 1, 1], [0, 1, 1]])
    assert job.rejected() == [(MISSING, "missing", "MISSING"), (FAILING, "failed", "FAILED")]
    assert job.unchanged
    assert FeatureJob(target, RECIPE, wanted(range(20))).unchanged
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert contents(job.finish()) == contents(file)  # once more does no harm


@settings(max_examples=12, deadline=None)
@given(data=st.data(), first=st.integers(3, 7), second=st.integers(1, 7))
def test_resume_after_any_shards_are_lost(tmp_path_factory, data, first: int, second: int) -> None:
    folder = tmp_path_factory.mktemp("resume")
    expected, _ = run(FeatureJob(folder / "whole.h5", RECIPE, wanted(range(20))))
    job = FeatureJob(folder / "f.h5", RECIPE, wanted(range(20)))
    for positions in job.shards(first):
        job.write(encode(job, positions))
    for shard in sorted(job.folder.glob("*.h5")):
        harm = data.draw(st.sampled_from(["none", "lost", "record lost", "record cut", "cut", "flipped"]))
        record, content = shard.with_suffix(".json"), shard.read_bytes()
        if harm == "lost":
            shard.unlink()
        elif harm == "record lost":
            record.unlink()
        elif harm == "record cut":
            record.write_text(record.read_text()[:9])
        elif harm == "cut":
            shard.write_bytes(content[: len(content) // 2])
        elif harm == "flipped":
            place = data.draw(st.integers(0, len(content) - 1))
            shard.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    file, _ = run(FeatureJob(folder / "f.h5", RECIPE, wanted(range(20))), second)
    assert contents(file) == contents(expected)


def test_what_counts_is_not_made_again(target: Path, unbroken: FeatureFile) -> None:
    job = interrupted(target, shards=3)
    assert job.pending == list(range(12, 20))
    assert (
        job.shards(3)
        == FeatureJob(target, RECIPE, wanted(range(20))).shards(3)
        == [[12, 13, 14], [15, 16, 17], [18, 19]]
    )
    file, made = run(job)
    assert made == [f"item {n}" for n in range(12, 20)]
    assert contents(file) == contents(unbroken)


def test_an_orphan_without_record_does_not_count(target: Path) -> None:
    job = interrupted(target, shards=1)
    next(job.folder.glob("*.json")).unlink()
    assert len(FeatureJob(target, RECIPE, wanted(range(20))).pending) == 20


def test_a_damaged_shard_is_made_again_and_its_record_dropped(target: Path, unbroken: FeatureFile) -> None:
    job = interrupted(target, shards=2)
    record = min(job.folder.glob("*.json"))
    shard = record.with_suffix(".h5")
    shard.write_bytes(shard.read_bytes()[:-1])
    again = FeatureJob(target, RECIPE, wanted(range(20)))
    assert (len(again.pending), record.exists()) == (16, False)
    assert contents(run(again)[0]) == contents(unbroken)


def test_a_shard_damaged_while_the_job_runs_stops_the_merge(target: Path) -> None:
    job = interrupted(target, shards=5)
    shard = next(job.folder.glob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(StoreError, match="damaged"):
        job.finish()
    assert not target.exists()
    assert FeatureJob(target, RECIPE, wanted(range(20))).pending != []


def test_finishing_too_early_is_refused(target: Path) -> None:
    with pytest.raises(StoreError, match=r"8 rows of .*features\.h5 are not made yet; run `extract` again"):
        interrupted(target, shards=3).finish()


# The catalog changes.


def test_changed_sources_are_made_again(target: Path) -> None:
    run(FeatureJob(target, RECIPE, wanted(range(20))))
    stamps = {3: "v5", 4: "v2", 5: ""}  # a missing source came, one changed, one went
    job = FeatureJob(target, RECIPE, wanted(range(20), stamps))
    assert not job.unchanged
    file, made = run(job)
    assert made == ["item 3", "item 4", "item 5"]
    np.testing.assert_array_equal(file.read(["item 3", "item 4", "item 6"]), [[3, 5, 1], [4, 2, 1], [6, 1, 1]])
    assert file.counts() == {"done": 18, "missing": 1, "failed": 1}


@pytest.mark.parametrize(
    ("numbers", "made"),
    [(range(22), ["item 20", "item 21"]), (range(5, 15), []), (range(19, -1, -1), []), ([21, 0, 5], ["item 21"])],
    ids=["grown", "shrunk", "turned round", "all three"],
)
def test_a_catalog_that_grew_shrank_or_was_reordered(target: Path, numbers: Iterable[int], made: list[str]) -> None:
    run(FeatureJob(target, RECIPE, wanted(range(20))))
    job = FeatureJob(target, RECIPE, wanted(numbers))
    assert not job.unchanged
    file, again = run(job)
    assert again == made
    expected, _ = run(FeatureJob(target.with_name("fresh.h5"), RECIPE, wanted(numbers)))
    assert contents(file) == contents(expected)


def test_failed_rows_stand_unless_asked_for(target: Path) -> None:
    run(FeatureJob(target, RECIPE, wanted(range(20))))
    assert FeatureJob(target, RECIPE, wanted(range(20))).pending == []
    retried = FeatureJob(target, RECIPE, wanted(range(20)), retry_failed=True)
    file, made = run(retried, mended=True)
    assert made == [FAILING]
    assert file.counts() == {"done": 19, "missing": 1, "failed": 0}
    assert retried.rejected() == [(MISSING, "missing", "MISSING")]


def test_a_row_that_fails_again_is_not_tried_for_ever(target: Path) -> None:
    run(FeatureJob(target, RECIPE, wanted(range(20))))
    job = FeatureJob(target, RECIPE, wanted(range(20)), retry_failed=True)
    job.write(encode(job, job.pending))
    resumed = FeatureJob(target, RECIPE, wanted(range(20)), retry_failed=True)  # killed before `finish`
    assert resumed.pending == []


# What is refused.


def test_recipes_and_datasets_do_not_mix(target: Path) -> None:
    other = Provenance("micro", {"encoder": "large"})
    job = interrupted(target, shards=1)
    with pytest.raises(StoreError, match=r"features\.shards was made by recipe .* choose another file name, or delete"):
        FeatureJob(target, other, wanted(range(20)))
    run(job)
    with pytest.raises(StoreError, match=r"features\.h5 was made by recipe"):
        FeatureJob(target, other, wanted(range(20)))
    with pytest.raises(StoreError, match="belongs to dataset 'micro', not 'elsewhere'"):
        FeatureJob(target, Provenance("elsewhere", RECIPE.recipe), wanted(range(20)))


def test_wanted_rows_are_checked_at_once() -> None:
    with pytest.raises(StoreError, match="'a' occurs twice"):
        Wanted(["a", "a"], ["", ""])
    with pytest.raises(StoreError, match="2 ids are wanted but 1 stamps given"):
        Wanted(["a", "b"], [""])


def test_a_damaged_target_is_never_silently_dropped(target: Path) -> None:
    run(FeatureJob(target, RECIPE, wanted(range(20))))
    target.write_bytes(target.read_bytes()[:-1])
    with pytest.raises(StoreError, match="delete it, then copy or extract it again"):
        FeatureJob(target, RECIPE, wanted(range(20)))


# Disks that fill up, processes that are killed.


@pytest.mark.parametrize("step", ["features.layout.fsync_file", "features.atomic.fsync_file", "pathlib.Path.replace"])
def test_a_full_disk_costs_one_shard_and_leaves_nothing(target: Path, unbroken: FeatureFile, monkeypatch, step) -> None:
    job = interrupted(target, shards=2)
    before = sorted(job.folder.iterdir())

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(step, full)
        with pytest.raises(StoreError, match=r"cannot write .*No space left on device.*free some disk space"):
            job.write(encode(job, job.pending[:4]))
    left = {path.name for path in job.folder.iterdir()} - {path.name for path in before}
    # the shard itself may stand when only its record could not be written; it does not count without it
    assert all(name.endswith(".h5") and not name.startswith(".") for name in left)
    again = FeatureJob(target, RECIPE, wanted(range(20)))
    assert len(again.pending) == 12
    assert contents(run(again)[0]) == contents(unbroken)


def test_a_full_disk_at_the_merge_keeps_the_shards(target: Path, unbroken: FeatureFile, monkeypatch) -> None:
    job = interrupted(target, shards=5)
    with monkeypatch.context() as patched:
        patched.setattr("features.layout.fsync_file", lambda path: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StoreError, match="No space left"):
            job.finish()
    assert [path.name for path in target.parent.iterdir() if path.is_file()] == []
    assert contents(FeatureJob(target, RECIPE, wanted(range(20))).finish()) == contents(unbroken)


def test_leftovers_of_killed_merges_are_removed(target: Path) -> None:
    stray, other = target.with_name(f".{target.name}.0123.tmp"), target.with_name(".unrelated.tmp")
    stray.write_text("half a file")
    other.write_text("someone else's")
    run(FeatureJob(target, RECIPE, wanted(range(20))))
    assert (stray.exists(), other.exists()) == (False, True)


WORKER = """
import sys
from pathlib import Path
from features.shards import FeatureJob
from tests.test_shards import RECIPE, run, wanted
job = FeatureJob(Path(sys.argv[1]), RECIPE, wanted(range(int(sys.argv[2]))))
print("begun", flush=True)
run(job, size=4)
print("finished", flush=True)
"""


@pytest.mark.parametrize(("rows", "longest_s"), [(400, 0.12), (12, 0.04)], ids=["among shards", "around the merge"])
def test_killed_at_random_moments_the_result_is_that_of_an_unbroken_run(
    tmp_path: Path, rows: int, longest_s: float
) -> None:
    expected, _ = run(FeatureJob(tmp_path / "unbroken" / "f.h5", RECIPE, wanted(range(rows))), 50)
    target = tmp_path / "killed" / "f.h5"
    command = [sys.executable, "-c", WORKER, str(target), str(rows)]
    root, moments, killed = Path(__file__).parents[1], random.Random(7), 0
    for _ in range(7):
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"begun\n"
            time.sleep(moments.uniform(0, longest_s))
            worker.kill()
            killed += worker.stdout.read() == b""
        if target.exists():  # whole at any moment, once it is there
            FeatureFile(target).verify()
            assert contents(FeatureFile(target)) == contents(expected)
    assert killed >= 2  # else this machine is too fast for these moments, and the test says nothing
    file, _ = run(FeatureJob(target, RECIPE, wanted(range(rows))))
    file.verify()
    assert contents(file) == contents(expected)
    assert [path.name for path in target.parent.iterdir()] == ["f.h5"]


def test_records_say_what_they_vouch_for(target: Path) -> None:
    job = interrupted(target, shards=1)
    record = json.loads(next(job.folder.glob("*.json")).read_text())
    assert record["rows"] == 4
    assert len(record["sha256"]) == 64
