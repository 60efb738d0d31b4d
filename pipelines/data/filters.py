"""Filters before a leave-one-out split: repeated rows, rare items, short users; and the choice of candidates."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from features.errors import ConfigError
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset, items_of


def frequent_items(table: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """Return the interactions with items that have at least `min_item_interactions`.

    With 'iterate', items and short users are removed in turn until nothing changes. The paper of the warm-k subsets
    (arXiv 2309.15379, Table 8) says neither which interactions it counts, nor whether users are filtered again, nor
    whether this is repeated. Here all interactions of the file count, before `keep_last`, and users are filtered again.

    Raises:
        ConfigError: no item, or no user, has enough interactions.
    """
    if not config.min_item_interactions:
        return table
    while True:
        kept = table.filter(pl.len().over("item") >= config.min_item_interactions)
        if kept.is_empty():
            most = max(table.group_by("item").len()["len"].to_list())
            raise ConfigError(
                f"no item is left with data.min_item_interactions={config.min_item_interactions} interactions "
                f"(most: {most}); lower it"
            )
        if config.item_filter == "once":
            return kept
        kept = without_short_users(kept, config)
        if len(kept) == len(table):
            return kept
        table = kept


def without_repeats(table: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """Return interactions in which no user has an item twice, unless `repeats` is 'keep'; in time order per user."""
    if config.repeats == "keep":
        return table
    return table.unique(["user", "item"], keep=config.repeats, maintain_order=True)


def without_short_users(table: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """Return the interactions of users who have at least `min_interactions`.

    Raises:
        ConfigError: no user has enough, or one has too few and `short_users` is 'error'.
    """
    sizes = table.group_by("user", maintain_order=True).len()
    short = sizes.filter(pl.col("len") < config.min_interactions)
    if len(short) and config.short_users == "error":
        raise ConfigError(
            f"{len(short)} of {len(sizes)} users have fewer than data.min_interactions={config.min_interactions} "
            f"interactions, first {short.row(0)[0]!r} with {short.row(0)[1]}; remove them or set data.short_users=drop"
        )
    if len(short) == len(sizes):
        raise ConfigError(
            f"each of {len(sizes)} users has fewer than data.min_interactions={config.min_interactions} interactions "
            f"(most: {max(sizes['len'].to_list())}); nothing is left to train on: lower it, or give a larger dataset"
        )
    if short.is_empty():
        return table
    return table.join(short.select("user"), on="user", how="anti", maintain_order="left")


def newest(table: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """Return the last `keep_last` interactions of each user (in time order per user); all of them where it is None."""
    if config.keep_last is None:
        return table
    return table.group_by("user", maintain_order=True).tail(config.keep_last)


def candidates(
    dataset: Dataset, frequent: pl.DataFrame, tail: pl.DataFrame, config: DataConfig, catalog_ids: Iterable[str]
) -> list[str]:
    """Return the ids of the items that are ranked, sorted.

    Args:
        dataset: gives the catalog: its titles and its own list of items.
        frequent: interactions after the filters, before `keep_last`.
        tail: interactions after `keep_last`.
        config: `candidates` chooses among the items of `frequent`, those of `tail`, and those of the catalog as well.
        catalog_ids: further items of the catalog, such as those with media.
    """
    if config.candidates == "kept":
        return sorted(items_of(tail))
    # without a filter every item of the dataset is left; repeated rows that went leave another of their item
    items = set(items_of(frequent) if config.min_item_interactions else dataset.items_met)
    if config.candidates == "catalog":
        items |= set(dataset.titles) | set(dataset.catalog) | set(catalog_ids)
    return sorted(items)
