"""Commands run in a pseudo-terminal of a chosen width, and what is then to be seen there."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"\x1b\[(\??\d*(?:;\d+)*)([A-Za-z])")
MARK = "=== "
# one process for all: importing torch takes longer than everything that is shown
CHILD = """
import fcntl, json, struct, sys, termios
import run_pipeline
for width, words in json.loads(sys.argv[1]):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    print(f"=== {width} {' '.join(words)}", flush=True)
    assert run_pipeline.main(words) == 0
"""


def run_in_terminal(commands: Sequence[tuple[int, Sequence[str]]], folder: Path) -> dict[tuple[int, str], str]:
    """Run commands of run_pipeline.py one after another in `folder`, in a pseudo-terminal.

    Args:
        commands: the width of the terminal and the words of each command.
        folder: the working folder.

    Returns:
        (width, words joined by blanks) -> all that was written to the terminal, on both streams.
    """
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(commands)],
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not some:
            break
        written += some
    os.close(ours)
    text = written.decode().replace("\r\n", "\n")
    assert child.wait() == 0, text
    found: dict[tuple[int, str], str] = {}
    for part in text.split(MARK)[1:]:
        first, _, rest = part.partition("\n")
        width, _, words = first.partition(" ")
        found[int(width), words] = rest
    return found


def plain(text: str) -> str:
    """Return text without colours and cursor movements."""
    return CODE.sub("", text)


def screen(text: str) -> list[str]:
    """Return the lines that a terminal shows in the end: returns, erased lines and movements up are carried out."""
    lines, row, column = [""], 0, 0
    place = 0
    while place < len(text):
        code = CODE.match(text, place)
        if code:
            amount, kind = code.groups()
            if kind == "A":
                row = max(0, row - int(amount or 1))
            elif kind == "K":
                lines[row] = "" if amount == "2" else lines[row][:column]
            place = code.end()
            continue
        sign = text[place]
        place += 1
        if sign == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif sign == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + sign + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def tables(text: str) -> list[list[list[str]]]:
    """Return the drawn tables: for each its rows of cells, the headings first; lines of one row are joined by blanks.

    A row begins where its first column does; a cell that is wrapped goes on in rows without a first cell or, below
    its name, with a first cell that is indented.
    """
    found: list[list[list[str]]] = []
    for line in text.splitlines():
        if line.startswith("┏"):
            found.append([])
        elif line.startswith(("┃", "│")):
            cells = [cell[1:-1].rstrip() for cell in re.split("[┃│]", line)[1:-1]]
            found[-1].append(cells)
    return found
