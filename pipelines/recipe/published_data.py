"""Which published numbers may stand beside a result: those of the same dataset, at the published size.

A recipe's section `paper` names a source. The datasets of known sources are listed here with the counts that the paper
gives. A recipe that was copied for other data keeps its `paper`, but the numbers are left out, and one line says why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # `init` knows published datasets by their counts, and does not wait for torch
    from pipelines.recipe.recipe import Recipe

TOLERANCE = (
    0.01  # share by which a count may differ; MMRec's 5-core of MicroLens-100K, other data, differs by 2 to 13 %
)


class Published(NamedTuple):
    """A published dataset, with the counts that its paper gives."""

    name: str
    """Name in the paper."""
    users: int
    """U, the number of users."""
    items: int
    """I, the number of items in the interactions."""
    interactions: int
    """E, the number of interactions."""

    def fits(self, counts: Mapping[str, int]) -> bool:
        """Return whether counts ('users', 'items', 'interactions', as far as known) are those of this dataset."""
        own = self.counts()
        return all(abs(count - own[name]) <= TOLERANCE * own[name] for name, count in counts.items())

    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        return {"users": self.users, "items": self.items, "interactions": self.interactions}


MICROLENS_50K = Published("MicroLens-50K", 50_000, 19_220, 359_708)
MICROLENS_100K = Published("MicroLens-100K", 100_000, 19_738, 719_405)
MICROLENS_1M = Published("MicroLens-1M", 1_000_000, 91_402, 9_095_620)
DATASETS = (MICROLENS_50K, MICROLENS_100K, MICROLENS_1M)
MICROLENS = r"2309\.15379"
SOURCES: dict[str, Published | None] = {  # pattern of a recipe's paper.source -> its dataset; the first match decides
    MICROLENS + r".*Table (9|10)\b": MICROLENS_1M,
    MICROLENS + r".*Table \d": MICROLENS_100K,
    MICROLENS: None,  # of which dataset is not said: one of DATASETS
}


def withheld(recipe: Recipe, metrics: Mapping[str, Any]) -> str:
    """Return why a recipe's published numbers are left out beside a run's `metrics`; '' if there are none, or they fit.

    Sources that are not known here cannot be checked: their numbers stay, except beside synthetic data.
    """
    if recipe.paper is None:
        return ""
    small = "scale=small is narrower and shorter than published" if recipe.scale == "small" else ""
    return "; ".join(filter(None, (_other_data(recipe.paper.source, metrics), small)))


def known_dataset(counts: Mapping[str, int]) -> Published | None:
    """Return the published dataset that has these counts, or None."""
    return next((one for one in DATASETS if one.fits(counts)), None)


def _other_data(source: str, metrics: Mapping[str, Any]) -> str:
    read = dict(metrics.get("read", {}))
    name = str(read.pop("dataset", ""))
    if name.startswith("synthetic"):
        return f"{name} is synthetic data"
    if not read and "sizes" in metrics:  # a run of an earlier version, which recorded only this
        read = {"users": metrics["sizes"]["users"] + metrics.get("dropped_users", 0)}
    expected = _datasets(source)
    split = metrics.get("split", "leave-one-out")
    if expected and split not in ("leave-one-out", "given"):
        return f"{source} tests leave-one-out, and this run tests by data.split={split}"
    if not read or not expected or any(one.fits(read) for one in expected):
        return ""
    of = " or ".join(f"{one.name} ({_told(one.counts())})" for one in expected)
    return f"{source} is about {of}, and {name or 'this dataset'} has {_told(read)}"


def _datasets(source: str) -> Sequence[Published]:
    """Return the datasets that a source may be about; none for an unknown source."""
    found = next((pattern for pattern in SOURCES if re.search(pattern, source)), None)
    if found is None:
        return ()
    one = SOURCES[found]
    return DATASETS if one is None else (one,)


def _told(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{counts[name]:,} {name}" for name in ("users", "items", "interactions") if name in counts)
