"""Read the bytes of sources whose mark has changed since their rows were made, and tell the user of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from extract.jobs.options import ExtractOptions
from extract.media.catalog import Catalog, digest
from extract.media.modality import Modality
from features.shards.marks import KnownDigests

Tell = Callable[[str], None]
STEP = 100  # sources between two updates of the progress bar


@dataclass(frozen=True)
class Telling:
    """Where to report."""

    tell: Tell | None = None
    """Called with a line for the user; None tells nobody."""
    progress: Callable[[int, int, int], None] | None = None
    """Called with (done, total, 0); None shows no progress."""


def known_digests(
    catalog: Catalog, modality: Modality, options: ExtractOptions, telling: Telling | None = None
) -> KnownDigests | None:
    """Return the digests of a catalog's files of one modality; all runs and encoders of an output folder share them.

    Return None for titles, because their marks are digests already.
    """
    if modality == "title":
        return None
    heard = telling or Telling()

    def read(rows: Sequence[int]) -> list[str]:
        if heard.tell is not None:
            heard.tell(
                f"{len(rows)} {modality}s have another date than when their rows were made: reading each once, to keep "
                "its row if its bytes are the same"
            )
        found = []
        with ThreadPoolExecutor(options.workers, thread_name_prefix="digest") as pool:
            for value in pool.map(lambda row: digest(catalog.items[row], modality), rows):
                found.append(value)
                if heard.progress is not None and len(found) % STEP == 0:
                    heard.progress(len(found), len(rows), 0)
        return found

    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", catalog.dataset).strip("-")[:80] or "dataset"
    return KnownDigests(options.out / f".{safe}.{modality}.digests.json", read)
