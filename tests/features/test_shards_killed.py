"""Extraction jobs on full disks and killed at any moment: the finished file is the one of an unbroken run."""

from __future__ import annotations

import errno
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from features.errors import StoreError
from features.shards.job import FeatureJob
from features.store import FeatureFile
from tests.support.stores import JOB, contents, encode, interrupted, run, wanted

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
    again = FeatureJob(target, JOB, wanted(range(20)))
    assert len(again.pending) == 12
    assert contents(run(again)[0]) == contents(unbroken)


def test_a_full_disk_at_the_merge_keeps_the_shards(target: Path, unbroken: FeatureFile, monkeypatch) -> None:
    job = interrupted(target, shards=5)
    with monkeypatch.context() as patched:
        patched.setattr("features.layout.fsync_file", lambda path: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StoreError, match="No space left"):
            job.finish()
    assert [path.name for path in target.parent.iterdir() if path.is_file()] == []
    assert contents(FeatureJob(target, JOB, wanted(range(20))).finish()) == contents(unbroken)


def test_leftovers_of_killed_merges_are_removed(target: Path) -> None:
    stray, other = target.with_name(f".{target.name}.0123.tmp"), target.with_name(".unrelated.tmp")
    stray.write_text("half a file")
    other.write_text("someone else's")
    run(FeatureJob(target, JOB, wanted(range(20))))
    assert (stray.exists(), other.exists()) == (False, True)


WORKER = """
import sys
from pathlib import Path
from features.shards.job import FeatureJob
from tests.support.stores import JOB, run, wanted
job = FeatureJob(Path(sys.argv[1]), JOB, wanted(range(int(sys.argv[2]))))
print("begun", flush=True)
run(job, size=4)
print("finished", flush=True)
"""


@pytest.mark.parametrize(("rows", "longest_s"), [(400, 0.12), (12, 0.04)], ids=["among shards", "around the merge"])
def test_killed_at_random_moments_the_result_is_that_of_an_unbroken_run(
    tmp_path: Path, rows: int, longest_s: float
) -> None:
    expected, _ = run(FeatureJob(tmp_path / "unbroken" / "f.h5", JOB, wanted(range(rows))), 50)
    target = tmp_path / "killed" / "f.h5"
    command = [sys.executable, "-c", WORKER, str(target), str(rows)]
    root, moments, killed = Path(__file__).parents[2], random.Random(7), 0
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
    file, _ = run(FeatureJob(target, JOB, wanted(range(rows))))
    file.verify()
    assert contents(file) == contents(expected)
    assert [path.name for path in target.parent.iterdir()] == ["f.h5"]


def test_records_say_what_they_vouch_for(target: Path) -> None:
    job = interrupted(target, shards=1)
    record = json.loads(next(job.folder.glob("*.json")).read_text())
    assert record["rows"] == 4
    assert len(record["sha256"]) == 64
