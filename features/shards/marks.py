"""Marks of sources, and digests of those whose mark has changed although their bytes may be the same.

A copied dataset has other dates and the same bytes, so none of its rows is made again. Its bytes are read once, and
their digests are kept in a hidden file beside the feature files, which may be deleted at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from features.atomic import write_atomic
from features.errors import StoreError
from features.shards.claims import Claims

POLL_S = 0.5
Digest = Callable[[Sequence[int]], Sequence[str]]  # rows -> digests of their sources, '' if one cannot be read


def same_source(recorded: str, now: str) -> bool:
    """Return whether a recorded mark and that of today stand for the same source, as far as marks can tell.

    >>> same_source("size:5", "size:5:170000"), same_source("size:5:160000", "size:5:170000")
    (True, False)
    """
    # earlier versions recorded only the size
    return recorded == now or (recorded.startswith("size:") and now.startswith(f"{recorded}:"))


def without_time(mark: str) -> str:
    """Return a mark without its date, which is equal on all machines that hold copies of one dataset.

    >>> without_time("size:5:170000")
    'size:5'
    """
    return mark.rpartition(":")[0] if mark.startswith("size:") and mark.count(":") == 2 else mark


class KnownDigests:
    """Digests of sources by item id and mark, kept in a file from run to run.

    Args:
        path: the file; made when there is something to keep.
        digest: reads the sources of rows; called once, with all rows whose digest is wanted and not known.
    """

    def __init__(self, path: Path, digest: Digest) -> None:
        self._path = path
        self._digest = digest
        self._claims = Claims(path.parent)

    def of(self, rows: Sequence[int], ids: Sequence[str], marks: Sequence[str]) -> list[str]:
        """Return the digest of each row's source as it is now, '' if it cannot be read.

        `ids` and `marks` are those of the rows. If many workers ask at once, one reads and the others wait for it.
        """
        while True:
            with ExitStack() as held:
                try:
                    mine = held.enter_context(self._claims.take(self._path.name))
                except StoreError:  # nothing can be written here, so every worker reads by itself
                    mine = True
                if mine or self._all_known(ids, marks):
                    return self._of(rows, ids, marks)
            time.sleep(POLL_S)

    def _all_known(self, ids: Sequence[str], marks: Sequence[str]) -> bool:
        known = self._known()
        return all(known.get(item, ("", ""))[0] == mark for item, mark in zip(ids, marks, strict=True))

    def _of(self, rows: Sequence[int], ids: Sequence[str], marks: Sequence[str]) -> list[str]:
        known = self._known()
        pairs = list(zip(ids, marks, strict=True))
        unknown = [place for place, (item, mark) in enumerate(pairs) if known.get(item, ("", ""))[0] != mark]
        found = self._digest([rows[place] for place in unknown]) if unknown else []
        fresh = {pairs[place][0]: (pairs[place][1], digest) for place, digest in zip(unknown, found, strict=True)}
        known |= {item: kept for item, kept in fresh.items() if kept[1]}
        if fresh:
            with suppress(StoreError):  # if nothing can be written, they are read again next time
                write_atomic(self._path, json.dumps(known))
        return [known[item][1] if item in known and known[item][0] == mark else "" for item, mark in pairs]

    def _known(self) -> dict[str, tuple[str, str]]:
        try:
            held = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(item): (str(mark), str(digest)) for item, (mark, digest) in held.items()}
        except (OSError, ValueError, TypeError, AttributeError):  # absent or damaged: nothing is known
            return {}
