"""RecBole's atomic files: tables whose header says `name:type`, and what its reader cannot hold.

RecBole 1.2.1 reads them with pandas: a quote at the start of a cell opens a quoted one, and words such as 'NA' are
missing values. Cells of a sequence are separated by spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

USER, ITEM, TIME, HISTORY = "user_id:token", "item_id:token", "timestamp:float", "item_id_list:token_seq"
TITLE, VECTOR_ID, VECTOR = "item_title:token_seq", "iid", "item_emb"
TYPES = ("token", "token_seq", "float", "float_seq")
PARTS = ("train", "valid", "test")
SEQUENCES = "_sequences"  # after a part's name: rows with their histories, for sequential models
# What pandas takes for a missing value, which RecBole then drops or turns into its padding.
MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA")
) | {"NULL", "NaN", "None", "n/a", "nan", "null"}
UNSAFE = re.compile(r"[\s\"\x00]")  # ends a cell, a line or an entry of a sequence, or opens a quoted cell
PADDING = "[PAD]"  # RecBole's own item 0


def safe(token: str) -> bool:
    """Return whether an id can stand in an atomic file as it is.

    >>> [safe(one) for one in ("00017", "my clip", "NA", "[PAD]")]
    [True, False, False, False]
    """
    return token not in MISSING and token != PADDING and not UNSAFE.search(token)


def words(title: str) -> str:
    """Return a title as a sequence of words: without tabs, line breaks and double quotes.

    >>> words('a "big"\\tcat')
    "a 'big' cat"
    """
    return " ".join(title.replace('"', "'").replace("\x00", " ").split())


def write_atomic_file(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write an atomic file; its cells hold no tab and no line break."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(header) + "\n")
        file.writelines("\t".join(row) + "\n" for row in rows)


def read_atomic_file(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of an atomic file, cells as text.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, or it is empty.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    if not lines[0]:
        raise ValueError("it is empty")
    return lines[0].split("\t"), [line.split("\t") for line in lines[1:] if line]
