"""Writes lists of recommended items as CSV, JSON lines or Parquet, part by part, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from uuid import uuid4

import polars as pl

from features.atomic import fsync_file, put_in_place
from features.errors import ConfigError, StoreError
from features.paths import write_advice

ENDINGS = (".parquet", ".csv", ".jsonl")
Write = Callable[[pl.DataFrame], None]


def check_ending(path: Path) -> None:
    """Raise ConfigError for a file name that says no format."""
    if path.suffix not in ENDINGS:
        raise ConfigError(f"--out is {path}; its name must end in one of {', '.join(ENDINGS)}")
    if path.is_dir():
        raise ConfigError(f"--out is {path}, which is a folder; give the name of a file")


@contextmanager
def writing(path: Path) -> Iterator[Write]:
    """Yield a function that adds rows to a file, which gets its name when all rows are in it.

    Args:
        path: the file; its ending is one of `ENDINGS`.

    Raises:
        ConfigError: another ending.
        StoreError: the file cannot be written. An older file of that name stays as it was.
    """
    check_ending(path)
    parts = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        parts.mkdir(parents=True)
        whole = parts / f"whole{path.suffix}"
        yield _parquet_parts(parts) if path.suffix == ".parquet" else _lines(whole)
        if path.suffix == ".parquet":
            pl.scan_parquet(sorted(parts.glob("part-*.parquet"))).sink_parquet(whole)
        fsync_file(whole)
        put_in_place(whole, path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"cannot write {path} ({error}); {_advice(error)}") from error
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def _advice(error: Exception) -> str:
    return write_advice(error) if isinstance(error, OSError) else "free some disk space and try again"


def _parquet_parts(folder: Path) -> Write:
    number = count()

    def write(rows: pl.DataFrame) -> None:
        rows.write_parquet(folder / f"part-{next(number):09}.parquet")

    return write


def _lines(path: Path) -> Write:
    def write(rows: pl.DataFrame) -> None:
        with path.open("ab") as handle:
            if path.suffix == ".csv":
                rows.write_csv(handle, include_header=not handle.tell())
            else:
                rows.write_ndjson(handle)

    return write
