"""What each row offers to a sample of test users.

Letters: N test users of the part, n users of the sample, K list length, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import ConfigError, FreezeframeError
from features.provenance import file_sha256
from pipelines.comparing.result_table import Row, tested_on
from pipelines.comparing.significance import load_ranks
from pipelines.data.data_config import DataConfig
from pipelines.data.load import Data, load_data
from pipelines.data.split import EvalPart, Ints, ManyTargets, pieces
from pipelines.device import resolve_device
from pipelines.progress import progress
from pipelines.ranking.full_ranking import evaluate
from pipelines.recipe.recipe import Recipe
from pipelines.runs.inputs import training_facts
from pipelines.runs.kept.kept_data import placed
from pipelines.runs.kept.kept_vectors import kept_model
from pipelines.runs.run import open_run
from pipelines.runs.run_files import finished_recipe, read_array, read_metrics

TOP = 10  # K
MOST_USERS = 2000  # n, from whose lists one sees how concentrated the offers are
GONE = (FreezeframeError, OSError, ImportError)  # what a run says whose data, features or libraries are not there


@dataclass(frozen=True)
class RowOffers:
    """What one row offers to the users of the sample."""

    row: Row
    """The row; its first seed's run is meant."""
    lists: NDArray[np.int32] | None
    """(n, K) dense indices of the listed items, best first, -1 = no more; None where the run cannot tell any more."""
    places: list[list[float]]
    """For each user the best place of each target, from 1; inf = hidden. Empty where the run kept no ranks."""


@dataclass
class Offers:
    """What the rows offer to the same users."""

    data: Data
    """The dataset and the split that the baseline was tested on."""
    sample: Ints
    """(n,) rows of the test part, in the order they were drawn."""
    rows: list[RowOffers] = field(default_factory=list)
    """The rows that were tested on these users."""
    missing: list[str] = field(default_factory=list)
    """What could not be had, one line each."""


class Datasets:
    """Reads each dataset once.

    Args:
        place: the dataset folder, if it is not that of the recipes.
    """

    def __init__(self, place: Path | None) -> None:
        self.place = place
        self._read: dict[DataConfig, Data] = {}
        self._recipes: dict[Path, Recipe] = {}

    def recipe(self, row: Row) -> Recipe:
        """Return the recipe of a row's first run, with paths that exist as seen from the current folder."""
        folder = row.folders[0]
        if folder not in self._recipes:
            self._recipes[folder] = placed(finished_recipe(folder), folder, self.place)
        return self._recipes[folder]

    def data(self, row: Row) -> Data:
        """Return the data of a row's first run; errors as `load_data`."""
        config = self.recipe(row).data
        if config not in self._read:
            self._read[config] = load_data(config)
        return self._read[config]


def offers(rows: Sequence[Row], baseline: int, datasets: Datasets, *, people: int, seed: int, device: str) -> Offers:
    """Rank a seeded sample of the baseline's test users by every row that was tested on them.

    Args:
        rows: the rows of the report.
        baseline: place of the row whose test users are drawn.
        datasets: reads the data.
        people: the least number of users in the sample, where there are so many.
        seed: seed of the sample.
        device: device to rank on.

    Raises:
        FreezeframeError, OSError, ImportError: the dataset is gone, or has changed since the baseline was tested.
    """
    base = rows[baseline]
    data = datasets.data(base)
    _refuse_changed_test(base, data)
    order = np.random.default_rng(seed).permutation(len(data.split.test.users))
    found = Offers(data, order[: max(MOST_USERS, people)])
    same = [row for row in rows if tested_on(row) == tested_on(base)]
    found.missing += [
        f"{row.name}: tested on other users, so it offers nothing here" for row in rows if row not in same
    ]
    with progress("rank a sample of users", unit="rows") as advance:
        for number, row in enumerate(same, 1):
            found.rows.append(_row_offers(row, found, datasets, device))
            advance(number, len(same))
    return found


def _row_offers(row: Row, found: Offers, datasets: Datasets, device: str) -> RowOffers:
    try:
        places = _places(row.folders[0], found.sample)
    except GONE as error:
        found.missing.append(f"{row.name}: places of the targets: {error}")
        places = []
    try:
        return RowOffers(row, _ranked_now(row, found.sample, datasets, device), places)
    except GONE as error:
        kept = _kept_lists(row.folders[0], found.sample)
        what = "its lists are those kept in the run" if kept is not None else "its lists are left out"
        found.missing.append(f"{row.name}: {what} ({error})")
        return RowOffers(row, kept, places)


def _places(folder: Path, sample: Ints) -> list[list[float]]:
    """Return the places of the targets of each user of the sample, as the test recorded them."""
    ranked = load_ranks(folder)
    return [ranked.ranks[ranked.offsets[user] : ranked.offsets[user + 1]].tolist() for user in sample]


def _ranked_now(row: Row, sample: Ints, datasets: Datasets, device: str) -> NDArray[np.int32] | None:
    """Return (n, K) lists by the model of a row's first run, seen items treated as in its test.

    The model is built from the vectors that the run keeps, where it keeps them: its features may be gone.
    """
    folder, recipe, data = row.folders[0], datasets.recipe(row), datasets.data(row)
    _refuse_changed_test(row, data)
    place = resolve_device(device)
    model = kept_model(folder, recipe, training_facts(data.split))
    model = (
        model.to(place) if model is not None else open_run(folder, device=device, data=data, place=datasets.place).model
    )
    result = evaluate(
        model,
        some_users(data.split.test, sample),
        data.split.train_counts,
        mask=recipe.evaluate.mask,
        at=(TOP,),
        lists=True,
        device=place,
    )
    return result.lists


def _refuse_changed_test(row: Row, data: Data) -> None:
    """Raise ConfigError if a row was tested on other users, targets or candidates than its dataset has now."""
    told = tested_on(row)[0]
    if told is not None and data.split.tested_on() != told:
        raise ConfigError(f"dataset {data.split.dataset!r} changed since {row.folders[0]} was tested")


def _kept_lists(folder: Path, sample: Ints) -> NDArray[np.int32] | None:
    """Return (n, K) lists from a run's lists.npy; None where it kept none, or they are of another test."""
    path = folder / "lists.npy"
    try:
        if read_metrics(folder).get("files", {}).get(path.name) != file_sha256(path):
            return None
        lists: NDArray[np.int32] = read_array(path)[sample, :TOP]
    except GONE:
        return None
    return lists


def some_users(part: EvalPart, rows: Ints) -> EvalPart:
    """Return a part with the users in `rows` (n,) alone, in that order."""
    seen, seen_offsets = pieces(part.seen, part.seen_offsets[rows], part.seen_offsets[rows + 1])
    targets, bounds = pieces(part.targets, part.bounds[rows], part.bounds[rows + 1])
    common = (part.users[rows], part.items[rows], part.mask[rows], targets, seen, seen_offsets)
    return ManyTargets(*common, bounds) if isinstance(part, ManyTargets) else EvalPart(*common)
