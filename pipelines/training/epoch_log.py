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

LOG = "log.jsonl"


class EpochLog:
    """Writes the log of a run.

    Args:
        folder: the run folder; None writes nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / LOG

    def start(self, history: Sequence[EpochRecord]) -> None:
        """Begin with the epochs of the checkpoint: lines that a killed run wrote or did not write no longer matter."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, "".join(map(_line, history)))

    def add(self, record: EpochRecord) -> None:
        """Append an epoch; StoreError if it cannot be written."""
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as log:
                log.write(_line(record))
        except OSError as error:
            advice = write_advice(error, "make room, and the same command resumes from the last checkpoint")
            raise StoreError(f"cannot write {self.path} ({error.strerror or error}); {advice}") from error


def _line(record: EpochRecord) -> str:
    return json.dumps(asdict(record)) + "\n"
