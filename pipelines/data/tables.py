"""Tables as people have them: delimited text (UTF-8 or UTF-16, plain or gzipped), Parquet and JSON lines.

A table that cannot be read is refused with one line that says what is wrong and which option helps.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from features.errors import ConfigError, nearest

TABLES = (".tsv", ".csv", ".parquet", ".tsv.gz", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson")
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
NO_TIME = "none"  # given as the time column: there are no times, and rows are in each user's order
# Common names of each column, compared without case, '_' and RecBole's ':token'. A table with two of the names for one
# column is refused.
NAMES = {
    "user": ("user", "userid", "uid", "reviewerid", "visitorid"),
    "item": ("item", "itemid", "iid", "asin", "parentasin", "videoid", "movieid"),
    "time": ("timestamp", "time", "ts", "datetime", "unixreviewtime"),
    "title": ("title", "itemtitle", "movietitle", "name"),
    "split": ("split", "part", "set", "subset", "xlabel"),
}
ANY_SPLIT = "any common name"  # given as the split column: whichever has a common name
# Words for the parts of a split, compared without case: 0 training, 1 validation, 2 test.
PART_WORDS = {
    **dict.fromkeys(("train", "training", "tr", "0"), 0),
    **dict.fromkeys(("valid", "validation", "val", "dev", "1"), 1),
    **dict.fromkeys(("test", "testing", "te", "2"), 2),
}
HEAD_BYTES = 2**16  # of a file, in which its first line ends
WHOLE = 2**53  # up to here floats represent every whole number
TIMES = ("%+", "%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%d %H:%M:%S%.f%z")  # with an offset from UTC
LOCAL_TIMES = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")  # taken as UTC


@dataclass(frozen=True)
class Columns:
    """The columns of a dataset's tables: names, or numbers from 0 for tables without a header; None = a common name."""

    user: str | int | None = None
    """The user column of the interactions."""
    item: str | int | None = None
    """The item column of the interactions and of the items."""
    time: str | int | None = None
    """The time column of the interactions. 'none' if there is none and rows are in the order of events."""
    title: str | int | None = None
    """The title column of the items."""
    split: str | int | None = None
    """The column of the interactions that says train, valid or test; None = there is none, or it is not used."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    @property
    def numbered(self) -> bool:
        """Return whether a column is given by its number, which means that tables have no header."""
        return any(isinstance(name, int) for name in vars(self).values())


def parse_columns(text: str | None) -> Columns:
    """Read 'user=uid,item=vid,time=ts' or 'user=0,item=1,time=2'; ConfigError for anything else."""
    pairs = [word.partition("=") for word in text.split(",")] if text else []
    known = tuple(NAMES)
    for name, _, value in pairs:
        if name.strip() not in known or not value.strip():
            raise ConfigError(
                f"--columns is {text!r}; write e.g. user=uid,item=vid,time=ts, or user=0,item=1,time=2 for a table "
                f"without a header; known: {', '.join(known)}"
            )
    found = {name.strip(): value.strip() for name, _, value in pairs}
    return Columns(**{name: int(value) if value.isdecimal() else value for name, value in found.items()})


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark; the file may be gzipped."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"cannot read {path}: {error}; copy it again") from error
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        zeros = content[:1000].count(0) > len(content[:1000]) // 4
        looks = ", but looks like UTF-16 without a byte order mark" if zeros else ""
        raise ConfigError(
            f"{path} is not UTF-8 text{looks} ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def first_line(path: Path) -> str:
    """Return the first line of a text file in the encodings of `read_text`; what cannot be decoded is replaced."""
    with path.open("rb") as handle:
        start = handle.read(HEAD_BYTES)
    wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return start.decode("utf-16" if wide else "utf-8-sig", errors="replace").partition("\n")[0].rstrip("\r")


def refuse_names(names: Columns, path: Path, what: str) -> None:
    """Raise ConfigError where columns are named for a file whose columns are fixed."""
    given = [f"{name}={value}" for name, value in asdict(names).items() if value is not None]
    if given:
        raise ConfigError(
            f"--columns (data.columns) is {','.join(given)}, but {path.name} is {what}, whose columns are fixed; "
            "leave it out"
        )


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, read as `read_text` does; only LF or CR LF ends a line."""
    return [line.removesuffix("\r") for line in read_text(path).split("\n")]


def read_table(path: Path, *, header: bool = True) -> pl.DataFrame:
    """Read a table; cells of delimited text are strings, None where empty.

    Args:
        path: a file that ends in one of `TABLES`, or in .inter or .item, which are read as .tsv.
        header: whether the first line of delimited text holds names; else columns are named '0', '1' and so on.

    Raises:
        ConfigError: the table cannot be read.
    """
    kind = path.with_suffix("").suffix + ".gz" if path.suffix == ".gz" else path.suffix
    try:
        if kind == ".parquet":
            return pl.read_parquet(path)
        if kind.startswith((".jsonl", ".ndjson")):
            text = read_text(path).rstrip("\r\n")
            return (
                pl.read_ndjson(io.BytesIO(text.encode()), infer_schema_length=None) if text.strip() else pl.DataFrame()
            )
        return _cells(read_text(path).rstrip("\r\n"), path, header=header)
    except pl.exceptions.NoDataError:
        return pl.DataFrame()
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"cannot read table {path}: {reason}; check its separator, quotes and encoding") from error


def _cells(text: str, path: Path, *, header: bool) -> pl.DataFrame:
    first = text.lstrip("\r\n").partition("\n")[0]
    if not first.strip():
        return pl.DataFrame()
    separator = _separator(first, path)
    if '"' not in text:
        raw = io.BytesIO(text.encode())
        del text  # a large table is not held twice while it is parsed
        found = pl.read_csv(raw, separator=separator, infer_schema=False, has_header=header, quote_char=None)
        return found if header else found.rename({name: str(n) for n, name in enumerate(found.columns)})
    rows = list(_quoted(text, separator, path))
    names = rows.pop(0)[1] if header else [str(number) for number in range(len(rows[0][1]))]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path} has two columns with the same name ({', '.join(names)}); rename one")
    odd = next(((line, cells) for line, cells in rows if len(cells) > len(names)), None)
    if odd is not None:
        raise ConfigError(
            f"cannot read table {path}: line {odd[0]} has {len(odd[1])} cells, but there are {len(names)} columns; a "
            f"cell that holds {SEPARATORS[separator]} needs quotes; check its separator, quotes and encoding"
        )
    whole = [[cell or None for cell in cells] + [None] * (len(names) - len(cells)) for _, cells in rows]
    return pl.DataFrame(whole, schema=dict.fromkeys(names, pl.String), orient="row")


def _separator(first: str, path: Path) -> str:
    """Return the separator of a table's first line; if the line has none, the one that the file's name stands for."""
    own = "," if ".csv" in path.suffixes else "\t"
    counts = {separator: first.count(separator) for separator in SEPARATORS}
    return own if counts[own] or not any(counts.values()) else max(counts, key=lambda separator: counts[separator])


def _quoted(text: str, separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    r"""Yield (line, cells) of a table that holds quotes.

    In a table separated by tabs a quote is an ordinary character, as in `5" screen`, unless it opens and closes a cell.
    Other tables quote cells by RFC 4180, where a quote inside a cell is doubled. If a table does not parse that way,
    `\"` is read as a quote inside a cell, as MySQL writes it.
    """
    if separator == "\t":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip("\r"):
                yield number, [_unquoted(cell) for cell in line.removesuffix("\r").split("\t")]
        return
    csv.field_size_limit(sys.maxsize)
    try:
        yield from _parsed(text, separator)
    except csv.Error as error:
        if '\\"' not in text:
            raise ConfigError(
                f"cannot read table {path}: {error}; write a quote inside a quoted cell twice; check its separator, "
                "quotes and encoding"
            ) from error
        yield from _parsed(text.replace('\\"', '""'), separator)


def _parsed(text: str, separator: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    return [(reader.line_num, cells) for cells in reader if cells]


def _unquoted(cell: str) -> str:
    if len(cell) >= 2 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"')
    return cell


def find_column(table: pl.DataFrame, what: str, asked: str | int | None, path: Path) -> str:
    """Return the name of the column for `what` (a key of `NAMES`): the one asked for, or one with a common name.

    Raises:
        ConfigError: the column asked for does not exist, or no column has a common name, or several have.
    """
    if asked is not None:
        name = str(asked)
        if name not in table.columns:
            raise ConfigError(f"{path} has no column {name!r} for {what}; {nearest(name, table.columns)}")
        return name
    found = columns_for(table, what)
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{path} has {len(found)} columns that may be the {what}: {' and '.join(found)}; say which with --columns "
            f"{what}={found[0]} (in a recipe: data.columns.{what})"
        )
    own = NAMES[what][0]
    hint = f"name it with --columns {what}=NAME (in a recipe: data.columns.{what}=NAME)"
    if table.columns and all(_looks_like_data(name) for name in table.columns):
        hint = "if the first line is not a header, number the columns: --columns user=0,item=1,time=2"
    if what == "time":
        hint += "; if there are no times and rows are in the order of events, give time=none"
    raise ConfigError(f"{path} has no column {own!r}; {nearest(own, table.columns)}; {hint}")


def columns_for(table: pl.DataFrame, what: str) -> list[str]:
    """Return the columns with our own name for `what` (a key of `NAMES`), or else those with a common one."""
    plain = {name: name.partition(":")[0].lower().replace("_", "") for name in table.columns}
    found = [name for name, short in plain.items() if short == NAMES[what][0]]
    return found or [name for name, short in plain.items() if short in NAMES[what]]


def _looks_like_data(name: str) -> bool:
    """Return whether a cell of the header looks like data because it holds a digit."""
    return any(character.isdigit() for character in name)


def ids_of(table: pl.DataFrame, column: str, path: Path) -> pl.Series:
    """Return a column of ids as text; whole numbers stored as floats lose their '.0'.

    Raises:
        ConfigError: a number has a fraction or is too large to be exact, or the values are not ids, such as lists.
    """
    ids = table[column]
    if ids.dtype.is_float() or ids.dtype.is_decimal():
        values = ids.cast(pl.Float64).fill_nan(None)
        odd = values.filter(values.is_not_null() & ((values != values.floor()) | (values.abs() >= WHOLE)))
        if len(odd):
            raise ConfigError(
                f"{path} column {column!r} of type {ids.dtype} holds {len(odd)} numbers that cannot be ids, first "
                f"{odd[0]!r}; write ids as text or whole numbers"
            )
        return values.cast(pl.Int64).cast(pl.String)
    if ids.dtype.is_nested() or ids.dtype == pl.Binary:
        raise ConfigError(
            f"{path} column {column!r} holds {ids.dtype}, which cannot be ids; write ids as text or whole numbers"
        )
    return ids.cast(pl.String)


def times_of(table: pl.DataFrame, column: str) -> tuple[pl.Series, pl.Series]:
    """Return times as int64, and as float64 to order fractions of a second; null where a cell is not a time.

    Where all times are whole numbers, both are the same int64. Numbers stay as they are, whatever their unit. ISO 8601
    dates become microseconds since 1970; dates without an offset count as UTC.
    """
    times = table[column]
    if times.dtype == pl.String or times.dtype.is_integer():
        whole = times.cast(pl.Int64, strict=False)
        if not whole.has_nulls():
            return whole, whole
    if times.dtype == pl.String:
        numbers = times.str.strip_chars().cast(pl.Float64, strict=False)
        if numbers.is_null().all() and times.is_not_null().any():
            times = _dates(times.str.strip_chars())
            return times, times.cast(pl.Float64)
    # Whole numbers come first: float64 cannot tell nanoseconds apart. Fractions of a second only serve the order.
    whole, exact = times.cast(pl.Int64, strict=False), times.cast(pl.Float64, strict=False)
    if times.dtype.is_float():
        whole = exact.floor().cast(pl.Int64, strict=False)
    return pl.select(pl.coalesce(whole, exact.floor().cast(pl.Int64, strict=False))).to_series(), exact


def parts_of(table: pl.DataFrame, column: str, path: Path) -> pl.Series:
    """Return a split column as int8: 0 training, 1 validation, 2 test; ConfigError for any other word."""
    words = table[column].cast(pl.String, strict=False).str.strip_chars().str.to_lowercase()
    parts = words.replace_strict(PART_WORDS, default=None, return_dtype=pl.Int8)
    bad = parts.is_null()
    if bad.any():
        shown = table[column].filter(bad)[0]
        raise ConfigError(
            f"{path} column {column!r} holds {bad.sum()} cells that name no part of a split, first {shown!r}; known: "
            f"{', '.join(PART_WORDS)}"
        )
    return parts


def _dates(times: pl.Series) -> pl.Series:
    text = pl.lit(times)
    zoned = [text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False) for form in TIMES]
    local = [text.str.to_datetime(form, time_unit="us", strict=False) for form in LOCAL_TIMES]
    day = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    whole = [date.dt.replace_time_zone("UTC") for date in [*local, day]]
    return pl.select(pl.coalesce([*zoned, *whole]).cast(pl.Int64)).to_series()
