"""Folds of users (strong generalisation): the users of one fold test, those of the next validate, the others train.

- Users are drawn into folds of equal size by `data.split_seed`. A held-out user trains nothing. Its history is given
  when it is ranked for: all its rows but the targets, which are its last row, or the newest `data.test_share` of them.
- Only models that know a user by the history can do this; those with a vector per user are refused.
- Filters come first and count all rows, as in leave-one-out.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from features.errors import ConfigError
from pipelines.data.data_config import DEFAULT_FOLDS, DataConfig
from pipelines.data.dataset import COLUMNS, Dataset
from pipelines.data.filters import candidates, frequent_items, without_repeats, without_short_users
from pipelines.data.split import Split
from pipelines.data.splits.held_parts import Held, Parts, assemble


def user_folds(dataset: Dataset, config: DataConfig, catalog_ids: Iterable[str] = ()) -> Split:
    """Return the split by folds of users; arguments and errors are those of `make_split`."""
    if not dataset.ordered:
        raise ConfigError(
            f"{config.folder} has no timestamps ({dataset.layout}), which tell a held-out user's history from its "
            "targets; set data.split=given"
        )
    rows = dataset.interactions.select(COLUMNS).sort("user", maintain_order=True)
    frequent = frequent_items(without_repeats(rows, config), config)
    kept = without_short_users(frequent, config)
    users = kept["user"].unique().sort()
    folds, fold, seed = config.folds or DEFAULT_FOLDS, config.fold or 0, config.split_seed or 0
    if len(users) < folds:
        raise ConfigError(f"data.folds is {folds}, but there are {len(users)} users; lower it")
    number = np.random.default_rng(seed).permutation(len(users)) % folds
    in_fold = kept.join(pl.DataFrame({"user": users, "fold": number}), on="user", maintain_order="left")
    held = [in_fold.filter(pl.col("fold") == one) for one in ((fold + 1) % folds, fold)]
    train = in_fold.filter(~pl.col("fold").is_in([fold, (fold + 1) % folds]))
    counts = [table["user"].n_unique() for table in (train, *held)]
    what = "last row" if config.test_share is None else f"newest {config.test_share:g}"
    return assemble(
        dataset,
        Parts(
            protocol="user-folds",
            train=train.select("user", "item"),
            valid=_held(held[0], config.test_share),
            test=_held(held[1], config.test_share),
            items=candidates(dataset, frequent, kept, config, catalog_ids),
            told=f"user folds: fold {fold} of {folds} (seed {seed}) tests, the next validates; {counts[0]} users "
            f"train, {counts[1]} validate and {counts[2]} test, whose {what} is sought after the rest of their rows",
            dropped_items=dataset.interactions["item"].n_unique() - frequent["item"].n_unique(),
            strangers=True,
        ),
        config,
    )


def _held(table: pl.DataFrame, share: float | None) -> Held:
    """Return the histories and targets of held-out users: at least one row each."""
    size, place = pl.len().over("user"), pl.int_range(pl.len()).over("user")
    targets = pl.lit(1) if share is None else (size * share + 1e-9).floor().cast(pl.Int64).clip(1, None)
    last = place >= size - pl.min_horizontal(targets, size - 1)
    return Held(table.filter(~last).select("user", "item"), table.filter(last).select("user", "item"))
