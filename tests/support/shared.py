"""What costs seconds to make is made once per test run, also where several processes share the tests."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make` fills, once for all workers of pytest-xdist; tests only read it.

    Args:
        factory: pytest's own.
        name: what the folder is called; two kinds of content need two names.
        make: fills the folder, which is there and empty.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir()  # fails where an earlier try has failed: its error stands in that test
            make(folder)
            done.touch()
    return folder
