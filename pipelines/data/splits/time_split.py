"""The global time split: two moments cut the interactions of all users into training, validation and test.

- The cuts are times, or the times at which shares of all interactions of the file begin. A row whose time is that of a
  cut belongs to the later part, so the order of the file decides nothing.
- Nothing after the first cut decides what trains: filters count training rows alone.
- Users without (enough) training rows are left out. Items first met after a cut are candidates and targets like others.
- Validation rows belong to the history at test.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from features.errors import ConfigError
from pipelines.data.data_config import DEFAULT_SHARE, DataConfig
from pipelines.data.dataset import COLUMNS, Dataset
from pipelines.data.filters import candidates, frequent_items, without_short_users
from pipelines.data.split import Split
from pipelines.data.splits.clock import as_date, as_time
from pipelines.data.splits.held_parts import Parts, assemble, by_part, later_parts, row_counts


def time_split(dataset: Dataset, config: DataConfig, catalog_ids: Iterable[str] = ()) -> Split:
    """Return the global time split; arguments are those of `make_split`.

    Raises:
        ConfigError: the dataset has no times, or a part is empty.
    """
    if not dataset.timed:
        raise ConfigError(
            f"{config.folder} has no times that compare between users ({dataset.layout}); data.split=time needs them: "
            "set data.split=ratio or leave-one-out"
        )
    everything = dataset.interactions.select(COLUMNS).sort("user", maintain_order=True)
    times = everything["timestamp"]
    valid_cut, test_cut, how = _cuts(times, config)
    part = pl.lit(0, pl.Int8) + (pl.col("timestamp") >= valid_cut) + (pl.col("timestamp") >= test_cut)
    table = _without_repeats(everything.with_columns(part.cast(pl.Int8).alias("part")), config)
    _refuse_empty(table, (valid_cut, test_cut), how, config)
    frequent = frequent_items(by_part(table, [0]), config)
    train = without_short_users(frequent, config)
    later = by_part(table, [1, 2])
    if config.min_item_interactions:
        later = later.join(frequent.select("item").unique(), on="item", how="semi", maintain_order="left")
    kept = pl.concat([train, later.join(train.select("user").unique(), on="user", how="semi", maintain_order="left")])
    kept = kept.sort("user", "part", maintain_order=True)
    valid, test = later_parts(kept)
    return assemble(
        dataset,
        Parts(
            protocol="time",
            train=train.select("user", "item"),
            valid=valid,
            test=test,
            items=candidates(dataset, pl.concat([frequent, later]), kept, config, catalog_ids),
            told=f"global time split: validation from {as_date(valid_cut, times)}, test from "
            f"{as_date(test_cut, times)} ({how}), {row_counts(kept)}; {_left_out(table, kept, config)}",
            dropped_items=table["item"].n_unique() - pl.concat([frequent["item"], later["item"]]).n_unique(),
        ),
        config,
    )


def _cuts(times: pl.Series, config: DataConfig) -> tuple[int, int, str]:
    """Return the times at which validation and test begin, and where they come from."""
    if config.valid_from is not None and config.test_from is not None:
        cuts = [as_time(getattr(config, name), times, f"data.{name}") for name in ("valid_from", "test_from")]
        at = [int((times == cut).sum()) for cut in cuts]
        return cuts[0], cuts[1], f"as given; {sum(at)} rows at these very times count as later"
    shares = [DEFAULT_SHARE if share is None else share for share in (config.valid_share, config.test_share)]
    ordered = np.sort(times.to_numpy())
    places = [int(len(ordered) * (1 - share) + 1e-9) for share in (shares[0] + shares[1], shares[1])]
    cuts = [int(ordered[min(place, len(ordered) - 1)]) for place in places]
    tied = sum(place - int(np.searchsorted(ordered, cut)) for place, cut in zip(places, cuts, strict=True))
    return cuts[0], cuts[1], f"shares {shares[0]:g} and {shares[1]:g}; {tied} rows tied with a cut count as later"


def _without_repeats(table: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """Return the table without repeats: 'first' goes by all rows, 'last' by each part, or the future would decide."""
    if config.repeats == "keep":
        return table
    whose = ["user", "item"] if config.repeats == "first" else ["user", "item", "part"]
    return table.unique(whose, keep=config.repeats, maintain_order=True)


def _refuse_empty(table: pl.DataFrame, cuts: tuple[int, int], how: str, config: DataConfig) -> None:
    if config.valid_from is not None and cuts[0] >= cuts[1]:
        raise ConfigError(
            f"data.valid_from is {config.valid_from!r}, which is not before data.test_from, {config.test_from!r}"
        )
    first, last = np.sort(table["timestamp"].to_numpy())[[0, -1]]
    for number, name in enumerate(("training", "validation", "test")):
        if not (table["part"] == number).any():
            raise ConfigError(
                f"the {name} part of {config.folder} is empty: the interactions are from {first} to {last}, and the "
                f"cuts stand at {cuts[0]} and {cuts[1]} ({how}); move them"
            )


def _left_out(table: pl.DataFrame, kept: pl.DataFrame, config: DataConfig) -> str:
    """Return in words what the first cut does to users and items that were not met before it."""
    before, after = by_part(table, [0]), by_part(table, [1, 2])
    new_users = after.join(before.select("user").unique(), on="user", how="anti")
    gone = f"{new_users['user'].n_unique()} users first met after the first cut, with {len(new_users)} rows"
    new_items = after.join(before.select("item").unique(), on="item", how="anti")["item"].n_unique()
    short = before["user"].n_unique() - kept["user"].n_unique()
    cold = "left out" if config.min_item_interactions else "ranked and sought, too"
    return (
        f"left out: {gone}, and {short} with fewer than {config.min_interactions} rows before it; "
        f"{new_items} items first met after it are {cold}"
    )
