"""What people have had, as a model that recommends to them takes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.data.filters import newest, without_repeats
from pipelines.data.split import Sequences
from pipelines.runs.run import Run

Ints = NDArray[np.int64]
ONE_HISTORY = ("leave-one-out", "time", "ratio", "user-folds")  # splits of one interaction table


@dataclass(frozen=True)
class Histories:
    """The histories of N people."""

    users: list[str]
    """Their raw ids."""
    numbers: Ints
    """Their numbers, (N,); -1 for somebody the model was not trained on."""
    read: Sequences
    """What a model reads, oldest item first: known items alone, repeats and `keep_last` as in the split."""
    had: Sequences
    """All known items that they have had."""


def histories_of(run: Run, rows: pl.DataFrame) -> Histories:
    """Return the histories in interactions.

    All interactions count, those for validation and test among them. Items that the model does not know do not.

    Args:
        run: the run.
        rows: interactions with columns user and item, in time order per user; the rows of a user stand together.
    """
    split, config = run.data.split, run.recipe.data
    users = rows["user"].unique(maintain_order=True)
    known = rows.with_columns(pl.Series("number", split.items.numbers(rows["item"]))).filter(pl.col("number") >= 0)
    read = known
    if split.protocol in ONE_HISTORY:
        read = without_repeats(read, config)
    if split.protocol == "leave-one-out":
        read = newest(read, config)
    return Histories(users.to_list(), split.users.numbers(users), _sequences(read, users), _sequences(known, users))


def _sequences(rows: pl.DataFrame, users: pl.Series) -> Sequences:
    """Return the item numbers of each of `users`, whose rows stand in the same order."""
    sizes = rows.group_by("user").len()
    counts = users.to_frame("user").join(sizes, on="user", how="left", maintain_order="left")["len"].fill_null(0)
    offsets = np.concatenate([[0], counts.to_numpy().cumsum()]).astype(np.int64)
    return Sequences(rows["number"].to_numpy(), offsets)
