"""A report on a dataset before training: counts, repeated rows, ties in time, and how titles and media join items.

Letters: U users, I items, E interactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipelines.console import explain, note, say, table, warn
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset

TIED_SHARE = 0.01  # share of users from which ties that decide targets are worth a warning
LEAST_JOINED = 0.5  # share of the smaller side: a join that finds less probably compares two kinds of ids


@dataclass(frozen=True)
class Joined:
    """How the ids of titles, videos or covers join the items of the interactions."""

    what: str
    """'titles', 'videos' or 'covers'."""
    items: int
    """How many items of the interactions have one."""
    others: int
    """How many ids have one but occur in no interaction."""
    example: str
    """An item of the interactions that has none, or ''."""
    other_example: str
    """An id that has one but occurs in no interaction, or ''."""


@dataclass(frozen=True)
class DataReport:
    """Counts of a dataset, and signs of trouble in it."""

    layout: str
    """How the folder was read."""
    users: int
    """U, the number of users."""
    items: int
    """I, the number of items in the interactions."""
    interactions: int
    """E, the number of interactions."""
    repeats: int
    """Rows whose user and item occur in an earlier row."""
    duplicates: int
    """Rows whose user, item and time occur in an earlier row."""
    tied_tests: int
    """Users whose last interaction has the same time as one with another item. File order then decides which of the two
    is the test target."""
    tied_valids: int
    """Users whose last interaction but one, the validation target, has the same time as one with another item."""
    lengths: tuple[int, float, float, int]
    """Interactions per user: least, median, mean, most."""
    given_split: bool
    """Whether the dataset came with a split, in which times decide nothing."""
    joined: tuple[Joined, ...]
    """How titles, videos and covers join the items, as far as the dataset has them."""

    @property
    def line(self) -> str:
        """Return the report on one line."""
        lowest, median, _, most = self.lengths
        parts = [
            f"{self.users} users, {self.items} items, {self.interactions} interactions",
            f"{lowest} to {most} per user (median {median:g})",
            f"{self.repeats} repeats",
            *([] if self.given_split else [f"{self.tied_tests} test targets tied in time"]),
            *(f"{joined.what} of {joined.items}" for joined in self.joined),
        ]
        return "data: " + ", ".join(parts)

    def warnings(self) -> list[str]:
        """Return what makes results doubtful, each with what to do about it."""
        found = []
        if self.duplicates:
            found.append(
                f"{self.duplicates} of {self.interactions} interactions repeat the user, item and time of another "
                "row: targets may be items just seen; data.repeats=first keeps one of each"
            )
        tied = max(self.tied_tests, self.tied_valids)
        if tied >= max(1, TIED_SHARE * self.users) and not self.given_split:
            found.append(
                f"the test target of {self.tied_tests} of {self.users} users, and the validation target of "
                f"{self.tied_valids}, has the same time as another item: file order decides which is the target, and a "
                "file sorted by item or popularity gives it away; check the time column"
            )
        for joined in self.joined:
            smaller = min(self.items, joined.items + joined.others)
            if smaller and joined.items < LEAST_JOINED * smaller:
                found.append(
                    f"only {joined.items} of {self.items} items have {joined.what}, and {joined.others} {joined.what} "
                    f"belong to no item: ids of items look like {joined.example!r}, ids of {joined.what} like "
                    f"{joined.other_example!r}; make them agree"
                )
        return found


def data_report(dataset: Dataset) -> DataReport:
    """Return the report on a dataset, without reading any media."""
    rows = dataset.interactions
    items = set(rows["item"].unique().to_list())
    pairs = len(rows) - rows.n_unique(["user", "item"]) if len(rows) else 0
    exact = len(rows) - rows.n_unique(["user", "item", "timestamp"]) if len(rows) else 0
    tests, valids = (_tied(rows, place) for place in (1, 2)) if dataset.ordered and len(rows) else (0, 0)
    return DataReport(
        layout=dataset.layout,
        users=rows["user"].n_unique(),
        items=len(items),
        interactions=len(rows),
        repeats=pairs,
        duplicates=exact,
        tied_tests=tests,
        tied_valids=valids,
        lengths=_lengths(rows),
        given_split=dataset.given_split,
        joined=tuple(_join(what, items, others) for what, others in _others(dataset)),
    )


def _lengths(rows: pl.DataFrame) -> tuple[int, float, float, int]:
    """Return the interactions per user: least, median, mean, most."""
    if rows.is_empty():
        return 0, 0.0, 0.0, 0
    size = pl.col("len")
    of = {"least": size.min(), "median": size.median(), "mean": size.mean(), "most": size.max()}
    least, median, mean, most = rows.group_by("user").len().select(**of).row(0)
    return least, median, mean, most


def _tied(rows: pl.DataFrame, place: int) -> int:
    """Return how many users have an interaction, `place` from the end, with the same time as one with another item."""
    last = rows.group_by("user", maintain_order=True).agg(pl.col("item", "timestamp").slice(-place, 1).first())
    same = rows.join(last, on=["user", "timestamp"], suffix="_last")
    return same.filter(pl.col("item") != pl.col("item_last"))["user"].n_unique()


def _others(dataset: Dataset) -> list[tuple[str, set[str]]]:
    found = [("titles", {item for item, title in dataset.titles.items() if title.strip()})] if dataset.titles else []
    if dataset.videos is not None or dataset.covers is not None:
        from extract.media.catalog import media_ids

        items = set(dataset.interactions["item"].unique().to_list())
        if dataset.videos is not None:
            found.append(("videos", media_ids(videos=dataset.videos, covers=None, known=items)))
        if dataset.covers is not None:
            found.append(("covers", media_ids(videos=None, covers=dataset.covers, known=items)))
    return found


def _join(what: str, items: AbstractSet[str], others: AbstractSet[str]) -> Joined:
    lacking, beyond = sorted(items - others), sorted(others - items)
    return Joined(what, len(items & others), len(beyond), next(iter(lacking), ""), next(iter(beyond), ""))


def tell(dataset: Dataset, config: DataConfig | None = None, *, json: bool = False) -> None:
    """Print the report's line, and its warnings on standard error.

    Args:
        dataset: the dataset.
        config: what the recipe does with repeats; if it removes them there is no warning about them.
        json: whether standard output is for machines; the line then goes to standard error.
    """
    report = data_report(dataset)
    (note if json else explain)(report.line)
    handled = config is not None and config.repeats != "keep"
    for text in report.warnings():
        if not (handled and "data.repeats" in text):
            warn(text)


def print_report(report: DataReport) -> None:
    """Print the report as a table, and its warnings on standard error."""
    say(report.layout)
    table("", ["what", "value"], report_rows(report))
    for text in report.warnings():
        warn(text)


def report_rows(report: DataReport) -> Sequence[Sequence[str]]:
    """Return the rows of the report as a table: what is counted, and its value."""
    lowest, median, mean, most = report.lengths
    rows: list[tuple[str, Any]] = [
        ("users", report.users),
        ("items", report.items),
        ("interactions", report.interactions),
        ("per user", f"{lowest} to {most}, median {median:g}, mean {mean:.1f}"),
        ("repeats of user and item", report.repeats),
        ("repeats with the same time", report.duplicates),
        ("test targets tied in time", "the split is given" if report.given_split else report.tied_tests),
        ("validation targets tied in time", "the split is given" if report.given_split else report.tied_valids),
        *((f"items with {one.what}", f"{one.items}, and {one.others} others") for one in report.joined),
    ]
    return [(name, str(value)) for name, value in rows]
