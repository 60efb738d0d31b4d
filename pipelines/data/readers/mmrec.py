"""MMRec folders: `NAME.inter`, tab separated, with userID, itemID and x_label (0 train, 1 validation, 2 test).

MMRec ids are row numbers: all items from 0 to the highest number are ranked, whether they occur or not. Features are in
`.npy` files beside it, where row r is item r; `features import --ids row` reads them.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from features.errors import ConfigError, nearest
from pipelines.data.dataset import Dataset, Reader, subfolder
from pipelines.data.tables import Columns, first_line, read_table, refuse_names

NUMBERS = {"userID": "user", "itemID": "item", "x_label": "part"}
# An itemID above a million and above 100 times the number of items is a mistake: all numbers below it would be ranked.
FAR_ID, FAR_TIMES = 1_000_000, 100


def _inter(folder: Path) -> Path | None:
    files = [path for path in sorted(folder.glob("*.inter")) if "x_label" in first_line(path).split("\t")]
    if len(files) > 1:
        raise ConfigError(f"{folder} holds {files[0].name} and {files[1].name}; keep one dataset per folder")
    return files[0] if files else None


def _detect(folder: Path) -> str | None:
    path = _inter(folder)
    return f"{path.name} with x_label" if path else None


def read_inter(path: Path) -> tuple[pl.DataFrame, bool]:
    """Return user, item, timestamp and part, in time order per user, and whether the file has times.

    Raises:
        ConfigError: a column is missing, there are no rows, an id is not a whole number from 0, an item id is far above
            the number of items, or a label is not 0, 1 or 2.
    """
    table = read_table(path)
    lacking = next((column for column in NUMBERS if column not in table.columns), None)
    if lacking is not None:
        raise ConfigError(f"{path} has no column {lacking!r}; {nearest(lacking, table.columns)}")
    if table.is_empty():
        raise ConfigError(f"{path} holds no interactions; one row per interaction is needed")
    timed = "timestamp" in table.columns
    time = pl.col("timestamp") if timed else pl.int_range(pl.len()).cast(pl.String)
    whole, exact = time.cast(pl.Int64, strict=False), time.cast(pl.Float64, strict=False)
    typed = table.select(
        *(pl.col(name).cast(pl.Int64, strict=False).alias(own) for name, own in NUMBERS.items()),
        pl.coalesce(whole, exact.floor().cast(pl.Int64, strict=False)).alias("timestamp"),
        exact.alias("exact"),
    ).with_row_index("row", offset=2)
    bad = typed.filter(pl.any_horizontal(pl.all().is_null()) | (pl.min_horizontal("user", "item") < 0))
    if not bad.is_empty():
        raise ConfigError(
            f"{path} has {len(bad)} rows whose userID, itemID, x_label or timestamp is not a number, or whose id is "
            f"below 0, first in line {bad['row'][0]}; repair or remove them"
        )
    odd = typed.filter(~pl.col("part").is_in([0, 1, 2]))
    if not odd.is_empty():
        raise ConfigError(
            f"{path} has {len(odd)} rows whose x_label is not 0, 1 or 2, first {odd['part'][0]} in line "
            f"{odd['row'][0]}; MMRec silently drops them: remove them, or label them"
        )
    _refuse_far(typed, path)
    ordered = typed.sort("user", "timestamp", "exact", maintain_order=True)
    columns = (pl.col("user", "item").cast(pl.String), pl.col("timestamp"), pl.col("part").cast(pl.Int8))
    return ordered.select(columns), timed


def _refuse_far(typed: pl.DataFrame, path: Path) -> None:
    count, last = typed["item"].n_unique(), typed.row(int(typed["item"].arg_max() or 0), named=True)
    if last["item"] > max(FAR_ID, FAR_TIMES * count):
        raise ConfigError(
            f"{path} has itemID {last['item']} in line {last['row']} but only {count} different items; MMRec's ids are "
            "row numbers, and all up to the highest are ranked: correct the id, or number the items from 0"
        )


def _read(folder: Path, names: Columns) -> Dataset:
    path = _inter(folder)
    if path is None:
        raise ConfigError(f"{folder} holds no NAME.inter with x_label")
    refuse_names(names, path, "MMRec's table")
    interactions, timed = read_inter(path)
    return Dataset(
        name=path.stem,
        layout=f"MMRec folder: {path.name} with its split{'' if timed else ', no timestamps'}",
        interactions=interactions,
        titles={},
        videos=subfolder(folder, "videos"),
        covers=subfolder(folder, "covers"),
        catalog=tuple(map(str, range(int(interactions["item"].cast(pl.Int64).to_numpy().max()) + 1))),
        ordered=timed,
        timed=timed,
        validation_seen=False,
    )


MMREC = Reader("MMRec", _detect, _read)
