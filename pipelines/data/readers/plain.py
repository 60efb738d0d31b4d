"""Plain folders: a table `interactions`, a table `items`, `covers/` and `videos/`; tables end in one of `TABLES`.

Each part may be missing: features can be extracted without interactions, and training needs no media.
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
    subfolder,
    unique_titles,
)
from pipelines.data.tables import NO_TIME, TABLES, Columns, find_column, ids_of, read_table


def table_of(folder: Path, stem: str) -> Path | None:
    """Return the table of a folder with this stem; ConfigError if there are several."""
    files = [folder / f"{stem}{suffix}" for suffix in TABLES if (folder / f"{stem}{suffix}").is_file()]
    if len(files) > 1:
        raise ConfigError(f"{folder} holds {files[0].name} and {files[1].name}; keep one")
    return files[0] if files else None


def _detect(folder: Path) -> str | None:
    return ", ".join(path.name for stem in ("interactions", "items") if (path := table_of(folder, stem))) or None


def _detect_media(folder: Path) -> str | None:
    return ", ".join(f"{name}/" for name in ("videos", "covers") if (folder / name).is_dir()) or None


def read_items(path: Path, names: Columns) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return the titles and the tags of items.

    Tags come from a column `tags`, if there is one: text separated by `|`, or a list in Parquet.

    Raises:
        ConfigError: the item or title column cannot be found, or an item is empty or repeated.
    """
    table = read_table(path, header=not isinstance(names.title, int))
    # the name given for the item column may apply to the interactions only
    asked = names.item if isinstance(names.title, int) or str(names.item) in table.columns else None
    item, title = find_column(table, "item", asked, path), find_column(table, "title", names.title, path)
    given_titles = table[title].cast(pl.String).alias("title")
    columns = pl.DataFrame([ids_of(table, item, path).alias("item"), given_titles]).with_columns(pl.all().fill_null(""))
    titles = unique_titles(columns.with_row_index("line", offset=2).iter_rows(), path)
    if "tags" not in table.columns:
        return titles, {}
    column = table["tags"]
    lists = column if column.dtype == pl.List(pl.String) else column.cast(pl.String).str.split("|")
    pairs = zip(columns["item"].to_list(), lists.to_list(), strict=True)
    return titles, {
        item: tuple(dict.fromkeys(tag.strip() for tag in given if tag.strip())) for item, given in pairs if given
    }


def _read(folder: Path, names: Columns) -> Dataset:
    interactions, items = table_of(folder, "interactions"), table_of(folder, "items")
    titles, tags = read_items(items, names) if items else ({}, {})
    table, told = pl.DataFrame(schema=dict(zip(COLUMNS, (pl.String, pl.String, pl.Int64), strict=True))), ""
    if interactions:
        table, told = interactions_from_table(interactions, names)
    found = ", ".join(filter(None, (_detect(folder), _detect_media(folder))))
    return Dataset(
        name=shown(folder.resolve().name),
        layout=f"plain folder: {found}" + (f" ({told})" if told else ""),
        interactions=table,
        titles=titles,
        videos=subfolder(folder, "videos"),
        covers=subfolder(folder, "covers"),
        tags=tags,
        timed=names.time != NO_TIME,
    )


PLAIN = Reader("plain", _detect, _read)
MEDIA = Reader("media", _detect_media, _read)
