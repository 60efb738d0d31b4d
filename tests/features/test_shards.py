"""Extraction jobs: whatever is lost or changed on the way, the finished file is the one of an unbroken run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import StoreError
from features.provenance import Provenance
from features.shards import records
from features.shards.job import FeatureJob, Wanted
from features.store import FeatureFile, State
from tests.support.stores import FAILING, JOB, MISSING, contents, cut, encode, interrupted, run, wanted


def test_a_whole_run(target: Path) -> None:
    job = FeatureJob(target, JOB, wanted(range(20)))
    assert (job.pending, job.unchanged) == (list(range(20)), False)
    file, _ = run(job)
    file.verify()
    assert file.columns.ids == tuple(f"item {n}" for n in range(20))
    np.testing.assert_array_equal(file.read(["item 19", "item 0"]), [[19, 1, 1], [0, 1, 1]])
    assert job.rejected() == [(MISSING, "missing", "MISSING"), (FAILING, "failed", "FAILED")]
    assert job.unchanged
    assert FeatureJob(target, JOB, wanted(range(20))).unchanged
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert contents(job.finish()) == contents(file)  # once more does no harm


@settings(max_examples=12, deadline=None)
@given(data=st.data(), first=st.integers(3, 7), second=st.integers(1, 7))
def test_resume_after_any_shards_are_lost(tmp_path_factory, data, first: int, second: int) -> None:
    folder = tmp_path_factory.mktemp("resume")
    expected, _ = run(FeatureJob(folder / "whole.h5", JOB, wanted(range(20))))
    job = FeatureJob(folder / "f.h5", JOB, wanted(range(20)))
    for positions in cut(job, first):
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
    file, _ = run(FeatureJob(folder / "f.h5", JOB, wanted(range(20))), second)
    assert contents(file) == contents(expected)


def test_what_counts_is_not_made_again(target: Path, unbroken: FeatureFile) -> None:
    job = interrupted(target, shards=3)
    assert job.pending == list(range(12, 20))
    assert cut(job, 3) == cut(FeatureJob(target, JOB, wanted(range(20))), 3) == [[12, 13, 14], [15, 16, 17], [18, 19]]
    file, made = run(job)
    assert made == [f"item {n}" for n in range(12, 20)]
    assert contents(file) == contents(unbroken)


def test_an_orphan_without_record_does_not_count(target: Path) -> None:
    job = interrupted(target, shards=1)
    next(job.folder.glob("*.json")).unlink()
    assert len(FeatureJob(target, JOB, wanted(range(20))).pending) == 20


def test_a_damaged_shard_is_made_again_and_its_record_dropped(target: Path, unbroken: FeatureFile) -> None:
    job = interrupted(target, shards=2)
    record = min(job.folder.glob("*.json"))
    shard = record.with_suffix(".h5")
    shard.write_bytes(shard.read_bytes()[:-1])
    again = FeatureJob(target, JOB, wanted(range(20)))
    assert (len(again.pending), record.exists()) == (16, False)
    assert contents(run(again)[0]) == contents(unbroken)


def test_a_shard_damaged_while_the_job_runs_stops_the_merge(target: Path) -> None:
    job = interrupted(target, shards=5)
    shard = next(job.folder.glob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(StoreError, match="damaged"):
        job.finish()
    assert not target.exists()
    assert FeatureJob(target, JOB, wanted(range(20))).pending != []


def test_records_go_before_their_shards(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = FeatureJob(target, JOB, wanted(range(20)))
    for positions in cut(job, 4):
        job.write(encode(job, positions))
    monkeypatch.setattr("features.shards.job.shutil.rmtree", lambda *_, **__: None)  # the process dies here
    job.finish()
    assert len(list(job.folder.glob("*.h5"))) == 5
    assert not list(job.folder.glob("*.json"))
    monkeypatch.undo()
    again = FeatureJob(target, JOB, wanted(range(20)))
    assert again.pending == []


def test_finishing_too_early_is_refused(target: Path) -> None:
    with pytest.raises(StoreError, match=r"8 rows of .*features\.h5 are not made yet; run `extract` again"):
        interrupted(target, shards=3).finish()


# The catalog changes.


def test_changed_sources_are_made_again(target: Path) -> None:
    run(FeatureJob(target, JOB, wanted(range(20))))
    stamps = {3: "v5", 4: "v2", 5: ""}  # a missing source came, one changed, one went
    job = FeatureJob(target, JOB, wanted(range(20), stamps))
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
    run(FeatureJob(target, JOB, wanted(range(20))))
    job = FeatureJob(target, JOB, wanted(numbers))
    assert not job.unchanged
    file, again = run(job)
    assert again == made
    expected, _ = run(FeatureJob(target.with_name("fresh.h5"), JOB, wanted(numbers)))
    assert contents(file) == contents(expected)


def test_failed_rows_stand_unless_asked_for(target: Path) -> None:
    run(FeatureJob(target, JOB, wanted(range(20))))
    assert FeatureJob(target, JOB, wanted(range(20))).pending == []
    retried = FeatureJob(target, JOB, wanted(range(20)), retry_failed=True)
    file, made = run(retried, mended=True)
    assert made == [FAILING]
    assert file.counts() == {"done": 19, "missing": 1, "failed": 0}
    assert retried.rejected() == [(MISSING, "missing", "MISSING")]


def test_failed_rows_of_a_run_that_never_finished_are_made_again_where_asked_for(target: Path) -> None:
    job = FeatureJob(target, JOB, wanted(range(20)))
    for positions in cut(job, 4):
        job.write(encode(job, positions))  # and then too many have failed: no file
    job = FeatureJob(target, JOB, wanted(range(20)), retry_failed=True)
    assert job.pending == []
    job.forget_failed()
    assert [job.wanted.ids[row] for row in job.pending] == [FAILING]
    assert len(list(job.folder.glob("*.json"))) == len(list(job.folder.glob("*.h5"))) == 1
    again = FeatureJob(target, JOB, wanted(range(20)), retry_failed=True)  # a worker of the same run
    assert again.pending == job.pending
    file, made = run(again, mended=True)
    assert made == [FAILING]
    assert file.counts() == {"done": 19, "missing": 1, "failed": 0}
    again.forget_failed()  # nothing to forget
    assert again.pending == []


def test_rows_that_failed_beside_a_finished_file_are_made_again_where_asked_for(target: Path) -> None:
    run(FeatureJob(target, JOB, wanted([row for row in range(20) if f"item {row}" != FAILING])))
    job = FeatureJob(target, JOB, wanted(range(22)))
    job.write(encode(job, job.pending))  # and then too many have failed: no new file
    job = FeatureJob(target, JOB, wanted(range(22)), retry_failed=True)
    assert job.pending == []
    job.forget_failed()
    assert [job.wanted.ids[row] for row in job.pending] == [FAILING]
    file, made = run(FeatureJob(target, JOB, wanted(range(22)), retry_failed=True), mended=True)
    assert made == [FAILING]
    assert file.counts() == {"done": 21, "missing": 1, "failed": 0}


def test_rows_whose_source_was_listed_and_not_found_are_made_again_where_asked_for(target: Path) -> None:
    job = FeatureJob(target, JOB, wanted(range(20)))
    rows = encode(job, job.pending, mended=True)
    rows.states[5] = State.MISSING
    rows.vectors[5] = np.nan
    job.write(rows)
    job.finish()
    assert FeatureJob(target, JOB, wanted(range(20))).pending == []
    assert FeatureJob(target, JOB, wanted(range(20)), retry_failed=True).pending == [5]


def test_a_shard_that_another_worker_clears_away_does_not_count(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = FeatureJob(target, JOB, wanted(range(20)))
    for positions in cut(job, 10):
        job.write(encode(job, positions))

    def clear(path: Path) -> str:
        for file in job.folder.glob("*"):
            file.unlink()
        return original(path)

    original = records.file_sha256
    monkeypatch.setattr(records, "file_sha256", clear)
    assert len(FeatureJob(target, JOB, wanted(range(20))).pending) == 20


def test_a_good_row_stands_over_a_failed_one(target: Path) -> None:
    for mended in (False, True):
        job = FeatureJob(target, JOB, wanted(range(20)))
        row = job.wanted.ids.index(FAILING)
        job.write(encode(job, [row], mended=mended))
        job.write(encode(job, [row, 0] if mended else [0, row], mended=mended))
    counts = [FeatureJob(target, JOB, wanted(range(20))).rejected()]
    assert counts == [[]]


def test_a_row_that_fails_again_is_not_tried_for_ever(target: Path) -> None:
    run(FeatureJob(target, JOB, wanted(range(20))))
    job = FeatureJob(target, JOB, wanted(range(20)), retry_failed=True)
    job.write(encode(job, job.pending))
    resumed = FeatureJob(target, JOB, wanted(range(20)), retry_failed=True)  # killed before `finish`
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
        FeatureJob(target, Provenance("elsewhere", JOB.recipe), wanted(range(20)))


def test_wanted_rows_are_checked_at_once() -> None:
    with pytest.raises(StoreError, match="'a' occurs twice"):
        Wanted(["a", "a"], ["", ""])
    with pytest.raises(StoreError, match="2 ids are wanted but 1 stamps given"):
        Wanted(["a", "b"], [""])


def test_a_damaged_target_is_never_silently_dropped(target: Path) -> None:
    run(FeatureJob(target, JOB, wanted(range(20))))
    target.write_bytes(target.read_bytes()[:-1])
    with pytest.raises(StoreError, match="delete it, then copy or extract it again"):
        FeatureJob(target, JOB, wanted(range(20)))
