"""Check whether activations and pixels fit on the disk, before anything is made."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from extract.jobs.sharding import Work
from features.errors import StoreError


def announce(works: Sequence[Work]) -> list[str]:
    """Return a line per encoder whose activations or pixels are to be stored, with their size and the free space."""
    lines = []
    for work in _large(works):
        items = len(work.job.wanted.ids)
        lines.append(
            f"{work.encoder.spec.name}: {items} items x {_row_in_words(work)} = {readable(_bytes(work, items))}; "
            f"free in {work.options.out}: {readable(free_bytes(work.options.out))}"
        )
    return lines


def _row_in_words(work: Work) -> str:
    count, *rest = work.output.shape
    if work.output.pixels:
        return f"{count} {work.output.unit} x {rest[0]} x {rest[1]} pixels x 3 bytes"
    return f"{count} {work.output.unit} x {rest[0]} numbers x {work.dtype.itemsize} bytes"


def check_room(works: Sequence[Work]) -> None:
    """Raise StoreError unless the shards of activations or pixels fit on the disk beside the file made of them."""
    large = _large(works)
    if not large:
        return
    need = sum(_bytes(work, len(work.job.pending)) for work in large)
    need += max(_bytes(work, len(work.job.wanted.ids)) for work in large)  # one file is merged at a time
    out = large[0].options.out
    if need > free_bytes(out):
        smaller = "a smaller --dtype, or a smaller --top-blocks if later blocks of the encoder are smaller"
        if large[0].output.pixels:
            smaller = "or fewer --frames"
        raise StoreError(
            f"{announce(works)[0]}; the shards and the file made of them need {readable(need)} at once. Use another "
            f"--out, --items with only the items you train on, {smaller}"
        )


def _large(works: Sequence[Work]) -> list[Work]:
    return [work for work in works if work.output.unit and not work.job.unchanged]


def _bytes(work: Work, rows: int) -> int:
    return rows * work.output.numbers * work.dtype.itemsize


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk where a folder is or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def readable(count: int) -> str:
    """Return a number of bytes for people, such as '1.2 GB'."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
