"""Claims: one of many gets one, gives it back, and loses it when it dies."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from features.shards.claims import Claims


def at_once(ask: Callable[[], None], count: int) -> None:
    """Call `ask` in so many threads, and wait for them."""
    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_one_of_many_gets_a_claim_and_gives_it_back(tmp_path: Path) -> None:
    claims, got, ready = Claims(tmp_path / "c"), [], threading.Barrier(8)

    def ask() -> None:
        ready.wait()
        with claims.take("1-3") as mine:
            got.append(mine)
            ready.wait()  # all have asked before the first gives back

    at_once(ask, 8)
    assert sorted(got) == [False] * 7 + [True]
    assert not list((tmp_path / "c").iterdir())
    with claims.take("1-3") as mine:
        assert mine
    claims.clear()
    assert not (tmp_path / "c").exists()


def test_a_claim_is_given_back_after_an_error(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with pytest.raises(RuntimeError), claims.take("a"):
        raise RuntimeError
    with claims.take("a") as mine:
        assert mine


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("owner", "age_s", "free"),
    [
        ({"host": socket.gethostname(), "process": os.getpid()}, 0, False),
        ({"host": socket.gethostname(), "process": os.getpid()}, 100, True),  # hangs: no touch for long
        ({"host": socket.gethostname(), "process": None}, 0, True),  # a dead process of this machine
        ({"host": "elsewhere", "process": None}, 0, False),
        ({"host": "elsewhere", "process": 1}, 100, True),
        ("", 0, False),  # being written
        ("", 100, True),  # cut off by a crash
    ],
)
def test_the_dead_lose_their_claims(tmp_path: Path, owner: dict[str, object] | str, age_s: float, free: bool) -> None:
    path = tmp_path / "a.claim"
    if isinstance(owner, dict) and owner["process"] is None:
        owner = owner | {"process": dead_process()}
    path.write_text(json.dumps(owner) if owner else "")
    then = time.time() - age_s
    os.utime(path, (then, then))
    claims = Claims(tmp_path, stale_s=50)
    with claims.take("a") as mine:
        assert mine == free
        with claims.take("a") as second:
            assert not second
    with claims.take("a") as again:
        assert again == free


def leave_a_dead_claim(folder: Path) -> None:
    (folder / "a.claim").write_text(json.dumps({"host": socket.gethostname(), "process": dead_process()}))


def test_of_many_that_see_a_worker_dead_one_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_a_dead_claim(tmp_path)
    claims, got, ready, real = Claims(tmp_path), [], threading.Barrier(8), Claims._is_stale

    def all_have_seen(self: Claims, path: Path) -> bool:
        stale = real(self, path)
        ready.wait()
        return stale

    def ask() -> None:
        with claims.take("a") as mine:
            got.append(mine)
            ready.wait()

    monkeypatch.setattr(Claims, "_is_stale", all_have_seen)
    at_once(ask, 8)
    assert sorted(got) == [False] * 7 + [True]


@pytest.mark.parametrize("done", [False, True])
def test_one_that_saw_a_worker_dead_long_ago_takes_nothing_from_its_heirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    """The first heir still has it, or was taken for dead too, gave it back since, and a second one has it."""
    leave_a_dead_claim(tmp_path)
    late, real = Claims(tmp_path), Claims._is_stale
    with ExitStack() as first, ExitStack() as second:

        def long_ago(self: Claims, path: Path) -> bool:
            stale = real(self, path)
            if self is late:
                assert first.enter_context(Claims(tmp_path).take("a"))
                if done:
                    monkeypatch.setattr(Claims, "_is_stale", lambda *_: True)
                    assert second.enter_context(Claims(tmp_path).take("a"))
                    first.close()
            return stale

        monkeypatch.setattr(Claims, "_is_stale", long_ago)
        with late.take("a") as mine:
            assert not mine
        monkeypatch.setattr(Claims, "_is_stale", real)
        with Claims(tmp_path).take("a") as mine:
            assert not mine


def test_a_living_owner_touches_its_claim(tmp_path: Path) -> None:
    claims = Claims(tmp_path, stale_s=0.5)
    with claims.take("a") as mine:
        assert mine
        time.sleep(1.2)
        with claims.take("a") as second:
            assert not second
