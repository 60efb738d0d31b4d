"""The command `freezeframe`, how its process starts and ends, and the finder that keeps its packages apart.

Our packages have plain names: `extract`, `features`, `models`, `pipelines`. A user's project may well hold a folder
`models` of its own, and Python takes the first one on its path. Importing this module puts a finder before Python's
own, which finds these names beside this file and nowhere else. Every process of ours that is not started as `python
run_pipeline.py` in a checkout imports this module first. Only the standard library is imported here.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

PACKAGES = ("extract", "features", "models", "pipelines")
OWN = (*PACKAGES, "run_pipeline", "freezeframe")
ROOT = Path(__file__).resolve().parent  # a checkout, or the folder that packages are installed in
_own_process = False  # whether this process was started to run one command line, and nothing else


class OwnPackages:
    """Finds our packages beside this file, whatever else the path holds."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return where one of our packages is; None for all others, which Python then looks for as usual."""
        return PathFinder.find_spec(name, [str(ROOT)], target) if path is None and name in OWN else None


if not any(getattr(finder, "__name__", "") == OwnPackages.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, OwnPackages)


def command() -> NoReturn:
    """Run the command line as `freezeframe`, and end the process with its exit code."""
    for line in clashes(ROOT):
        sys.stderr.write(f"warning: {line}\n")
    from run_pipeline import main

    run_alone(main)


def run_alone(main: Callable[[], int]) -> NoReturn:
    """Run a command line that this process was started for, and end the process with its exit code.

    A process that has imported torch takes about a second to take everything apart before it ends. Nobody waits for
    that here: what was registered to be done at the end is done, output is written out, and the process stops.
    """
    global _own_process
    _own_process = True
    code = main()
    threading = sys.modules.get("threading")
    if threading is not None and any(not one.daemon for one in threading.enumerate()[1:]):
        sys.exit(code)  # a thread still works: Python waits for it
    if sys.flags.interactive or sys.getprofile() is not None or sys.gettrace() is not None:
        sys.exit(code)  # somebody looks at this process, and does so after its end
    atexit._run_exitfuncs()
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # Windows has none without a console
            stream.flush()
    except OSError:  # such as a closed pipe, which Python itself reports
        sys.exit(code)
    os._exit(code)


@contextmanager
def imports() -> Iterator[None]:
    """Import modules inside the block without a search for garbage meanwhile; in a process of our own only.

    Modules make hundreds of thousands of objects, which all stay. Python looks through them again and again while they
    become more, and later with every search. Here it does not: it never looks at what the block has left.
    """
    if not _own_process:  # a notebook or a test has garbage of its own, which must not stay for ever
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def clashes(folder: Path) -> list[str]:
    """Return a line for each other distribution that has put files into our packages' folders, or replaced some.

    Args:
        folder: where packages are installed. A folder without our metadata, such as a checkout, has no clashes.
    """
    record = next(folder.glob("freezeframe-*.dist-info/RECORD"), None)
    if record is None:
        return []
    own = dict(_recorded(record))
    there = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for name in PACKAGES
        for path in (folder / name).rglob("*.py")
    }
    replaced = [name for name, size in own.items() if size and there.get(name) != size]
    foreign = [name for name in there if name not in own]
    if not replaced and not foreign:
        return []
    owners = {
        other.parent.name.removesuffix(".dist-info"): name
        for other in folder.glob("*.dist-info/RECORD")
        if other != record
        for name, _ in _recorded(other)
        if name in (*replaced, *foreign)
    }
    mend = "give freezeframe an environment of its own"
    told = [
        f"the package {owner} installs {name} into a folder of freezeframe's; {mend}" for owner, name in owners.items()
    ]
    if replaced and not told:
        told = [f"{folder / replaced[0]} is not as freezeframe installed it; install freezeframe again"]
    return told


def _recorded(record: Path) -> Iterator[tuple[str, int]]:
    """Yield path and size of the Python files in our packages' folders that a distribution's RECORD names."""
    starts = tuple(f"{name}/" for name in PACKAGES)
    for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(starts):
            name, _, size = line.rsplit(",", 2)
            if name.endswith(".py"):
                yield name, int(size or 0)


def call(module: str, function: str, pickled: bytes) -> Any:
    """Call one of our functions with pickled arguments, in a process that has only this module so far.

    Pickles of our objects are read after this module is imported, so they find our packages and no others.
    """
    import pickle
    from importlib import import_module

    return getattr(import_module(module), function)(*pickle.loads(pickled))  # noqa: S301 (our own process made it)


if __name__ == "__main__":
    if not sys.flags.safe_path:  # `python -m` and `python FILE` put a folder first, which the finder makes needless
        del sys.path[0]
    from freezeframe import command as run_command  # the module of this name, whose state others of ours see

    run_command()
