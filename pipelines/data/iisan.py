"""Amazon folders as distributed with IISAN (SIGIR 2024): `*_users.tsv[.gz]` sequences and `*_items.tsv[.gz]` titles.

Titles hold raw HTML entities (`&amp;`), which are decoded here, and quotes, which mean nothing.
"""

from __future__ import annotations

import gzip
import html
from pathlib import Path

from features.errors import ConfigError
from pipelines.data.dataset import Dataset, Reader, interactions_from_sequences, subfolder, unique_titles


def _files(folder: Path, what: str) -> Path | None:
    return next((path for pattern in (f"*_{what}.tsv", f"*_{what}.tsv.gz") for path in folder.glob(pattern)), None)


def _detect(folder: Path) -> str | None:
    users, items = _files(folder, "users"), _files(folder, "items")
    return f"{users.name} with {items.name}" if users and items else None


def read_titles(path: Path) -> dict[str, str]:
    """Read `item TAB title` lines."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as handle:
        pairs = [line.rstrip("\n").partition("\t") for line in handle if line.strip()]
    bad = next((item for item, tab, _ in pairs if not tab), None)
    if bad is not None:
        raise ConfigError(f"{path} has a line without a tab, {bad[:40]!r}; each line is: item TAB title")
    return unique_titles([item for item, _, _ in pairs], [html.unescape(title) for _, _, title in pairs], path)


def _read(folder: Path) -> Dataset:
    users, items = _files(folder, "users"), _files(folder, "items")
    if users is None or items is None:
        raise ConfigError(f"{folder} needs both *_users.tsv and *_items.tsv")
    return Dataset(
        name=items.name.split(".")[0].removesuffix("_items"),
        layout=f"IISAN folder: {users.name}, {items.name}",
        interactions=interactions_from_sequences(users),
        titles=read_titles(items),
        videos=subfolder(folder, "videos"),
        covers=subfolder(folder, "covers"),
    )


IISAN = Reader("IISAN", _detect, _read)
