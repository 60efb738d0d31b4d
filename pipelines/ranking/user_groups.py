"""Test users in groups: by how popular their targets are in training (MicroLens, Figure 6), by length of history.

Letters: N users of a part, R targets.
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
    """Some users of a part: `name` says what they share, `chosen` (N,) who they are."""

    name: str
    chosen: Bools


def popularity_groups(
    part: EvalPart, train_counts: Ints, *, bins: int = BINS, edges: Sequence[int] = ()
) -> list[Group]:
    """Group users by the training count of their target (the mean over several), those with 0 apart as 'cold'.

    Args:
        part: the users and their targets.
        train_counts: (I,) occurrences in training.
        bins: groups of about equally many users; users of one count stay together, so there may be fewer.
        edges: instead, the least count of each group; below the first is a group of its own.

    Raises:
        ConfigError: bins or edges that make no groups.
    """
    targets = np.diff(part.bounds)
    users = np.repeat(np.arange(len(targets)), targets)
    values = sums(train_counts[part.targets].astype(np.float64), users, len(targets)) / targets
    cold = values == 0
    groups = [Group("cold", cold)] if cold.any() else []
    return groups + _cut(values, ~cold, bins, edges, "popularity")


def history_groups(part: EvalPart, *, bins: int = BINS, edges: Sequence[int] = ()) -> list[Group]:
    """Group users by how many items they have seen before the target; arguments and errors as `popularity_groups`."""
    values = np.diff(part.seen_offsets).astype(np.float64)
    return _cut(values, np.ones_like(values, dtype=bool), bins, edges, "history")


def group_metrics(
    ranked: Ranked, groups: Sequence[Group], metrics: Sequence[str], at: Sequence[int]
) -> list[dict[str, Any]]:
    """Return 'group', 'users' and the means of 'HR@10' and the like, for each group."""
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
