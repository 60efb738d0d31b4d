"""log.jsonl of a run: one line of JSON per epoch, written as soon as the epoch has ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from features.errors import StoreError
from features.paths import write_advice
from features.provenance import write_atomic
from pipelines.training.checkpoint import EpochRecord
from pipelines.training.fit import Progress

LOG = "log.jsonl"


class EpochLog:
    """Writes the log of a run.

    Args:
        folder: the run folder; None writes nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / LOG
        self._begun = False

    def hear(self, at: Progress) -> None:
        """Append an epoch that has ended; StoreError if it cannot be written.

        The first time the log begins with the epochs of the checkpoint: what a killed run wrote no longer matters.
        """
        if not self._begun:
            self.write(at.history)
        elif at.record is not None:
            self._append(at.record)

    def write(self, history: Sequence[EpochRecord]) -> None:
        """Write these epochs in place of what is there."""
        self._begun = True
        if self.path is not None:
            write_atomic(self.path, "".join(map(_line, history)))

    def _append(self, record: EpochRecord) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as log:
                log.write(_line(record))
        except OSError as error:
            advice = write_advice(error, "make room, and the same command resumes from the last checkpoint")
            raise StoreError(f"cannot write {self.path} ({error.strerror or error}); {advice}") from error


def _line(record: EpochRecord) -> str:
    return json.dumps(asdict(record)) + "\n"
