"""The best items for many people at once.

Every score is computed, so the lists are exact, however many items somebody has had. Interactions are read, and scores
held, some at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from features.errors import ConfigError
from models.shared.recommender import UserBatch
from pipelines.data.split import histories, pieces
from pipelines.retrieval.histories import Histories, histories_of
from pipelines.retrieval.searchable import check_top, searchable_vectors
from pipelines.runs.kept.kept_data import by_user, kept_rows
from pipelines.runs.run import Run

ROWS_AT_A_TIME = 2**18  # interactions
SCORES_AT_A_TIME = 2**25  # 128 MB of float32
USERS_AT_A_TIME = 2048
SCHEMA = {"user": pl.String, "rank": pl.Int64, "item": pl.String, "score": pl.Float32}


@dataclass(frozen=True)
class Choice:
    """What may be recommended."""

    top: int = 10
    """How many items, at least 1."""
    only: Sequence[str] | None = None
    """Items to choose from; None: all."""
    never: Sequence[str] = ()
    """Items to leave out."""
    hide_seen: bool = True
    """Whether to leave out what somebody has had."""


@dataclass
class Unserved:
    """Who got no list, and why."""

    untrained: list[str] = field(default_factory=list)
    """Users whom a model that knows users by number was not trained on."""
    strange: list[str] = field(default_factory=list)
    """Users none of whose items the model knows, where it reads histories."""


class Lister:
    """Makes the lists of a run."""

    def __init__(self, run: Run, choice: Choice) -> None:
        """Take an opened run and what may be recommended.

        Raises:
            ConfigError: a model without item vectors, or no item asked for or to choose from.
        """
        self.run, self.choice, self.unserved = run, choice, Unserved()
        items = run.data.split.items
        check_top(choice.top)
        vectors = torch.from_numpy(searchable_vectors(run.model))
        rows = np.arange(len(items)) if choice.only is None else np.unique(items.known(choice.only))
        self.rows = np.setdiff1d(rows, items.known(choice.never))
        if not len(self.rows):
            raise ConfigError(f"none of the {len(items)} items may be chosen; give other items with --only or --not")
        self.place = np.full(len(items), -1)  # where an item stands among those that may be chosen
        self.place[self.rows] = np.arange(len(self.rows))
        self.vectors = vectors[torch.from_numpy(self.rows)].T.contiguous() if len(self.rows) < len(items) else vectors.T
        self.names = np.array(items.ids, dtype=object)[self.rows]
        self._step = max(1, min(USERS_AT_A_TIME, SCORES_AT_A_TIME // len(self.rows)))
        self._scores = torch.empty(self._step, len(self.rows))  # the same every time: new memory is slow to touch

    def lists(self, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Yield the lists of the people in interactions (as `histories_of` takes them), as columns of SCHEMA."""
        found = histories_of(self.run, rows)
        served = self._served(found)
        for start in range(0, len(served), self._step):
            yield self._some(found, served[start : start + self._step])

    def _served(self, found: Histories) -> NDArray[np.int64]:
        if self.run.model.reads_history:
            fit, reason = np.diff(found.read.offsets) > 0, self.unserved.strange
        else:
            fit, reason = found.numbers >= 0, self.unserved.untrained
        reason += [found.users[row] for row in np.flatnonzero(~fit)]
        return np.flatnonzero(fit)

    def _some(self, found: Histories, people: NDArray[np.int64]) -> pl.DataFrame:
        ends = found.read.offsets[people + 1]
        items, mask, _, _ = histories(found.read, people, ends, self.run.recipe.data.max_length)
        numbers = np.maximum(found.numbers[people], 0)
        with torch.inference_mode():
            batch = UserBatch(torch.from_numpy(numbers), torch.from_numpy(items), torch.from_numpy(mask))
            scores = self._scores[: len(people)]
            torch.mm(self.run.model.user_vectors(batch).float(), self.vectors, out=scores)
            if self.choice.hide_seen:
                had, offsets = pieces(found.had.flat, found.had.offsets[people], found.had.offsets[people + 1])
                columns, lines = self.place[had], np.repeat(np.arange(len(people)), np.diff(offsets))
                scores[torch.from_numpy(lines[columns >= 0]), torch.from_numpy(columns[columns >= 0])] = -torch.inf
            best = scores.topk(min(self.choice.top, len(self.rows)))
        values, places = best.values.numpy(), best.indices.numpy()
        line, rank = np.nonzero(values > -np.inf)
        users = np.array([found.users[one] for one in people], dtype=object)
        return pl.DataFrame(
            {
                "user": users[line],
                "rank": rank + 1,
                "item": self.names[places[line, rank]],
                "score": values[line, rank],
            },
            schema=SCHEMA,
        )


def rows_of_users(run: Run, users: Iterable[str] | None) -> Iterator[pl.DataFrame]:
    """Yield the interactions of users, those of one user never apart; None: of all users.

    They are read from the run, some at a time, unless the dataset has changed since.
    """
    wanted = None if users is None else pl.Series(list(users), dtype=pl.String)
    parts = kept_rows(run.folder, run.recipe.data, ROWS_AT_A_TIME) or [by_user(run.data.dataset.interactions)]
    held = None
    for part in parts:
        joined = part if held is None else pl.concat([held, part])
        last = joined["user"][-1]
        held, ready = joined.filter(pl.col("user") == last), joined.filter(pl.col("user") != last)
        yield from _wanted(ready, wanted)
    if held is not None:
        yield from _wanted(held, wanted)


def _wanted(rows: pl.DataFrame, users: pl.Series | None) -> Iterator[pl.DataFrame]:
    """Yield the rows of `users`, or all; nothing where there are none."""
    found = rows if users is None else rows.filter(pl.col("user").is_in(users.implode()))
    if len(found):
        yield found
