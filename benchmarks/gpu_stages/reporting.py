"""What a stage finds: rows, goals, what was left out. Written to its JSON after every change, so nothing found is lost.

The file holds `stage`, `title`, `tiny`, `seconds`, `facts`, `tables` (title -> rows, each a mapping from column to
value), `goals`, `left_out` (lines) and `profiles` (name -> operators).
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST = 300  # characters of an error that are kept


class TimeIsOver(Exception):  # noqa: N818
    """Raised by a row for which the stage has no time left."""


class Budget:
    """The seconds of a stage; rows ask for their share."""

    def __init__(self, seconds: float, row_s: float) -> None:
        """Take the seconds of the stage, and those of a row at most."""
        self.seconds, self._row_s, self._end = seconds, row_s, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def share(self, rows: float) -> float:
        """Return the seconds of one of `rows` rows that still come; TimeIsOver if next to nothing is left."""
        if self.left < 0.02 * self.seconds:
            raise TimeIsOver(f"not measured: the stage's {self.seconds:.0f} s were over")
        return min(self._row_s, self.left / max(rows, 1.0))


class Report:
    """The result of one stage, kept in a file."""

    def __init__(self, path: Path, stage: str, title: str, *, tiny: bool) -> None:
        self._path, self._began = path, time.monotonic()
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.goals: list[dict[str, Any]] = []
        self.profiles: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}
        self.left_out: list[str] = []
        self._head = {"stage": stage, "title": title, "tiny": tiny}

    @contextmanager
    def row(self, table: str, name: str) -> Iterator[dict[str, Any]]:
        """Yield a row to fill. What fails inside becomes one line under `left_out`, and the next row comes."""
        found: dict[str, Any] = {"row": name}
        try:
            yield found
        except TimeIsOver as error:
            self._leave_out(found, name, str(error))
        except ModuleNotFoundError as error:
            self._leave_out(found, name, f"needs {error.name}, which is not installed")
        except Exception as error:
            self._leave_out(found, name, one_line(error))
        if len(found) > 1:
            self.tables.setdefault(table, []).append(found)
        free_memory()
        self.save()

    def _leave_out(self, found: dict[str, Any], name: str, why: str) -> None:
        if len(found) > 1:
            found["note"] = "; ".join(filter(None, [str(found.get("note", "")), "broken off"]))
        self.left_out.append(f"{name}: {why}")

    def goal(self, text: str, value: float, limit: float, *, at_most: bool, unit: str = "") -> bool:
        """Add a goal beside what was measured; return whether it is met."""
        met = value <= limit if at_most else value >= limit
        bound = "at most" if at_most else "at least"
        self.goals.append({"goal": text, "value": value, "bound": bound, "limit": limit, "unit": unit, "met": met})
        self.save()
        return met

    def save(self) -> None:
        """Write all that was found so far, whole or not at all."""
        seconds = time.monotonic() - self._began
        found = {"tables": self.tables, "goals": self.goals, "left_out": self.left_out, "profiles": self.profiles}
        text = json.dumps(self._head | {"seconds": seconds, "facts": self.facts} | found, indent=1)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(self._path)


def one_line(error: BaseException) -> str:
    """Return the kind and the first line of an error."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"[:MOST]


def free_memory() -> None:
    """Give the card's memory back that a row or a failed try has left behind."""
    import torch

    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
