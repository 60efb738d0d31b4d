"""A lock on feature files: one run at a time, on whatever machine; a second run is told who is at work.

The lock is a claim (features/shards/claims.py) beside the file. It ends with the process that holds it: at once on this
machine, and after some minutes without a sign of life on another.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from features.shards.claims import STALE_S, Claims

POLL_S = 0.5


@dataclass(frozen=True)
class Owner:
    """The run that is at work on a feature file."""

    target: Path
    """The feature file."""
    host: str = ""
    """Name of the machine; '' while the claim is being written."""
    process: str = ""
    """Number of the process on that machine."""
    since: str = ""
    """Start of the run, in local time."""
    run: str = ""
    """Key of the run; equal in runs that make the same files."""

    def __str__(self) -> str:
        """Return 'process 7 on host, since 2026-01-01 10:00:00,'."""
        return f"process {self.process} on {self.host}, since {self.since}," if self.host else "another process"


class RunLock:
    """A lock on some feature files: on all of them or on none.

    Args:
        targets: the files.
        run: key that other runs are told, as `Owner.run`.
        stale_s: seconds without a sign of life after which an owner on another machine counts as dead.
    """

    def __init__(self, targets: Sequence[Path], run: str, *, stale_s: float = STALE_S) -> None:
        self._targets = sorted(targets)
        self._told = {"run": run, "since": datetime.now(UTC).astimezone().isoformat(" ", "seconds")}
        self._stale_s = stale_s
        self._held = ExitStack()

    def take(self) -> Owner | None:
        """Try to take the lock; return None if it is ours now, or else its owner."""
        with ExitStack() as held:
            for target in self._targets:
                claims = Claims(target.parent, stale_s=self._stale_s, told=self._told)
                name = f".{target.stem}.run"
                if not held.enter_context(claims.take(name)):
                    return _owner(target, claims.owner(name))
                claims.drop_dead(name)
            self._held = held.pop_all()
        return None

    def wait(self) -> None:
        """Wait until the lock is ours."""
        while self.take() is not None:
            time.sleep(POLL_S)

    def release(self) -> None:
        """Give the lock back."""
        self._held.close()


def _owner(target: Path, told: Mapping[str, object]) -> Owner:
    if not {"host", "process", "since", "run"} <= told.keys():
        return Owner(target)  # its claim is being written
    return Owner(target, str(told["host"]), str(told["process"]), str(told["since"]), str(told["run"]))
