"""What a dataset holds, before anything is trained on it: counts, repeats, ties, and what joins what.

Letters: U users, I items, E interactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pipelines.console import note, say, warn
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset

TIED_SHARE = 0.01  # of the users, from which on ties that decide targets are worth a warning
LEAST_JOINED = 0.5  # of the smaller side: a join that finds less is rather one of two kinds of ids


@dataclass(frozen=True)
class Joined:
    """How the ids of something else meet the items of the interactions."""

    what: str
    """'titles', 'videos' or 'covers'."""
    items: int
    """Items of the interactions that have one."""
    others: int
    """Ids that have one and occur in no interaction."""
    example: str
    """One id of the interactions without one, '' where there is none."""
    other_example: str
    """One of the others, '' where there is none."""


@dataclass(frozen=True)
class DataReport:
    """What a dataset holds."""

    layout: str
    """How the folder was read."""
    users: int
    """U."""
    items: int
    """I, those of the interactions."""
    interactions: int
    """E."""
    repeats: int
    """Rows that pair a user with an item again."""
    duplicates: int
    """Repeats that have the same time, too."""
    tied_tests: int
    """Users whose last interaction shares its time with one with another item, so that the order of the file decides
    which of them is the test target."""
    tied_valids: int
    """The same of the one before, the validation target."""
    lengths: tuple[int, float, float, int]
    """Interactions per user: least, median, mean, most."""
    given_split: bool
    """The dataset came with a split, in which times decide nothing."""
    joined: tuple[Joined, ...]
    """Titles, videos and covers."""

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
        """Return what makes results doubtful, each with the way out."""
        found = []
        if self.duplicates:
            found.append(
                f"{self.duplicates} of {self.interactions} interactions stand in the table twice, with user, item and "
                "time: targets may be items just seen; data.repeats=first keeps one each"
            )
        tied = max(self.tied_tests, self.tied_valids)
        if tied >= max(1, TIED_SHARE * self.users) and not self.given_split:
            found.append(
                f"for {self.tied_tests} of {self.users} users the test target, for {self.tied_valids} the validation "
                "target shares its time with another item: the order of rows in the file decides, and a file that is "
                "sorted by item or popularity gives it away; check the column of times"
            )
        for joined in self.joined:
            smaller = min(self.items, joined.items + joined.others)
            if smaller and joined.items < LEAST_JOINED * smaller:
                found.append(
                    f"{joined.what} join {joined.items} of {self.items} items, {joined.others} others join none: ids "
                    f"here look like {joined.example!r}, there like {joined.other_example!r}"
                )
        return found


def data_report(dataset: Dataset) -> DataReport:
    """Look a dataset over; reads no media."""
    rows = dataset.interactions
    items = set(rows["item"].unique().to_list())
    sizes = rows.group_by("user").len()["len"].to_numpy() if len(rows) else np.zeros(1, np.int64)
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
        lengths=(int(sizes.min()), float(np.median(sizes)), float(sizes.mean()), int(sizes.max())),
        given_split=dataset.given_split,
        joined=tuple(_join(what, items, others) for what, others in _others(dataset)),
    )


def _tied(rows: pl.DataFrame, place: int) -> int:
    """Return how many users have, `place` from the end, a time that one of their rows with another item shares."""
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
        dataset: as it was read.
        config: says what becomes of repeats.
        json: standard output is for machines, so that the line goes to standard error, too.
    """
    report = data_report(dataset)
    (note if json else say)(report.line)
    handled = config is not None and config.repeats != "keep"
    for text in report.warnings():
        if not (handled and "data.repeats" in text):
            warn(text)


def report_rows(report: DataReport) -> Sequence[Sequence[str]]:
    """Return the rows of the table that a person sees: what, and its value."""
    lowest, median, mean, most = report.lengths
    rows: list[tuple[str, Any]] = [
        ("users", report.users),
        ("items", report.items),
        ("interactions", report.interactions),
        ("per user", f"{lowest} to {most}, median {median:g}, mean {mean:.1f}"),
        ("repeats of user and item", report.repeats),
        ("of these with the same time", report.duplicates),
        ("test targets tied in time", "the split is given" if report.given_split else report.tied_tests),
        ("validation targets tied in time", "the split is given" if report.given_split else report.tied_valids),
        *((f"items with {one.what}", f"{one.items}, and {one.others} others") for one in report.joined),
    ]
    return [(name, str(value)) for name, value in rows]
