"""How far long work is: a bar where standard error is a terminal, plain lines where it is not.

A bar is one line and never two: what does not fit is left out, the least important first, and it vanishes in the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.cells import cell_len, set_cell_size
from rich.console import RenderableType
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.console import ERR, note, quiet

LINES = 20  # without a terminal: one line per 5 %
BAR, WIDEST_BAR, TITLE = 6, 40, 8  # cells of the shortest and the longest bar, and of the shortest title
Draw = Callable[[int, int, Sequence[str]], None]


class Advance(Protocol):
    """Takes what has been done."""

    def __call__(self, done: int, total: int, failed: int = 0) -> None:
        """Show that `done` of `total` are done, `failed` of which failed in this run."""


@contextmanager
def progress(title: str, *, unit: str = "items") -> Iterator[Advance]:
    """Yield `advance(done, total, failed)`, which shows how far it is, how fast, how many failed and the time left."""
    with bar(title, unit) as draw:
        if draw is None:
            yield _Lines(title, unit)
            return

        def advance(done: int, total: int, failed: int = 0) -> None:
            draw(done, total, [f"{done}/{total}", *([f"{failed} failed"] if failed else [])])

        yield advance


@contextmanager
def bar(title: str, unit: str) -> Iterator[Draw | None]:
    """Yield `draw(done, total, parts)`, which draws a bar and, beside it, as many of the parts as find room.

    After the parts come the rate, in `unit` per second, and the time left. Yield None where no bar can be drawn.
    """
    if not sys.stderr.isatty() or ERR.is_dumb_terminal or quiet():
        yield None
        return
    # a line that goes to a pipe must not be taken for one that goes to the terminal
    shared = sys.stdout.isatty()
    with Progress(_Line(unit), console=ERR, transient=True, redirect_stdout=shared, expand=True) as bars:
        task = bars.add_task(title, total=None, parts=())
        yield lambda done, total, parts: bars.update(task, completed=done, total=total, parts=tuple(parts))


class _Line(ProgressColumn):
    """The whole line of a bar, as wide as the terminal."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> RenderableType:
        """Return title, bar and parts."""
        parts = list(task.fields["parts"])
        parts += [rate(task.speed, self.unit)] if task.speed else []
        parts += [clock(task.time_remaining)] if task.time_remaining else []
        fitted = fit_line(task.description, parts, ERR.width)
        line = Table.grid(padding=(0, 1, 0, 0))
        drawn = [ProgressBar(task.total, task.completed, width=fitted.bar)] if fitted.bar else []
        named = [Text(fitted.title)] if fitted.title else []
        line.add_row(*named, *drawn, Text(fitted.text, no_wrap=True))
        return line


@dataclass(frozen=True)
class Line:
    """A bar's line."""

    title: str
    """What is done; shortened or left out where there is no room."""
    bar: int
    """The width of the bar; 0 where there is no room for one."""
    text: str
    """The parts that stand right of the bar."""


def fit_line(title: str, parts: Sequence[str], width: int) -> Line:
    """Return what of a bar's line fits the width: first the parts, from the left, then the bar, then the title.

    >>> fit_line("train small seed 0", ["epoch 1/3", "loss 2.3", "9/s"], 44)
    Line(title='train smal…', bar=6, text='epoch 1/3  loss 2.3  9/s')
    >>> fit_line("train small seed 0", ["epoch 1/3", "loss 2.3", "9/s"], 20)
    Line(title='', bar=0, text='epoch 1/3 loss 2.3')
    """
    room, kept = width - 1, list[str]()
    for part in parts:
        if cell_len(" ".join([*kept, part])) <= room:
            kept.append(part)
    text = "  ".join(kept)
    text = text if cell_len(text) + 1 + BAR <= room else " ".join(kept)
    spare = room - cell_len(text) - 1
    if spare < BAR:
        return Line("", 0, text)
    named = min(cell_len(title), spare - BAR - 1)
    if named < min(TITLE, cell_len(title)):
        return Line("", min(WIDEST_BAR, spare), text)
    short = title if named == cell_len(title) else set_cell_size(title, named - 1) + "…"
    return Line(short, min(WIDEST_BAR, spare - named - 1), text)


class _Lines:
    """One line on standard error for every 5 %."""

    def __init__(self, title: str, unit: str) -> None:
        self.title, self.unit = title, unit
        self.last, self.at_first, self.total = 0, 0, 0
        self.began = time.perf_counter()

    def __call__(self, done: int, total: int, failed: int = 0) -> None:
        """Print a line if another 5 % are done."""
        now = time.perf_counter()
        if total != self.total or done < self.at_first:  # the first call, or other work: rows made before are not ours
            self.total, self.at_first, self.began, self.last = total, done, now, done * LINES // max(total, 1)
            return
        step = done * LINES // max(total, 1)
        if step <= self.last:
            return
        self.last = step
        rest = ""
        if now > self.began and done > self.at_first:
            speed = (done - self.at_first) / (now - self.began)
            left = f", {clock((total - done) / speed)} left" if done < total else ""
            rest = f", {rate(speed, self.unit)}{left}"
        note(f"{self.title}: {done} of {total} {self.unit} ({100 * done // total} %), {failed} failed{rest}")


def rate(speed: float, unit: str) -> str:
    """Return a rate for people.

    >>> rate(12.34, "items"), rate(1234.5, "steps")
    ('12.3 items/s', '1234 steps/s')
    """
    return f"{speed:.1f} {unit}/s" if speed < 100 else f"{speed:.0f} {unit}/s"


def clock(seconds: float) -> str:
    """Return a time span as hours, minutes and seconds.

    >>> clock(3723.9)
    '1:02:03'
    """
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
