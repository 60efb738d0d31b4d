"""A dataset as read from a folder, whatever its layout, and the choice of the reader."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from features.errors import ConfigError, nearest
from features.paths import no_folder

COLUMNS = ("user", "item", "timestamp")


@dataclass(frozen=True)
class Dataset:
    """What a reader found.

    Attributes:
        name: dataset name; feature files carry it and are refused elsewhere.
        layout: what kind of folder it is and which files were read, one line for the user.
        interactions: columns user (str), item (str), timestamp (int64), in time order per user; may be empty for
            folders that only hold media. With a given split also part (int8): 0 train, 1 validation, 2 test.
        titles: item id -> title.
        videos: folder of `{item}.mp4` and the like, or None.
        covers: folder of `{item}.jpg` and the like, or None.
        tags: item id -> its tags, in the order of the file; items without any may be left out.
        catalog: all item ids, in order, where the folder itself says what there is; else empty.
        ordered: the file says in which order a user's interactions happened.
    """

    name: str
    layout: str
    interactions: pl.DataFrame
    titles: dict[str, str]
    videos: Path | None
    covers: Path | None
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    catalog: tuple[str, ...] = ()
    ordered: bool = True

    @property
    def given_split(self) -> bool:
        """Return whether the dataset came with a split."""
        return "part" in self.interactions.columns


@dataclass(frozen=True)
class Reader:
    """One folder layout: `detect` returns what it recognises in a folder (or None), `read` reads it."""

    name: str
    detect: Callable[[Path], str | None]
    read: Callable[[Path], Dataset]


def read_dataset(folder: Path) -> Dataset:
    """Read a dataset folder; ConfigError when no layout, or more than one, fits."""
    from pipelines.data.iisan import IISAN
    from pipelines.data.microlens import MICROLENS
    from pipelines.data.mmrec import MMREC
    from pipelines.data.plain import MEDIA, PLAIN

    if not folder.is_dir():
        raise ConfigError(f"dataset folder {folder} {no_folder(folder, 'check --data (or data.folder in the recipe)')}")
    found = [(reader, what) for reader in (MICROLENS, IISAN, MMREC, PLAIN) if (what := reader.detect(folder))]
    if not found and (what := MEDIA.detect(folder)):  # every layout may hold videos/ and covers/: alone, they are plain
        found = [(MEDIA, what)]
    if not found:
        raise ConfigError(
            f"{folder} is no dataset folder: it has neither MicroLens '*_pairs.tsv|csv', nor '*_users.tsv' with "
            "'*_items.tsv', nor MMRec's 'NAME.inter' with x_label, nor 'interactions.tsv|csv|parquet', nor videos/ or "
            "covers/; see docs/datasets.md"
        )
    if len(found) > 1:
        readings = " or ".join(f"{reader.name} ({what})" for reader, what in found)
        raise ConfigError(f"{folder} can be read as {readings}; move one of them elsewhere")
    return found[0][0].read(folder)


def subfolder(folder: Path, *names: str) -> Path | None:
    """Return the first of the named subfolders that exists."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, which may be gzipped; only line feeds (and CR before them) end a line."""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"cannot read {path}: {error}; copy it again") from error
    return [line.removesuffix("\r") for line in text.split("\n")]


def read_table(path: Path) -> pl.DataFrame:
    """Read a csv, tsv or parquet table (text columns as strings); ConfigError when it cannot be read."""
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        separator = "\t" if path.suffix in (".tsv", ".inter") else ","
        return pl.read_csv(path, separator=separator, infer_schema=False)
    except pl.exceptions.NoDataError:
        return pl.DataFrame()
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"cannot read table {path}: {reason}; check its separator, quotes and encoding") from error


def require_columns(table: pl.DataFrame, needed: tuple[str, ...], path: Path) -> None:
    """Raise ConfigError naming the first needed column that `table` lacks, and what it has."""
    for column in needed:
        if column not in table.columns:
            raise ConfigError(f"{path} has no column {column!r}; {nearest(column, table.columns)}")


def interactions_from_table(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return user, item, timestamp sorted by time within users (file order breaks ties); ConfigError on bad cells."""
    if table.width:
        require_columns(table, COLUMNS, path)
    if table.is_empty():
        raise ConfigError(f"{path} holds no interactions; one row per interaction is needed")
    whole, exact = pl.col("timestamp").cast(pl.Int64, strict=False), pl.col("timestamp").cast(pl.Float64, strict=False)
    typed = table.select(
        pl.col("user").cast(pl.String),
        pl.col("item").cast(pl.String),
        # whole numbers first: a float64 cannot tell nanoseconds apart; then, for the order alone, parts of a second
        pl.coalesce(whole, exact.floor().cast(pl.Int64, strict=False)),
        exact.alias("exact"),
    )
    bad = typed.with_row_index("row", offset=2).filter(pl.any_horizontal(pl.col(COLUMNS).is_null()))
    if not bad.is_empty():
        raise ConfigError(
            f"{path} has {len(bad)} rows with an empty cell or a timestamp that is no number, first in line "
            f"{bad['row'][0]}; repair or remove them"
        )
    return typed.sort("user", "timestamp", "exact", maintain_order=True).select(COLUMNS)


def interactions_from_sequences(path: Path) -> pl.DataFrame:
    """Read lines `user TAB item item ...` (oldest first); the timestamp is the position in the line."""
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
    """Return item -> title of (line, item, title); ConfigError naming the first item that is empty or has two rows."""
    result: dict[str, str] = {}
    for line, item, title in rows:
        if not item:
            raise ConfigError(f"{path} has a row without item id (line {line}); give it one or remove it")
        if item in result:
            raise ConfigError(f"{path} names item {item!r} twice (again in line {line}); keep one title per item")
        result[item] = title
    return result
