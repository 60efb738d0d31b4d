"""RecBole's atomic files: `NAME.inter` with typed columns such as `user_id:token`; `NAME.item` may hold titles."""

from __future__ import annotations

from pathlib import Path

from features.errors import ConfigError
from pipelines.data.dataset import Dataset, Reader, interactions_from_table, subfolder, unique_titles
from pipelines.data.tables import Columns, find_column, ids_of, read_table


def _inter(folder: Path) -> Path | None:
    files = [path for path in sorted(folder.glob("*.inter")) if ":token" in _header(path)]
    if len(files) > 1:
        raise ConfigError(f"{folder} holds {files[0].name} and {files[1].name}; keep one dataset per folder")
    return files[0] if files else None


def _header(path: Path) -> str:
    with path.open("rb") as handle:
        return handle.readline().decode("utf-8-sig", errors="replace")


def _detect(folder: Path) -> str | None:
    path = _inter(folder)
    return f"{path.name} with typed columns" if path else None


def read_titles(path: Path, names: Columns) -> dict[str, str]:
    """Return item -> title from `NAME.item`; empty if it has no title column."""
    table = read_table(path)
    try:
        title = find_column(table, "title", names.title, path)
    except ConfigError:
        if names.title is not None:
            raise
        return {}
    item = find_column(table, "item", None, path)
    rows = zip(ids_of(table, item, path).to_list(), table[title].fill_null("").to_list(), strict=True)
    return unique_titles([(line, one or "", text) for line, (one, text) in enumerate(rows, start=2)], path)


def _read(folder: Path, names: Columns) -> Dataset:
    path = _inter(folder)
    if path is None:
        raise ConfigError(f"{folder} holds no NAME.inter with typed columns")
    items = path.with_suffix(".item")
    interactions, told = interactions_from_table(path, names)
    return Dataset(
        name=path.stem,
        layout=f"RecBole folder: {path.name}{f', {items.name}' if items.is_file() else ''} ({told})",
        interactions=interactions,
        titles=read_titles(items, names) if items.is_file() else {},
        videos=subfolder(folder, "videos"),
        covers=subfolder(folder, "covers"),
    )


RECBOLE = Reader("RecBole", _detect, _read)
