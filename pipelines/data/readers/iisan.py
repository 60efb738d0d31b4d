"""Amazon folders as distributed with IISAN (SIGIR 2024): `*_users.tsv[.gz]` sequences and `*_items.tsv[.gz]` titles.

HTML entities in titles (`&amp;`) are decoded. Quotes have no special meaning.
"""

from __future__ import annotations

import html
from pathlib import Path

from features.errors import ConfigError
from pipelines.data.dataset import Dataset, Reader, interactions_from_sequences, subfolder, unique_titles
from pipelines.data.tables import Columns, read_lines, refuse_names


def _files(folder: Path, what: str) -> Path | None:
    # IISAN also distributes subsets of some thousand users, as *_users_10K.tsv
    for pattern in (f"*_{what}.tsv", f"*_{what}.tsv.gz", f"*_{what}_*.tsv", f"*_{what}_*.tsv.gz"):
        files = sorted(folder.glob(pattern))
        if len(files) > 1:
            raise ConfigError(f"{folder} holds {files[0].name} and {files[1].name}; keep one dataset per folder")
        if files:
            return files[0]
    return None


def _detect(folder: Path) -> str | None:
    users, items = _files(folder, "users"), _files(folder, "items")
    return f"{users.name} with {items.name}" if users and items else None


def read_titles(path: Path) -> dict[str, str]:
    """Read lines `item TAB title`; ConfigError for a line without a tab and for an empty or repeated item."""
    pairs = [(number, *line.partition("\t")) for number, line in enumerate(read_lines(path), start=1) if line.strip()]
    bad = next((item for _, item, tab, _ in pairs if not tab), None)
    if bad is not None:
        raise ConfigError(f"{path} has a line without a tab: {bad[:40]!r}; write each line as: item TAB title")
    return unique_titles([(number, item, html.unescape(title)) for number, item, _, title in pairs], path)


def _read(folder: Path, names: Columns) -> Dataset:
    users, items = _files(folder, "users"), _files(folder, "items")
    if users is None or items is None:
        raise ConfigError(f"{folder} needs both *_users.tsv and *_items.tsv")
    refuse_names(names, users, "a file of sequences")
    return Dataset(
        name=items.name.split(".")[0].rpartition("_items")[0],
        layout=f"IISAN folder: {users.name}, {items.name}",
        interactions=interactions_from_sequences(users),
        titles=read_titles(items),
        videos=subfolder(folder, "videos"),
        covers=subfolder(folder, "covers"),
        timed=False,
    )


IISAN = Reader("IISAN", _detect, _read)
