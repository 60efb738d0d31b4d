"""The plain folder: `interactions.(tsv|csv|parquet)`, `items.(tsv|csv|parquet)`, `covers/`, `videos/`.

Each part may be missing: a folder without interactions can be extracted, one without media can be trained on.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from features.errors import ConfigError
from features.paths import shown
from pipelines.data.dataset import (
    COLUMNS,
    Dataset,
    Reader,
    interactions_from_table,
    read_table,
    require_columns,
    subfolder,
    unique_titles,
)

SUFFIXES = (".tsv", ".csv", ".parquet")


def _table(folder: Path, stem: str) -> Path | None:
    files = [folder / f"{stem}{suffix}" for suffix in SUFFIXES if (folder / f"{stem}{suffix}").is_file()]
    if len(files) > 1:
        raise ConfigError(f"{folder} holds {files[0].name} and {files[1].name}; keep one")
    return files[0] if files else None


def _detect(folder: Path) -> str | None:
    return ", ".join(path.name for stem in ("interactions", "items") if (path := _table(folder, stem))) or None


def _detect_media(folder: Path) -> str | None:
    return ", ".join(f"{name}/" for name in ("videos", "covers") if (folder / name).is_dir()) or None


def read_items(path: Path) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Read the `item` and `title` columns and, where there is one, `tags`: separated by `|`, or a list in Parquet."""
    table = read_table(path)
    require_columns(table, ("item", "title"), path)
    columns = table.select(pl.col("item", "title").cast(pl.String).fill_null(""))
    titles = unique_titles(columns.with_row_index("line", offset=2).iter_rows(), path)
    if "tags" not in table.columns:
        return titles, {}
    column = table["tags"]
    lists = column if column.dtype == pl.List(pl.String) else column.cast(pl.String).str.split("|")
    pairs = zip(columns["item"].to_list(), lists.to_list(), strict=True)
    return titles, {
        item: tuple(dict.fromkeys(tag.strip() for tag in given if tag.strip())) for item, given in pairs if given
    }


def _read(folder: Path) -> Dataset:
    interactions, items = _table(folder, "interactions"), _table(folder, "items")
    titles, tags = read_items(items) if items else ({}, {})
    empty = pl.DataFrame(schema=dict(zip(COLUMNS, (pl.String, pl.String, pl.Int64), strict=True)))
    return Dataset(
        name=shown(folder.resolve().name),
        layout=f"plain folder: {', '.join(filter(None, (_detect(folder), _detect_media(folder))))}",
        interactions=interactions_from_table(read_table(interactions), interactions) if interactions else empty,
        titles=titles,
        videos=subfolder(folder, "videos"),
        covers=subfolder(folder, "covers"),
        tags=tags,
    )


PLAIN = Reader("plain", _detect, _read)
MEDIA = Reader("media", _detect_media, _read)
