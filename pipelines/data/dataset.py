"""A dataset as read from a folder of any layout, and what the readers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import ConfigError
from pipelines.data.tables import (
    ANY_SPLIT,
    NO_TIME,
    Columns,
    find_column,
    ids_of,
    parts_of,
    read_lines,
    read_table,
    times_of,
)

COLUMNS = ("user", "item", "timestamp")
FILE_SPLIT = "(file)"  # the split column that a reader adds to the rows of a file per part


@dataclass(frozen=True)
class Dataset:
    """The content of a dataset folder, as its reader found it."""

    name: str
    """Dataset name, which feature files carry, too."""
    layout: str
    """One line for the user: the kind of folder and the files that were read."""
    interactions: pl.DataFrame
    """Columns user (str), item (str), timestamp (int64), in time order per user. With a given split also part (int8): 0
    train, 1 validation, 2 test. Empty for folders that only hold media."""
    titles: dict[str, str]
    """Item id -> title."""
    videos: Path | None
    """Folder with `{item}.mp4` and the like, or None."""
    covers: Path | None
    """Folder with `{item}.jpg` and the like, or None."""
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Item id -> its tags, in the order of the file. Items without tags may be missing."""
    catalog: tuple[str, ...] = ()
    """All item ids, in order, if the folder itself lists them; else empty."""
    ordered: bool = True
    """Whether the file says in which order a user's interactions happened."""
    timed: bool = True
    """Whether timestamps are times, which compare between users; else they are places in a user's sequence."""
    validation_seen: bool = True
    """Whether, in a split that came with the dataset, validation rows belong to the history at test. In MMRec's they do
    not."""

    @property
    def given_split(self) -> bool:
        """Return whether the dataset came with a split."""
        return "part" in self.interactions.columns

    def counts(self) -> dict[str, int]:
        """Return the numbers of users, items and interactions, as read."""
        rows = self.interactions
        return {"users": self.users_met, "items": len(self.items_met), "interactions": len(rows)}

    @cached_property
    def users_met(self) -> int:
        """Return how many users the interactions have; streaming, which takes less memory for a large table."""
        found = self.interactions.lazy().select(pl.col("user").n_unique()).collect(engine="streaming")
        return int(found.item())

    @cached_property
    def items_met(self) -> frozenset[str]:
        """Return the items of the interactions."""
        return items_of(self.interactions)


@dataclass(frozen=True)
class Reader:
    """One folder layout."""

    name: str
    """Name of the layout, for messages."""
    detect: Callable[[Path], str | None]
    """Return what it recognises in a folder, such as file names, or None."""
    read: Callable[[Path, Columns], Dataset]
    """Read the folder."""


def items_of(table: pl.DataFrame) -> frozenset[str]:
    """Return the items of interactions; streaming, which is several times as fast on a large table."""
    found = table.lazy().select(pl.col("item").unique()).collect(engine="streaming")
    return frozenset(found.to_series().to_list())


def subfolder(folder: Path, *names: str) -> Path | None:
    """Return the first of the named subfolders that exists."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def interactions_from_table(path: Path, columns: Columns) -> tuple[pl.DataFrame, str]:
    """Return user, item and timestamp of a table file, and which column was read as what; as `typed_interactions`."""
    return typed_interactions(read_table(path, header=not columns.numbered), path, columns)


def typed_interactions(table: pl.DataFrame, path: Path, columns: Columns) -> tuple[pl.DataFrame, str]:
    """Return user, item and timestamp of a table as read, and which column was read as what.

    Rows are sorted by time within users; ties keep the order of the file. The text about columns is '' if the columns
    have our names. If `columns` names a split column, the result has `part`, too: 0 train, 1 validation, 2 test.

    Raises:
        ConfigError: no rows, a missing column, or bad cells.
    """
    if not table.width:
        raise ConfigError(f"{path} holds no interactions; one row per interaction is needed")
    names = {what: find_column(table, what, getattr(columns, what), path) for what in ("user", "item")}
    if columns.time != NO_TIME:
        names["time"] = find_column(table, "time", columns.time, path)
    if table.is_empty():
        raise ConfigError(f"{path} holds no interactions; one row per interaction is needed")
    whole = exact = pl.Series(range(len(table)), dtype=pl.Int64)
    if "time" in names:
        whole, exact = times_of(table, names["time"])
    ids = [ids_of(table, names[what], path).alias(what) for what in ("user", "item")]
    typed = pl.DataFrame([*ids, whole.alias("timestamp"), exact.alias("exact")])
    bad = typed.select(pl.any_horizontal(pl.col(COLUMNS).is_null()).arg_true()).to_series()
    if len(bad):
        line = bad[0] + (1 if columns.numbered else 2)
        raise ConfigError(
            f"{path} has {len(bad)} rows with an empty cell or a time that is neither a number nor an ISO 8601 date, "
            f"first in line {line} ({_shown(table.row(bad[0]))}); repair or remove them"
        )
    kept = [*COLUMNS]
    if columns.split is not None:
        asked = None if columns.split == ANY_SPLIT else columns.split
        names["split"] = find_column(table, "split", asked, path)
        typed, kept = typed.with_columns(parts_of(table, names["split"], path).alias("part")), [*COLUMNS, "part"]
    ours = {"user": "user", "item": "item", "time": "timestamp"}
    told = [f"{what} = {name}" for what, name in names.items() if name != ours.get(what, FILE_SPLIT)]
    told += ["no times, rows in file order"] if "time" not in names else []
    del table, ids, whole, exact  # the table's other columns go before the sort needs room
    return in_time_order(typed).select(kept), ", ".join(told)


def in_time_order(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table without the column exact, sorted by user (as text), then time; ties keep their order.

    The given table is emptied meanwhile, column by column: a large one has no room beside its sorted copy. It has no
    nulls. Its column exact orders rows of the same timestamp. polars' own sort by several columns takes four times as
    long: it compares all columns of a row at once, the text of the user among them.
    """
    groups = table.select("user").with_row_index("row").group_by("user").agg("row").sort("user")
    table.drop_in_place("user")
    user = np.repeat(np.arange(len(groups), dtype=np.uint32), groups["row"].list.len().to_numpy())
    users, rows = groups["user"].rechunk(), groups["row"].explode().to_numpy()  # rows as in the file, user after user
    del groups
    rows = rows[_by_time(user, table["timestamp"].to_numpy()[rows], table.drop_in_place("exact"), rows)]
    columns = {name: table.drop_in_place(name).rechunk().gather(rows) for name in table.columns}
    return pl.DataFrame({"user": users.gather(user).set_sorted(), **columns})


def _by_time(
    user: NDArray[np.uint32], whole: NDArray[np.int64], exact: pl.Series, rows: NDArray[np.uint32]
) -> NDArray[np.intp]:
    """Return the stable order of rows by user, time in whole units and exact time.

    Args:
        user: each row's user, ascending.
        whole: each row's time in whole units.
        exact: the exact times in the order of the file; integers where they are the whole units.
        rows: each row's place in the file.
    """
    first, last = int(whole.min()), int(whole.max())
    fractions = None if exact.dtype.is_integer() else exact.to_numpy()[rows]
    if (int(user[-1]) + 1) * (last - first + 1) < 2**63 and (fractions is None or np.array_equal(fractions, whole)):
        key = user.astype(np.int64)  # user and time as one number, made in place
        key *= last - first + 1
        key += whole
        key -= first
        return np.argsort(key, kind="stable")
    return np.lexsort((whole, user) if fractions is None else (fractions, whole, user))


def _shown(cells: Sequence[object]) -> str:
    return ", ".join("empty" if cell is None else str(cell) for cell in cells)[:80]


def interactions_from_sequences(path: Path) -> pl.DataFrame:
    """Read lines `user TAB item item ...`, oldest item first; an item's timestamp is its position in the line."""
    users: list[str] = []
    items: list[str] = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        user, tab, sequence = line.partition("\t")
        if not tab:
            raise ConfigError(f"{path} has no tab in line {number}; each line is: user TAB items, separated by spaces")
        users.append(user.strip())
        items.append(sequence)
    table = _exploded(pl.DataFrame({"user": users, "item": items}, schema={"user": pl.String, "item": pl.String}))
    if table.is_empty():
        raise ConfigError(f"{path} holds no interactions; one line per user is needed: user TAB items by spaces")
    return table


def _exploded(lines: pl.DataFrame) -> pl.DataFrame:
    return (
        lines.with_columns(pl.col("item").str.strip_chars().str.split(" "))
        .explode("item")
        .filter(pl.col("item").is_not_null() & (pl.col("item") != ""))
        .with_columns(pl.int_range(pl.len(), dtype=pl.Int64).over("user").alias("timestamp"))
        .select(COLUMNS)
        .sort("user", "timestamp", maintain_order=True)
    )


def unique_titles(rows: Iterable[tuple[int, str, str]], path: Path) -> dict[str, str]:
    """Return item -> title from rows (line, item, title); ConfigError names the first empty or repeated item id."""
    result: dict[str, str] = {}
    for line, item, title in rows:
        if not item:
            raise ConfigError(f"{path} has a row without an item id (line {line}); give it one or remove it")
        if item in result:
            raise ConfigError(f"{path} names item {item!r} twice (again in line {line}); keep one title per item")
        result[item] = title
    return result
