"""Output for people: tables, progress bars, notes and warnings. Bars are drawn on a terminal only."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from features.paths import shown

NUMBER = re.compile(r"-|[-+<]?[\d.]+( ± [\d.]+)?( [(\[][-+\d., x%]+[)\]])?")
Advance = Callable[[int, int], None]

# emoji=False: rich would turn an id such as ":smile:" into a picture
OUT = Console(soft_wrap=True, highlight=False, emoji=False)
ERR = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


def silence() -> None:
    """Stop printing lines, warnings and bars, because another process prints them."""
    OUT.quiet = ERR.quiet = True


@contextmanager
def saying_aside() -> Iterator[None]:
    """Say on standard error, inside the block, what is otherwise said on standard output: that holds only JSON."""
    OUT.stderr = True
    try:
        yield
    finally:
        OUT.stderr = False


class _Rate(ProgressColumn):
    """The column of a progress bar that shows items per second."""

    def render(self, task: Task) -> Text:
        """Return the rate, such as '12.3/s'."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s")


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """Yield `advance(done, total)`, which draws a bar with items/s and time left, and nothing without a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, disable=not sys.stderr.isatty(), transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def say(text: str = "") -> None:
    """Print one line of plain text on standard output."""
    OUT.print(escape(shown(text)))


def note(text: str) -> None:
    """Print one line on standard error, so that standard output holds only what machines read."""
    ERR.print(escape(shown(text)))


def warn(text: str) -> None:
    """Print a warning on standard error."""
    ERR.print(f"warning: {escape(shown(text))}", style="yellow")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, note: str = "") -> None:
    """Print a table, with columns of numbers aligned to the right."""
    drawn = Table(title=escape(title), title_justify="left", caption=escape(note) or None, caption_justify="left")
    for position, column in enumerate(columns):
        numbers = all(NUMBER.fullmatch(row[position]) for row in rows)
        drawn.add_column(escape(column), justify="right" if numbers else "left", overflow="fold", no_wrap=position == 0)
    for row in rows:
        drawn.add_row(*(escape(shown(cell)) for cell in row))
    # a pipe has no width: without one rich would fold rows at 80 columns
    stream = sys.stderr if OUT.stderr else sys.stdout
    Console(file=stream, highlight=False, emoji=False, width=None if stream.isatty() else 400).print(drawn)


def print_json(value: Any) -> None:
    """Print a value as JSON for machines."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    # a file name may hold bytes that are not UTF-8: write them as JSON escapes
    sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")
