"""A split that the rows bring themselves: a column of train, valid and test, or a file per part.

- Users without training rows are left out. Validation rows belong to the history at test.
- Every row is used: of the options under `data:` only `max_length` and `candidates` apply.
- Where a training row is newer than a target of its user, the split lets the model look ahead; such users are counted.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from features.errors import ConfigError
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset
from pipelines.data.filters import candidates
from pipelines.data.split import Split
from pipelines.data.splits.held_parts import Parts, assemble, by_part, later_parts, row_counts


def own_split(dataset: Dataset, config: DataConfig, catalog_ids: Iterable[str] = ()) -> Split:
    """Return the split that the dataset's rows bring; arguments are those of `make_split`.

    Raises:
        ConfigError: they bring none, a part is empty, or `config` asks to filter items.
    """
    if not dataset.given_split:
        raise ConfigError(
            f"data.split is 'column', but {config.folder} ({dataset.layout}) has no such column; name it with "
            "data.columns.split, or set data.split=leave-one-out"
        )
    if config.min_item_interactions:
        raise ConfigError(
            f"data.min_item_interactions is {config.min_item_interactions}, but {config.folder} comes with a split, "
            "which is not filtered; set data.split=leave-one-out, or data.min_item_interactions=0"
        )
    everything = dataset.interactions.sort("user", maintain_order=True)
    trained = by_part(everything, [0]).select("user").unique()
    kept = everything.join(trained, on="user", how="semi", maintain_order="left")
    valid, test = later_parts(kept)
    column = config.split == "column" or config.columns.split is not None
    gone = everything["user"].n_unique() - len(trained)
    return assemble(
        dataset,
        Parts(
            protocol="column" if column else "given",
            train=by_part(kept, [0]).select("user", "item"),
            valid=valid,
            test=test,
            items=candidates(dataset, everything, kept, config, catalog_ids),
            told=f"{'split by a column of the table' if column else 'split by files'}, {row_counts(kept)}; "
            f"{gone} users without training rows are left out with {len(everything) - len(kept)} rows{_ahead(kept)}",
        ),
        config,
    )


def _ahead(table: pl.DataFrame) -> str:
    """Return in words how many users have a training row that is newer than one of their targets."""
    newest = by_part(table, [0]).group_by("user").agg(pl.col("timestamp").max().alias("newest"))
    first = by_part(table, [1, 2]).group_by("user").agg(pl.col("timestamp").min().alias("first"))
    count = len(newest.join(first, on="user").filter(pl.col("newest") > pl.col("first")))
    return f"; {count} users have training rows that are newer than a target" if count else ""
