"""Times of a table as dates, and dates as times of a table, whatever unit the table counts in."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from features.errors import ConfigError

# Units of a second by the largest time of a table: in seconds, milliseconds and so on, these bounds are the year 5138.
UNITS = ((1e11, 1), (1e14, 10**3), (1e17, 10**6), (float("inf"), 10**9))
FIRST_DATE_S = 10**8  # 3 March 1973; smaller numbers are not taken for dates


def unit_of(times: pl.Series) -> int | None:
    """Return how many units of the table's times make a second; None if they do not look like dates."""
    highest = int(times.to_numpy().max())
    unit = next(unit for bound, unit in UNITS if highest < bound)
    return unit if highest >= FIRST_DATE_S * unit else None


def as_time(given: int | float | str, times: pl.Series, key: str) -> int:
    """Return a cut that a recipe gives, a number or an ISO 8601 date (UTC), in the table's unit.

    Raises:
        ConfigError: the text is no date, or the table's times do not look like dates.
    """
    if not isinstance(given, str):
        return int(-(-given // 1))  # the first whole time that is not before it
    unit = unit_of(times)
    if unit is None:
        raise ConfigError(
            f"{key} is {given!r}, but the times of the interactions are numbers such as {times[0]}, which are no "
            "dates; give a number like them"
        )
    try:
        date = datetime.fromisoformat(given.strip())
    except ValueError as error:
        raise ConfigError(f"{key} is {given!r}; write a date such as 2024-01-31, or a number") from error
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    since = date - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * unit + since.microseconds * unit // 10**6


def as_date(time: int, times: pl.Series) -> str:
    """Return a time of the table as a date to the second (UTC), or as the number if the times are no dates."""
    unit = unit_of(times)
    if unit is None:
        return str(time)
    return datetime.fromtimestamp(time // unit, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
