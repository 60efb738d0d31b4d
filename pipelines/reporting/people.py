"""A sample of test users: what they had, what they took next, and what each row offers them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.data.split import Ints
from pipelines.ranking.metrics import LIST_METRICS, Offered
from pipelines.reporting.offers import TOP, Offers, RowOffers

STRIP = 12  # items of a history that are shown


@dataclass(frozen=True)
class Shown:
    """One item in a list."""

    item: str
    """Raw id."""
    hit: bool = False
    """Whether it is a held-out target."""
    cold: bool = False
    """Whether it never occurs in training."""


@dataclass(frozen=True)
class Column:
    """What one row offers a person."""

    row: str
    """The row's name."""
    place: str
    """Where the row ranks the target, in words; '' if it is not known."""
    items: list[Shown] | None
    """The best items; None where the run cannot tell."""


@dataclass(frozen=True)
class Person:
    """One user of the sample."""

    user: str
    """Raw id."""
    history: list[Shown]
    """The newest items before the target, oldest first."""
    seen: int
    """How many items came before the target."""
    targets: list[Shown]
    """The held-out items."""
    columns: list[Column]
    """One entry for each row."""


def people(found: Offers, count: int) -> list[Person]:
    """Return the first `count` users of the sample."""
    return [_person(found, number) for number in range(min(count, len(found.sample)))]


def _person(found: Offers, number: int) -> Person:
    split = found.data.split
    part, user = split.test, int(found.sample[number])
    targets = part.targets[part.bounds[user] : part.bounds[user + 1]].tolist()

    def shown(item: int, *, hit: bool = False) -> Shown:
        return Shown(split.items.ids[item], hit, bool(split.train_counts[item] == 0))

    history = part.items[user][part.mask[user]].tolist()[-STRIP:]
    return Person(
        split.users.ids[part.users[user]],
        [shown(item) for item in history],
        int(part.seen_offsets[user + 1] - part.seen_offsets[user]),
        [shown(item) for item in targets],
        [
            Column(
                one.row.name,
                _place(one, number),
                None
                if one.lists is None
                else [shown(item, hit=item in targets) for item in one.lists[number].tolist() if item >= 0],
            )
            for one in found.rows
        ],
    )


def _place(one: RowOffers, number: int) -> str:
    """Return in words where the targets stand in a row's ranking."""
    if not one.places:
        return ""
    places = one.places[number]
    words = ["hidden" if np.isinf(place) else f"place {place:.0f}" for place in places[:3]]
    return ", ".join(words) + (f" and {len(places) - 3} more" if len(places) > 3 else "")


@dataclass(frozen=True)
class Concentration:
    """How a row's offers are spread over the items."""

    row: str
    """The row's name."""
    coverage: float
    """Share of the items that are in at least one list."""
    gini: float
    """0 = all items equally often, near 1 = one item only."""
    cold_share: float
    """Share of all places that items take which never occur in training."""
    top_share: float
    """Share of all places that the most offered 1 % of the items take."""
    curve: list[float]
    """Share of all places that the most offered j / 100 of the items take, for j from 0 to 100."""


def concentration(found: Offers) -> list[Concentration]:
    """Return how the lists of the sample are spread over the items, for every row that has lists."""
    counts = found.data.split.train_counts
    return [_spread(one, counts) for one in found.rows if one.lists is not None and (one.lists >= 0).any()]


def _spread(one: RowOffers, train_counts: Ints) -> Concentration:
    assert one.lists is not None
    counts = np.bincount(one.lists[one.lists >= 0], minlength=len(train_counts)).astype(np.float64)
    total, items = counts.sum(), len(counts)
    taken = np.concatenate([[0.0], np.cumsum(np.sort(counts)[::-1])]) / total
    curve = np.interp(np.linspace(0, items, 101), np.arange(items + 1), taken)
    listed = Offered(counts, (counts == 0).astype(np.float64))
    covered, gini, cold = (LIST_METRICS[name](listed, train_counts) for name in ("Coverage", "Gini", "NeverMet"))
    return Concentration(one.row.name, covered, gini, cold, float(taken[max(1, round(0.01 * items))]), curve.tolist())


def told(found: Offers) -> str:
    """Return the line that says what the concentration was counted over."""
    users, every = len(found.sample), len(found.data.split.test.users)
    whom = f"all {every} test users" if users == every else f"a seeded sample of {users} of the {every} test users"
    return f"lists of {TOP} of {whom}, by the first seed's run of each row"
