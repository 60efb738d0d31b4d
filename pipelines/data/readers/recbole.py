"""RecBole's atomic files: tables with typed columns such as `user_id:token`.

`NAME.inter` holds the interactions; or `NAME.train.inter`, `NAME.valid.inter` and `NAME.test.inter` do (RecBole's
`benchmark_filename`), whose split is taken as given. `NAME.item` may hold titles.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from features.errors import ConfigError
from pipelines.data.dataset import FILE_SPLIT, Dataset, Reader, subfolder, typed_interactions, unique_titles
from pipelines.data.tables import NO_TIME, PART_WORDS, Columns, find_column, first_line, ids_of, read_table

HISTORY = "item_id_list:token_seq"


def _inter(folder: Path) -> list[Path]:
    """Return NAME.inter, or the files of its parts; nothing if the folder has none with typed columns.

    Raises:
        ConfigError: there are several datasets, a dataset both whole and in parts, a part twice, or no training part.
    """
    files = [path for path in sorted(folder.glob("*.inter")) if ":token" in first_line(path)]
    parts = [path for path in files if _part(path) is not None]
    whole = [path for path in files if "." not in path.stem]
    names = sorted({_name(path) for path in [*whole, *parts]})
    if len(names) > 1:
        first = [next(path.name for path in [*whole, *parts] if _name(path) == name) for name in names[:2]]
        raise ConfigError(f"{folder} holds {first[0]} and {first[1]}; keep one dataset per folder")
    if whole and parts:
        raise ConfigError(
            f"{folder} can be read as {whole[0].name} (no split) or as {' and '.join(path.name for path in parts)} (a "
            "given split); move one of them elsewhere"
        )
    numbers = [_part(path) for path in parts]
    if parts and (0 not in numbers or len(set(numbers)) < len(numbers)):
        told = ", ".join(path.name for path in parts)
        raise ConfigError(
            f"{folder} holds {told}; a given split has one file for each of train, valid and test: add or rename them, "
            f"or give one {names[0]}.inter"
        )
    return whole or parts


def _name(path: Path) -> str:
    return path.name.partition(".")[0] if _part(path) is None else path.stem.rpartition(".")[0]


def _part(path: Path) -> int | None:
    """Return which part NAME.part.inter holds, 0, 1 or 2; None if it is no such name."""
    return PART_WORDS.get(path.stem.rpartition(".")[2].lower()) if "." in path.stem else None


def _detect(folder: Path) -> str | None:
    files = _inter(folder)
    return f"{', '.join(path.name for path in files)} with typed columns" if files else None


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


def _interactions(files: list[Path], names: Columns) -> tuple[pl.DataFrame, str]:
    tables = [read_table(path, header=not names.numbered) for path in files]
    for path, table in zip(files, tables, strict=True):
        if HISTORY in table.columns:
            raise ConfigError(
                f"{path} holds a history in every row ({HISTORY}), as RecBole's files for sequential models do, and "
                "not interactions; give the files without that column"
            )
    if len(files) == 1 and _part(files[0]) is None:
        return typed_interactions(tables[0], files[0], names)
    marked = [
        table.with_columns(pl.lit(str(_part(path))).alias(FILE_SPLIT))
        for path, table in zip(files, tables, strict=True)
    ]
    try:
        whole = pl.concat(marked)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(
            f"{' and '.join(path.name for path in files)} differ in their columns; make them agree"
        ) from error
    return typed_interactions(whole, files[0], replace(names, split=FILE_SPLIT))


def _read(folder: Path, names: Columns) -> Dataset:
    files = _inter(folder)
    if not files:
        raise ConfigError(f"{folder} holds no NAME.inter with typed columns")
    name = _name(files[0])
    items = folder / f"{name}.item"
    interactions, told = _interactions(files, names)
    found = ", ".join(path.name for path in [*files, *([items] if items.is_file() else [])])
    return Dataset(
        name=name,
        layout=f"RecBole folder: {found}{' with their split' if len(files) > 1 else ''} ({told})",
        interactions=interactions,
        titles=read_titles(items, names) if items.is_file() else {},
        videos=subfolder(folder, "videos"),
        covers=subfolder(folder, "covers"),
        timed=names.time != NO_TIME,
    )


RECBOLE = Reader("RecBole", _detect, _read)
