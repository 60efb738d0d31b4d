"""The ratio split: of each user's interactions a share tests, a share validates, and the rest trains.

- In time order the newest rows test, those before them validate; rows of equal time keep the order of the file. In
  random order they are drawn, each user's for itself.
- A user has at least one row in each part: one more goes to test, then to validation, while training keeps one.
- Filters come first and count all rows, as in leave-one-out. Validation rows belong to the history at test.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from features.errors import ConfigError
from pipelines.data.data_config import DEFAULT_SHARE, DataConfig
from pipelines.data.dataset import COLUMNS, Dataset
from pipelines.data.filters import candidates, frequent_items, without_repeats, without_short_users
from pipelines.data.split import Ints, Split
from pipelines.data.splits.held_parts import Parts, assemble, by_part, later_parts, row_counts


def ratio_split(dataset: Dataset, config: DataConfig, catalog_ids: Iterable[str] = ()) -> Split:
    """Return the ratio split; arguments and errors are those of `make_split`."""
    drawn = config.order == "random"
    if not dataset.ordered and not drawn:
        raise ConfigError(
            f"{config.folder} has no timestamps ({dataset.layout}), by which data.split=ratio orders a user's rows; "
            "set data.order=random, or data.split=given"
        )
    rows = dataset.interactions.select(COLUMNS).sort("user", maintain_order=True)
    frequent = frequent_items(without_repeats(rows, config), config)
    kept = without_short_users(frequent, config)
    shares = [DEFAULT_SHARE if share is None else share for share in (config.valid_share, config.test_share)]
    sizes = kept.group_by("user", maintain_order=True).len()["len"].to_numpy().astype(np.int64)
    place = _places(sizes, config.split_seed or 0) if drawn else _within(sizes)
    valid, test = held_out(sizes, shares)
    from_end = np.repeat(sizes, sizes) - place  # 1 for the row that is held out first
    tests, valids = np.repeat(test, sizes), np.repeat(valid, sizes)
    part = np.where(from_end <= tests, 2, np.where(from_end <= tests + valids, 1, 0))
    table = kept.with_columns(pl.Series("part", part, pl.Int8))
    how = f"at random (seed {config.split_seed or 0})" if drawn else "the newest"
    tied = "" if drawn else f", {_tied(table)} users' parts divided within rows of equal time, by the order of the file"
    in_valid, in_test = later_parts(table)
    return assemble(
        dataset,
        Parts(
            protocol="ratio",
            train=by_part(table, [0]).select("user", "item"),
            valid=in_valid,
            test=in_test,
            items=candidates(dataset, frequent, kept, config, catalog_ids),
            told=f"ratio split: of each user {shares[0]:g} validates and {shares[1]:g} tests, {how}, "
            f"{row_counts(table)}{tied}",
            dropped_items=dataset.interactions["item"].n_unique() - frequent["item"].n_unique(),
        ),
        config,
    )


def held_out(sizes: Ints, shares: list[float]) -> tuple[Ints, Ints]:
    """Return how many of each user's rows validate and test, (U,) each.

    >>> [counts.tolist() for counts in held_out(np.array([3, 10, 40]), [0.1, 0.2])]
    [[1, 1, 4], [1, 2, 8]]
    """
    valid, test = ((sizes * share + 1e-9).astype(np.int64) for share in shares)
    test = np.where((test == 0) & (sizes - valid > 1), 1, test)
    valid = np.where((valid == 0) & (sizes - test > 1), 1, valid)
    return valid, test


def _within(sizes: Ints) -> Ints:
    """Return each row's place among its user's rows, from 0."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _places(sizes: Ints, seed: int) -> Ints:
    """Return a place for each row among its user's rows, from 0, drawn at random."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((np.random.default_rng(seed).random(len(owner)), owner))
    places = np.empty(len(owner), np.int64)
    places[order] = _within(sizes)
    return places


def _tied(table: pl.DataFrame) -> int:
    """Return how many users have rows of one time and different items in two parts."""
    at = table.group_by("user", "timestamp").agg(pl.col("part").n_unique().alias("parts"), pl.col("item").n_unique())
    return at.filter((pl.col("parts") > 1) & (pl.col("item") > 1))["user"].n_unique()
