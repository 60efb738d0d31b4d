"""Output for people: tables, notes and warnings. Bars and lines of progress are in pipelines/progress.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.markup import escape
from rich.table import Table

from features.paths import shown
from pipelines.table_layout import Column, fold, lay_out

# emoji=False: rich would turn an id such as ":smile:" into a picture
OUT = Console(soft_wrap=True, highlight=False, emoji=False)
ERR = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


@dataclass(frozen=True)
class Manner:
    """How much is shown."""

    quiet: bool = False
    """Whether progress and notes are left out."""
    wide: bool = False
    """Whether tables keep all columns side by side in a terminal that is too narrow for them."""
    aside: bool = False
    """Whether standard output holds only JSON, so that all else goes to standard error."""


_manner = Manner()


@contextmanager
def in_manner(manner: Manner) -> Iterator[None]:
    """Show things in this manner inside the block."""
    global _manner
    before, _manner = _manner, manner
    OUT.stderr = manner.aside
    try:
        yield
    finally:
        _manner = before
        OUT.stderr = before.aside


def quiet() -> bool:
    """Return whether nobody is to be told of progress: it was asked for, or another process tells it."""
    return _manner.quiet or ERR.quiet


def silence() -> None:
    """Stop printing lines, warnings and bars, because another process prints them."""
    OUT.quiet = ERR.quiet = True


def say(text: str = "") -> None:
    """Print one line of plain text on standard output."""
    # while a bar is drawn, rich takes the place of sys.stdout where that is the terminal: the line goes above the bar
    (ERR if isinstance(sys.stdout, FileProxy) else OUT).print(escape(shown(text)))


def explain(text: str) -> None:
    """Print sentences on standard output, in a terminal wrapped at blanks, so that no number is broken."""
    width = terminal_width()
    say(text if width is None else _wrapped(text, width))


def note(text: str) -> None:
    """Print a sentence on standard error, so that standard output holds only what machines read."""
    if not _manner.quiet:
        _tell(text)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    _tell(f"warning: {text}", style="yellow")


def _tell(text: str, style: str | None = None) -> None:
    ERR.print(escape(_wrapped(text, ERR.width) if sys.stderr.isatty() else shown(text)), style=style)


def _wrapped(text: str, width: int) -> str:
    """Return text wrapped at blanks; a long word, such as a path, stays whole."""
    return "\n".join(fold(shown(text), width, break_words=False))


def terminal_width() -> int | None:
    """Return the cells of a line where results go to a terminal; None where they do not, or all columns are wanted."""
    return OUT.width if _stream().isatty() and not _manner.wide else None


def _stream() -> TextIO:
    return sys.stderr if OUT.stderr else sys.stdout


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, note: str = "", keys: int = 1, full: str = ""
) -> None:
    """Print a table, with columns of numbers aligned to the right; in a terminal, as pipelines/table_layout.py fits it.

    Args:
        title: what stands above the table.
        columns: the headings.
        rows: the cells of each row.
        note: what stands below the table.
        keys: how many columns, from the left, name a row.
        full: the command that shows one row in full, which is told where columns are left out; without it none are.
    """
    width = terminal_width()
    cells = [[shown(cell) for cell in row] for row in rows]
    laid = lay_out(columns, cells, width, keys=keys, leave_out=bool(full))
    if width is None:
        _draw(laid.blocks[0], title, note)
        return
    if title:  # rich would wrap it at the width of the table, which may be narrow
        OUT.print(escape("\n".join(fold(shown(title), width))), style="table.title")
    for block in laid.blocks:
        _draw(block)
    if laid.left_out:
        explain(f"left out here: {', '.join(laid.left_out)}. `{full}` shows one in full, --wide all columns.")
    if note:
        explain(note)


def _draw(block: Sequence[Column], title: str = "", note: str = "") -> None:
    width = sum(column.width + 3 for column in block) + 1
    drawn = Table(title=escape(title) or None, title_justify="left", caption=escape(note) or None)
    drawn.caption_justify = "left"
    for column in block:
        drawn.add_column(
            escape(column.head), justify="right" if column.numbers else "left", width=column.width, no_wrap=True
        )
    for row in zip(*(column.cells for column in block), strict=True):
        drawn.add_row(*map(escape, row))
    # a console of its own: a pipe has no width, and for rich that means 80
    Console(file=_stream(), highlight=False, emoji=False, width=max(width, OUT.width)).print(drawn)


def print_json(value: Any) -> None:
    """Print a value as JSON for machines."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    # a file name may hold bytes that are not UTF-8: write them as JSON escapes
    sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")
