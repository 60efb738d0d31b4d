"""Two runs on one folder: the second helps the first, inherits from one that was killed, or says who is at work."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import run_pipeline
from extract.encoders.registry import ENCODERS
from extract.jobs import sharding, turns
from extract.jobs.extractor import extract_all, prepare_all
from extract.jobs.sharding import Shard, run_key
from extract.media.catalog import build_catalog
from features.errors import ConfigError
from features.shards.lock import RunLock
from features.store import FeatureFile
from tests.support.media import write_covers
from tests.support.processes import Started
from tests.support.toy_media import options

COUNT, SHARD = 24, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_covers(tmp_path_factory.mktemp("two") / "data", COUNT)


def line(data: Path, out: Path, encoders: str = "resnet-tiny") -> list[str]:
    rest = f"--weights random --shard-size {SHARD} --batch-size {SHARD} --device cpu"
    return ["extract", "--data", str(data), "--encoders", encoders, "--out", str(out), *rest.split()]


def noted_run(log: Path, words: list[str]) -> int:
    """Run a command line whose shards are written down, with who makes them, and then wait for a gate to open."""
    real = sharding.extract_shard

    def noted(shard: Shard) -> Iterator[int]:
        if shard.tasks:
            with log.open("a") as file:
                file.write(f"{os.getpid()} {shard.name}\n")
            while not gate(log).exists():
                time.sleep(0.02)
        yield from real(shard)

    sharding.extract_shard = noted
    return run_pipeline.main(words)


def start(log: Path, words: list[str]) -> Started:
    return Started(noted_run, log, words, told=log.with_name(f"told-{time.monotonic_ns()}"))


def shards_of(log: Path) -> list[list[str]]:
    return [row.split() for row in log.read_text().splitlines()] if log.exists() else []


def until_all_work(log: Path, *processes: Started) -> None:
    for _ in range(2000):
        if {int(process) for process, _ in shards_of(log)} >= {process.pid for process in processes}:
            return
        time.sleep(0.05)
    raise AssertionError("a run never began")


def gate(log: Path) -> Path:
    return log.with_name(f"{log.name}.gate")


def open_gate(log: Path) -> None:
    gate(log).touch()


def sealed(out: Path) -> list[str]:
    return sorted(FeatureFile(path).vectors_sha256 for path in out.glob("*.h5"))


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("alone")
    assert run_pipeline.main(line(data, out)) == 0
    return sealed(out)


def test_the_second_of_two_runs_helps_the_first(tmp_path: Path, data: Path, alone: list[str]) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    first = start(log, line(data, out))
    until_all_work(log, first)
    second = start(log, line(data, out))
    until_all_work(log, first, second)
    open_gate(log)
    ends = [process.end() for process in (first, second)]
    assert [status for status, _ in ends] == [0, 0], ends
    told = ends[1][1]
    assert f"process {first.pid} on {socket.gethostname()}, since 20" in told
    assert "is at work on" in told
    made = shards_of(log)
    assert Counter(name for _, name in made) == {f"{row}-{SHARD}": 1 for row in range(0, COUNT, SHARD)}
    assert {int(process) for process, _ in made} <= {first.pid, second.pid}
    assert sealed(out) == alone
    assert [path.suffix for path in out.iterdir()] == [".h5"]  # no lock, no claim, no shard is left


def test_the_second_inherits_from_a_first_that_is_killed(tmp_path: Path, data: Path, alone: list[str]) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    first = start(log, line(data, out))
    until_all_work(log, first)
    second = start(log, line(data, out))
    until_all_work(log, first, second)
    first.kill()
    open_gate(log)
    status, told = second.end()
    assert status == 0, told
    assert sealed(out) == alone
    assert [path.suffix for path in out.iterdir()] == [".h5"]


def test_a_run_that_was_killed_does_not_stop_the_next(tmp_path: Path, data: Path, alone: list[str]) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    first = start(log, line(data, out))
    until_all_work(log, first)
    first.kill()
    assert list(out.glob(".*.run.claim"))
    assert run_pipeline.main(line(data, out)) == 0
    assert sealed(out) == alone
    assert [path.suffix for path in out.iterdir()] == [".h5"]


def test_a_run_of_other_encoders_says_who_is_at_work(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    first = start(log, line(data, out))
    until_all_work(log, first)
    assert run_pipeline.main(line(data, out, "resnet-tiny,clip-tiny-image")) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: process {first.pid} on {socket.gethostname()}, since 20")
    assert (
        "wait until it has ended, name the same --encoders and --shard-size to help it, or choose another --out" in told
    )
    assert run_pipeline.main(line(data, out, "clip-tiny-image")) == 0  # no file in common: nothing in the way
    open_gate(log)
    assert first.end()[0] == 0
    assert len(sealed(out)) == 2
    assert {path.suffix for path in out.iterdir()} == {".h5"}


def test_an_owner_on_another_machine_is_believed_until_it_is_silent_for_long(tmp_path: Path, data: Path) -> None:
    catalog, specs = build_catalog("d", None, covers=data / "covers"), [ENCODERS["resnet-tiny"]]
    works = prepare_all(catalog, specs, options(tmp_path))
    claim = tmp_path / f".{works[0].job.target.stem}.run.claim"
    told = {"host": "elsewhere", "process": 7, "since": "2026-01-01 10:00:00", "run": "another"}
    claim.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="process 7 on elsewhere, since 2026-01-01 10:00:00, is at work on"):
        extract_all(catalog, specs, options(tmp_path))
    long_ago = time.time() - 1000
    os.utime(claim, (long_ago, long_ago))
    assert not extract_all(catalog, specs, options(tmp_path))[0].unchanged
    assert [path.suffix for path in tmp_path.iterdir()] == [".h5"]


def test_a_finished_file_is_looked_at_without_a_lock(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder that may only be read."""
    catalog, specs = build_catalog("d", None, covers=data / "covers"), [ENCODERS["resnet-tiny"]]
    extract_all(catalog, specs, options(tmp_path))
    monkeypatch.setattr(turns, "RunLock", None)
    assert extract_all(catalog, specs, options(tmp_path))[0].unchanged


def test_a_job_overtaken_before_its_turn_is_opened_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run began and ended between the preparation of this one and its turn."""
    catalog, specs = build_catalog("d", None, covers=data / "covers"), [ENCODERS["resnet-tiny"]]
    real = RunLock.take
    meanwhile = []

    def late(self: RunLock) -> object:
        if not meanwhile:
            meanwhile.append(True)
            extract_all(catalog, specs, options(tmp_path))
        return real(self)

    monkeypatch.setattr(RunLock, "take", late)
    works = prepare_all(catalog, specs, options(tmp_path))
    assert not works[0].job.unchanged
    with turns.in_turn(catalog, works) as current:
        assert meanwhile == [True]
        assert [work.job.unchanged for work in current] == [True]


def test_all_locks_or_none(tmp_path: Path) -> None:
    names = [tmp_path / "a.h5", tmp_path / "b.h5"]
    first, second, third = RunLock(names[1:], "x"), RunLock(names, "y"), RunLock(names[:1], "z")
    assert first.take() is None
    owner = second.take()
    assert owner is not None
    assert (owner.target, owner.run, owner.process) == (names[1], "x", str(os.getpid()))
    assert third.take() is None  # the second holds neither
    first.release()
    third.release()
    assert second.take() is None
    second.release()
    assert not list(tmp_path.iterdir())


def test_runs_are_told_apart_by_what_they_make(tmp_path: Path, data: Path) -> None:
    catalog = build_catalog("d", None, covers=data / "covers")
    one, other = (
        prepare_all(catalog, [ENCODERS[name]], options(tmp_path)) for name in ("resnet-tiny", "clip-tiny-image")
    )
    assert run_key(one) != run_key(other)
    assert run_key([*one, *other]) == run_key([*other, *one])
