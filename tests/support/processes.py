"""Processes that start in a moment: they are forked from a server that has imported the large libraries once.

To import torch, torchvision and transformers takes longer than most of what a process does in a test. A test whose
subject is the start itself (imports, environment, `torchrun`, `python -c`) starts a process of its own instead.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import chdir
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ["torch", "torchvision", "polars", "h5py", "pydantic", "rich.progress", "pytest"]
LIBRARIES += ["transformers.models.videomae.modeling_videomae", "torch.distributed.launcher.api"]
OURS = ["run_pipeline", "pipelines.commands.extract", "pipelines.commands.train", "pipelines.feature_files.extraction"]
OURS += ["pipelines.runs.experiment", "extract.jobs.farm"]
context = multiprocessing.get_context("forkserver")


def ready() -> None:
    """Start the server of this process, if it is not there yet."""
    context.set_forkserver_preload([*LIBRARIES, *OURS])
    with chdir(ROOT):  # it does not take over sys.path: our modules are found in the folder in which it starts
        forkserver.ensure_running()


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers of `extract --processes` be forked from the server, where the product starts them by spawn."""
    ready()
    forked = SimpleNamespace(get_context=lambda _: SimpleNamespace(Process=_worker))
    monkeypatch.setattr("extract.jobs.farm.multiprocessing", forked)


def _worker(*, target: Callable[..., None], args: tuple[Any, ...]) -> Any:
    return context.Process(target=_of_the_server, args=(target, *args))


def _of_the_server(work: Callable[..., None], order: Any, _: int, threads: int) -> None:
    work(order, os.getppid(), threads)  # a worker ends when its parent does, which is the server; that ends with us


class Started:
    """A process at work."""

    def __init__(self, run: Callable[..., int], *arguments: Any, told: Path) -> None:
        """Start `run`, whose result is the exit status.

        Args:
            run: a function of a module, which the other process imports.
            arguments: what it is called with.
            told: the file for all that it prints.
        """
        ready()
        self._told = told
        self._process = context.Process(target=_run, args=(run, arguments, told, Path.cwd()))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """The exit status, -9 of a process that was killed; None while it works."""
        return self._process.exitcode

    def kill(self) -> None:
        """Kill it, as `kill -9` does, and wait until it is gone."""
        self._process.kill()
        self._process.join()

    def end(self, seconds: float = 100) -> tuple[int | None, str]:
        """Wait for its end and return its exit status, None where the time was up, and what it printed."""
        self._process.join(seconds)
        return self._process.exitcode, self._told.read_text()


def _run(run: Callable[..., int], arguments: tuple[Any, ...], told: Path, here: Path) -> NoReturn:
    import torch

    torch.set_num_threads(1)
    os.chdir(here)
    with told.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    status = 1
    try:
        status = run(*arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:  # told as Python does, which never sees it
        traceback.print_exc()
    _exit(status)


def _exit(status: int) -> NoReturn:
    """End as a process that was not forked does: libraries close what they hold, where faults of theirs show."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ctypes.CDLL(None).exit(status)
    raise AssertionError
