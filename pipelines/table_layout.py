"""Which columns of a table stand where, given the width of the terminal. Pure functions over text, without any drawing.

A table that is too wide is not squeezed. First its texts are wrapped at blanks. If that is not enough, its numbers
are split into several blocks, one below the other, each with the names of the rows. Long texts move below the name of
their row, or are left out where the caller shows them elsewhere. No number is ever broken.

Widths are terminal cells: a letter takes one, a Chinese character two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, chop_cells

NUMBER = re.compile(r"-|[-+<]?[\d.]+( ± [\d.]+)?( [(\[][-+\d., x%]+[)\]])?")
# where a word that is wider than its column may end: never before a digit, which could split a number
PIECES = re.compile(r"(?<=[-_,=+:\]])(?![\d.])|(?<=/)")
BORDER = 3  # cells that each column adds: a line and two blanks; the table adds one more line
COMFORT, WORD, HEAD, SHORT = 24, 40, 16, 14  # widest texts, words, words of a heading and texts that are not wrapped
KEY_SHARE = 0.4  # share of the width that names of rows may take where numbers are split into blocks
INDENT = "  "


@dataclass(frozen=True)
class Column:
    """One column as it is drawn."""

    head: str
    """The heading, with a line break where it is wrapped."""
    cells: tuple[str, ...]
    """The text in each row, with a line break where it is wrapped."""
    numbers: bool
    """Whether all cells are numbers."""
    width: int
    """The width, without border."""


@dataclass(frozen=True)
class Layout:
    """A table as it is drawn."""

    blocks: tuple[tuple[Column, ...], ...]
    """Tables of the same rows, to be drawn one below the other."""
    left_out: tuple[str, ...] = ()
    """Headings of the columns that are not shown."""


@dataclass(frozen=True)
class _Draft:
    """A column whose width is not settled."""

    head: str
    cells: tuple[str, ...]
    numbers: bool
    width: int = 0

    @property
    def natural(self) -> int:
        """Return the width at which nothing is wrapped."""
        return max(map(_widest, (self.head, *self.cells)))

    @property
    def comfortable(self) -> int:
        """Return the least width at which the column is read well; no number and hardly a word is broken there."""
        if self.numbers:
            return max(*map(_widest, self.cells), min(_longest_word(self.head), HEAD), 1)
        return min(self.natural, max(COMFORT, min(max(map(_longest_word, (self.head, *self.cells))), WORD)))

    @property
    def short(self) -> bool:
        """Return whether the column holds numbers or texts too short to be wrapped."""
        return self.numbers or self.natural <= SHORT

    @property
    def empty(self) -> bool:
        """Return whether no row has anything here."""
        return all(cell in ("", "-") for cell in self.cells)

    def settled(self) -> Column:
        """Return the column with its text wrapped to its width."""
        head, *cells = ("\n".join(fold(text, self.width)) for text in (self.head, *self.cells))
        return Column(head, tuple(cells), self.numbers, self.width)


def lay_out(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, *, keys: int = 1, leave_out: bool = False
) -> Layout:
    """Choose the columns, blocks and line breaks of a table.

    Args:
        columns: the headings.
        rows: the cells of each row, as many as there are headings.
        width: cells that a line may have; None = no limit: all columns stand side by side, the empty ones too.
        keys: how many columns, from the left, name a row; they stand in every block.
        leave_out: whether long texts that find no room are left out, instead of standing below the row's name.
    """
    drafts = [_draft(head, [row[place] for row in rows]) for place, head in enumerate(columns)]
    if width is None:
        return Layout((tuple(replace(draft, width=draft.natural).settled() for draft in drafts),))
    names, others = drafts[:keys], drafts[keys:]
    if rows:
        others = [draft for draft in others if not draft.empty]
    if _total([*names, *others]) <= width:
        return Layout((_grown([*names, *others], width),))
    if leave_out:
        return _without_rest(names, others, width)
    return _in_blocks(names, others, width)


def fold(text: str, width: int, *, break_words: bool = True) -> list[str]:
    """Return text as lines of at most `width` cells, broken at blanks and, in a wider word, where it hurts least.

    Args:
        text: the text; its own line breaks stay.
        width: the most cells of a line.
        break_words: whether wider words are broken; otherwise each gets a line of its own.

    >>> fold("microlens-100k-sasrec-v at 0.1234", 16)
    ['microlens-100k-', 'sasrec-v at', '0.1234']
    """
    lines = []
    for line in text.split("\n"):
        if cell_len(line) <= width:
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip(" "))]
        room = width - len(indent)
        words = [piece for word in line.split() for piece in (_pieces(word, room) if break_words else [word])]
        lines += _packed(words, width, indent)
    return lines


def _packed(words: Sequence[str], width: int, indent: str) -> list[str]:
    lines = [indent]
    for word in words:
        joined = f"{lines[-1]} {word}" if lines[-1].strip() else lines[-1] + word
        if cell_len(joined) <= width or not lines[-1].strip():
            lines[-1] = joined
        else:
            lines.append(indent + word)
    return lines


def _pieces(word: str, width: int) -> list[str]:
    """Return a word in parts that fit, each as long as possible; a single part that does not fit is chopped."""
    if cell_len(word) <= width:
        return [word]
    parts = [""]
    for piece in PIECES.split(word):
        if cell_len(parts[-1] + piece) <= width:
            parts[-1] += piece
        else:
            parts += chop_cells(piece, width)
    return [part for part in parts if part]


def _draft(head: str, cells: Sequence[str]) -> _Draft:
    draft = _Draft(head, tuple(cells), all(NUMBER.fullmatch(cell) for cell in cells))
    return replace(draft, width=draft.comfortable)


def _total(drafts: Sequence[_Draft]) -> int:
    """Return the width of a table of these columns."""
    return sum(draft.width + BORDER for draft in drafts) + 1


def _grown(drafts: Sequence[_Draft], width: int) -> tuple[Column, ...]:
    """Return the columns with what is left of the width shared among those that wrap their text."""
    spare = width - _total(drafts)
    widths = [draft.width for draft in drafts]
    while spare > 0 and (wanting := [n for n, draft in enumerate(drafts) if widths[n] < draft.natural]):
        for place in wanting[:spare]:
            widths[place] += 1
        spare -= min(spare, len(wanting))
    return tuple(replace(draft, width=given).settled() for draft, given in zip(drafts, widths, strict=True))


def _without_rest(names: Sequence[_Draft], others: Sequence[_Draft], width: int) -> Layout:
    """Return one block of the columns that fit, taken from the left."""
    kept = list(names)
    for draft in others:
        if _total([*kept, draft]) <= width:
            kept.append(draft)
    return Layout((_grown(kept, width),), tuple(draft.head for draft in others if draft not in kept))


def _in_blocks(names: Sequence[_Draft], others: Sequence[_Draft], width: int) -> Layout:
    """Return blocks of numbers and short texts; the other texts stand below the row's name in the first block."""
    first, *more = (replace(draft, width=draft.natural) for draft in names)
    beside = [draft for draft in others if draft.short]
    widest = max((draft.width + BORDER for draft in beside), default=0)
    most = width - _total(more) - BORDER - widest
    if len(beside) > 1:
        most = min(most, int(KEY_SHARE * width))
    first = replace(first, width=min(first.natural, max(most, SHORT)))
    blocks: list[list[_Draft]] = [[]]
    for draft in beside:
        if blocks[-1] and _total([first, *more, *blocks[-1], draft]) > width:
            blocks.append([])
        blocks[-1].append(draft)
    below = [draft for draft in others if not draft.short]
    drawn = [_grown([_with_below(first, below), *more, *blocks[0]], width)]
    drawn += [_grown([first, *more, *block], width) for block in blocks[1:]]
    return Layout(tuple(drawn))


def _with_below(name: _Draft, below: Sequence[_Draft]) -> _Draft:
    """Return the column of names with the texts of each row below its name."""
    cells = [
        "\n".join([cell, *(_told(draft, row) for draft in below if draft.cells[row] not in ("", "-"))])
        for row, cell in enumerate(name.cells)
    ]
    return replace(name, cells=tuple(cells), numbers=False)


def _told(draft: _Draft, row: int) -> str:
    return "\n".join(f"{INDENT}{line}" for line in f"{draft.head}: {draft.cells[row]}".split("\n"))


def _widest(text: str) -> int:
    return max(cell_len(line) for line in text.split("\n"))


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in text.split()), default=0)
