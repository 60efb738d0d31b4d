"""One run at a time on a feature file, on whatever machine; a second one hears who is at work.

The lock is a claim (claims.py) beside the file: it goes away with the process that holds it, at once on this
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
    """Who is at work."""

    target: Path
    """The feature file."""
    host: str = ""
    """Name of the machine; '' where it is not told yet."""
    process: str = ""
    """Its number there."""
    since: str = ""
    """Local time there."""
    run: str = ""
    """What it makes: equal in runs that make the same files."""

    def __str__(self) -> str:
        """Return 'process 7 on host, since 2026-01-01 10:00:00,'."""
        return f"process {self.process} on {self.host}, since {self.since}," if self.host else "another process"


class RunLock:
    """The turn to work on some feature files: all of them or none.

    Args:
        targets: the files.
        run: told to others, see `Owner`.
        stale_s: seconds without a sign of life after which an owner on another machine counts as dead.
    """

    def __init__(self, targets: Sequence[Path], run: str, *, stale_s: float = STALE_S) -> None:
        self._targets = sorted(targets)
        self._told = {"run": run, "since": datetime.now(UTC).astimezone().isoformat(" ", "seconds")}
        self._stale_s = stale_s
        self._held = ExitStack()

    def take(self) -> Owner | None:
        """Take the turn; None when it is ours, or who has it."""
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
        """Wait until the turn is ours."""
        while self.take() is not None:
            time.sleep(POLL_S)

    def release(self) -> None:
        """Give the turn back."""
        self._held.close()


def _owner(target: Path, told: Mapping[str, object]) -> Owner:
    if not {"host", "process", "since", "run"} <= told.keys():
        return Owner(target)  # its claim is being written
    return Owner(target, str(told["host"]), str(told["process"]), str(told["since"]), str(told["run"]))
