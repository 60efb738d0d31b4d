"""Processes that start in a moment: they are forked from a server that has imported the large libraries once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Libraries only, since the server does not take over sys.path: the tested code is imported by each process itself.
LIBRARIES = ["torch", "torchvision", "polars", "h5py", "pydantic", "rich.progress", "pytest"]
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(LIBRARIES)


class Started:
    """A process at work."""

    def __init__(self, run: Callable[..., int], *arguments: Any, told: Path) -> None:
        """Start `run`, whose result is the exit status.

        Args:
            run: a function of a module, which the other process imports.
            arguments: what it is called with.
            told: the file for all that it prints.
        """
        self._told = told
        self._process = context.Process(target=_run, args=(run, arguments, told))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill it, as `kill -9` does, and wait until it is gone."""
        self._process.kill()
        self._process.join()

    def end(self, seconds: float = 100) -> tuple[int | None, str]:
        """Wait for its end and return its exit status, None where the time was up, and what it printed."""
        self._process.join(seconds)
        return self._process.exitcode, self._told.read_text()


def _run(run: Callable[..., int], arguments: tuple[Any, ...], told: Path) -> None:
    import torch

    torch.set_num_threads(1)
    with told.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(run(*arguments))
