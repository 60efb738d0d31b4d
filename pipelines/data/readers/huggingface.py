"""Dataset repositories of Hugging Face as they lie on disk, and folders that `datasets` saved. Nothing is downloaded.

- A repository: tables whose names say the split, such as `data/train-00000-of-00003.parquet` or `test.csv`, or tables
  that the `configs` of README.md name. The config with users is the interactions; one with titles, but no users, names
  the items, as a table `items` of a plain folder does.
- A saved folder (`save_to_disk`): `state.json` with `data-*.arrow`, or `dataset_dict.json` with one such folder per
  split.

Splits called train, validation and test are taken as a given split; a single split, whatever it is called, is all
interactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from features.errors import ConfigError
from features.paths import shown
from pipelines.data.dataset import FILE_SPLIT, Dataset, Reader, subfolder, typed_interactions, unique_titles
from pipelines.data.readers.hub_files import Config, configs_of, refuse_lacking
from pipelines.data.readers.plain import read_items, table_of
from pipelines.data.tables import NAMES, NO_TIME, PART_WORDS, Columns, find_column, ids_of, read_table

POINTER = b"version https://git-lfs"


def _detect(folder: Path) -> str | None:
    return "; ".join(map(str, configs_of(folder))) or None


def _table(files: Sequence[Path], columns: Columns) -> pl.DataFrame:
    """Return the rows of files, one after another.

    Raises:
        ConfigError: a file is missing or cannot be read, or the files differ in their columns.
    """
    refuse_lacking(files)
    tables = []
    for path in files:
        if not path.is_file():
            raise ConfigError(f"{path} does not exist; copy the dataset again")
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise ConfigError(f"{path} is a pointer of Git LFS, not the data; run `git lfs pull` in its folder")
        tables.append(_arrow(path) if path.suffix == ".arrow" else read_table(path, header=not columns.numbered))
    try:
        return pl.concat(tables, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"{files[0]} and {len(files) - 1} others differ in their columns; make them agree") from error


def _arrow(path: Path) -> pl.DataFrame:
    try:
        return pl.read_ipc_stream(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigError(f"cannot read {path}: {error}; save the dataset again with save_to_disk") from error


def _of_interactions(configs: Sequence[Config], names: Columns, folder: Path) -> tuple[Config, Config | None]:
    """Return the config of the interactions, and that of the items if there is one.

    Raises:
        ConfigError: no config has users and items, or several have.
    """
    if len(configs) == 1:
        return configs[0], None
    headers = {config.name: _header(config) for config in configs}
    with_items = [one for one in configs if _has(headers[one.name], "item", names)]
    with_users = [one for one in with_items if _has(headers[one.name], "user", names)]
    if len(with_users) != 1:
        among = with_users or configs
        what = "can be read as" if with_users else "has no config with users and items, but"
        raise ConfigError(
            f"{folder} {what} {' or as '.join(map(str, among))}; leave one with interactions under `configs` in "
            "README.md, or give a folder with its files alone"
        )
    titled = [one for one in with_items if one not in with_users and _has(headers[one.name], "title", names)]
    return with_users[0], titled[0] if len(titled) == 1 else None


def _header(config: Config) -> list[str]:
    path = next(iter(config.splits.values()))[0]
    try:
        return list(pl.read_parquet_schema(path)) if path.suffix == ".parquet" else read_table(path).columns
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigError(f"cannot read table {path}: {error}; copy it again") from error


def _has(header: Sequence[str], what: str, names: Columns) -> bool:
    asked = getattr(names, what)
    plain = [name.lower().replace("_", "") for name in header]
    return str(asked) in header if asked is not None else any(name in NAMES[what] for name in plain)


def _interactions(config: Config, names: Columns) -> tuple[pl.DataFrame, str]:
    """Return the interactions of a config, with their parts if its splits are parts.

    Raises:
        ConfigError: there are several splits, and one of them is no part.
    """
    tables = {split: _table(files, names) for split, files in config.splits.items()}
    first = next(iter(config.splits.values()))[0]
    if len(tables) == 1:
        return typed_interactions(next(iter(tables.values())), first, names)
    odd = next((split for split in tables if split.lower() not in PART_WORDS), None)
    if odd is not None:
        raise ConfigError(
            f"{first.parent} has splits {', '.join(tables)}; {odd!r} is neither train, validation nor test: give a "
            "folder with one split, or with these three"
        )
    marked = [table.with_columns(pl.lit(split.lower()).alias(FILE_SPLIT)) for split, table in tables.items()]
    try:
        whole = pl.concat(marked, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"the splits {', '.join(tables)} of {first.parent} differ in their columns") from error
    return typed_interactions(whole, first, replace(names, split=FILE_SPLIT))


def _titles(config: Config, names: Columns) -> dict[str, str]:
    """Return item -> title of a config; an item of several splits or shards may stand once only."""
    files = tuple(path for paths in config.splits.values() for path in paths)
    table = _table(files, names)
    asked = names.item if str(names.item) in table.columns else None
    item, title = find_column(table, "item", asked, files[0]), find_column(table, "title", names.title, files[0])
    rows = zip(
        ids_of(table, item, files[0]).to_list(), table[title].cast(pl.String).fill_null("").to_list(), strict=True
    )
    return unique_titles([(line, one or "", text) for line, (one, text) in enumerate(rows, start=1)], files[0])


def _read(folder: Path, names: Columns) -> Dataset:
    interactions, items = _of_interactions(configs_of(folder), names, folder)
    rows, told = _interactions(interactions, names)
    table = table_of(folder, "items")
    titles, tags = read_items(table, names) if table else (_titles(items, names) if items else {}, {})
    named = table.name if table else items
    found = f"{interactions}" + (f"; titles of {named}" if named else "")
    return Dataset(
        name=shown(folder.resolve().name),
        layout=f"Hugging Face folder: {found}{', with their split' if 'part' in rows.columns else ''} ({told})",
        interactions=rows,
        titles=titles,
        tags=tags,
        videos=subfolder(folder, "videos"),
        covers=subfolder(folder, "covers"),
        timed=names.time != NO_TIME,
    )


HUGGING_FACE = Reader("Hugging Face", _detect, _read)
