"""Groups of users: by how popular their targets are in training (MicroLens, Figure 6), or by length of history.

Letters: N users of a part, R targets, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.errors import ConfigError
from pipelines.data.split import EvalPart
from pipelines.ranking.metrics import METRICS, Bools, Floats, Ints, Ranked, sums

BINS = 5


@dataclass(frozen=True)
class Group:
    """Some users of a part."""

    name: str
    """What the users share, such as '5 to 12'."""
    chosen: Bools
    """(N,), True for the users of the group."""


def popularity_groups(
    part: EvalPart, train_counts: Ints, *, bins: int = BINS, edges: Sequence[int] = ()
) -> list[Group]:
    """Group users by the training count of their target, or its mean over several targets.

    Users with count 0 are a group of their own, 'cold'.

    Args:
        part: the users and their targets.
        train_counts: (I,) how often each item occurs in training.
        bins: number of groups with about equally many users. Users with equal counts stay together, so there may be
            fewer groups.
        edges: the least count of each group, in place of `bins`. Counts below the first edge are one more group.

    Raises:
        ConfigError: `bins` is below 1, or `edges` are not in ascending order.
    """
    targets = np.diff(part.bounds)
    users = np.repeat(np.arange(len(targets)), targets)
    values = sums(train_counts[part.targets].astype(np.float64), users, len(targets)) / targets
    cold = values == 0
    groups = [Group("cold", cold)] if cold.any() else []
    return groups + _cut(values, ~cold, bins, edges, "popularity")


def history_groups(part: EvalPart, *, bins: int = BINS, edges: Sequence[int] = ()) -> list[Group]:
    """Group users by how many items they have seen before the target.

    Arguments and errors are those of `popularity_groups`.
    """
    values = np.diff(part.seen_offsets).astype(np.float64)
    return _cut(values, np.ones_like(values, dtype=bool), bins, edges, "history")


def group_metrics(
    ranked: Ranked, groups: Sequence[Group], metrics: Sequence[str], at: Sequence[int]
) -> list[dict[str, Any]]:
    """Return a row for each group: 'group', 'users', and the means of 'HR@10' and the like."""
    values = {f"{name}@{k}": METRICS[name](ranked, k) for k in at for name in metrics if name in METRICS}
    return [
        {"group": group.name, "users": int(group.chosen.sum())}
        | {name: float(value[group.chosen].mean()) for name, value in values.items()}
        for group in groups
    ]


def _cut(values: Floats, among: Bools, bins: int, edges: Sequence[int], what: str) -> list[Group]:
    if bins < 1:
        raise ConfigError(f"--bins is {bins}; ask for at least 1 group")
    if list(edges) != sorted(set(edges)):
        raise ConfigError(f"--{what}-edges are {', '.join(map(str, edges))}; give them in ascending order, each once")
    if not among.any():
        return []
    ordered = np.sort(values[among])
    starts = np.asarray(edges) if edges else np.unique(ordered[np.arange(1, bins) * len(ordered) // bins])
    number = np.searchsorted(starts, values, side="right")
    chosen = [among & (number == group) for group in range(len(starts) + 1)]
    return [Group(_name(values[mask]), mask) for mask in chosen if mask.any()]


def _name(values: Floats) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
