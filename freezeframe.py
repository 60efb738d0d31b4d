"""The command `freezeframe`, and the finder that keeps its packages apart from a user's folders of the same names.

Our packages have plain names: `extract`, `features`, `models`, `pipelines`. A user's project may well hold a folder
`models` of its own, and Python takes the first one on its path. Importing this module puts a finder before Python's
own, which finds these names beside this file and nowhere else. Every process of ours that is not started as `python
run_pipeline.py` in a checkout imports this module first. Only the standard library is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("extract", "features", "models", "pipelines")
OWN = (*PACKAGES, "run_pipeline", "freezeframe")
ROOT = Path(__file__).resolve().parent  # a checkout, or the folder that packages are installed in


class OwnPackages:
    """Finds our packages beside this file, whatever else the path holds."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return where one of our packages is; None for all others, which Python then looks for as usual."""
        return PathFinder.find_spec(name, [str(ROOT)], target) if path is None and name in OWN else None


if not any(getattr(finder, "__name__", "") == OwnPackages.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, OwnPackages)


def command() -> int:
    """Run the command line as `freezeframe`; return the exit code."""
    for line in clashes(ROOT):
        sys.stderr.write(f"warning: {line}\n")
    from run_pipeline import main

    return main()


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
    sys.exit(command())
