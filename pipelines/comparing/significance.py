"""Are two recommenders different? Paired tests and intervals over the users of one test part.

Every value here is one user's, averaged over the seeds of a row. More seeds average out more of the chance in training;
what the tests measure is the chance in the choice of users.

Letters: N users, R resamples, V distinct values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from scipy import stats

from features.errors import ConfigError, nearest
from features.provenance import file_sha256
from pipelines.ranking.metrics import Floats, Ranked, per_user
from pipelines.runs.run_files import read_array, read_metrics

Test = Literal["t", "wilcoxon"]
RESAMPLES = 2000
CELLS = 4_000_000  # numbers drawn at a time, so that memory stays bounded


@dataclass(frozen=True)
class Interval:
    """A mean over users and its interval: percentiles of the bootstrap."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """One metric of one row, beside the baseline's."""

    metric: str
    """The metric's name, such as 'HR@10'."""
    own: Interval
    """The row's mean over users."""
    difference: Interval | None = None
    """Mean of the row minus the baseline, user by user; None for the baseline itself."""
    p: float | None = None
    """The p value of the paired test; None for the baseline itself."""
    p_holm: float | None = None
    """The p value, corrected for the number of rows that were compared in this metric."""


def load_ranks(run: Path) -> Ranked:
    """Return the test ranks of a finished run; ConfigError if they are missing, damaged, or of another test."""
    path, offsets, tied = run / "ranks.npy", run / "rank_offsets.npy", run / "rank_ties.npy"
    if not path.is_file():
        raise ConfigError(f"{run} holds no ranks.npy, which tests need; train its recipe again")
    ranks = read_array(path)
    ties = read_array(tied) if tied.is_file() else None  # runs made before ties were kept hold mean places
    ranked = Ranked(ranks, read_array(offsets), ties) if offsets.is_file() else Ranked.of_one(ranks, ties)
    written = read_metrics(run).get("files", {}) if (run / "metrics.json").is_file() else {}
    for name, digest in written.items():
        if (run / name).is_file() and file_sha256(run / name) != digest:
            raise ConfigError(
                f"{run / name} does not have the sha256 in metrics.json beside it; train the recipe again"
            )
    return ranked


def user_values(runs: Sequence[Path], metric: str) -> Floats:
    """Return (N,) values of a metric such as 'HR@10': for each user, the mean over runs (seeds)."""
    total: Floats = np.mean([per_user(load_ranks(run), metric) for run in runs], axis=0)
    return total


def bootstrap(values: Floats, *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0) -> Interval:
    """Return the mean of (N,) values over users and its percentile interval (Efron and Tibshirani 1993, chapter 13).

    Users are drawn N at a time with replacement. Only how often each distinct value is drawn matters, so the counts are
    drawn instead, from the multinomial distribution: the same law, and V is far below N for ranks cut off at K.
    """
    distinct, counts = np.unique(values, return_counts=True)
    rng = np.random.default_rng(seed)
    per_draw = max(1, CELLS // len(distinct))
    means = [
        rng.multinomial(len(values), counts / len(values), size=min(per_draw, resamples - done)) @ distinct
        for done in range(0, resamples, per_draw)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means) / len(values), [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def paired_p(differences: Floats, test: Test = "t") -> float:
    """Return the two-sided p value of (N,) differences: paired t-test, or Wilcoxon's signed ranks without zeros.

    1 where all differences are 0; ConfigError for a test that does not exist.
    """
    if test not in get_args(Test):
        raise ConfigError(f"--test is {test!r}; {nearest(test, get_args(Test))}")
    if not differences.any():
        return 1.0
    found = stats.wilcoxon(differences) if test == "wilcoxon" else stats.ttest_1samp(differences, 0.0)
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, in the same order (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    count, largest = len(p_values), 0.0
    corrected = [0.0] * count
    for place, row in enumerate(sorted(range(count), key=lambda row: p_values[row])):
        largest = max(largest, min(1.0, (count - place) * p_values[row]))
        corrected[row] = largest
    return corrected


def compare_with_baseline(
    runs: Sequence[Sequence[Path]], baseline: int, metric: str, test: Test = "t"
) -> list[Compared]:
    """Compare rows, each of several runs, with the row `baseline` in one metric.

    All rows must have been tested on the same users and targets, in the same order.
    """
    values = [user_values(row, metric) for row in runs]
    others = [row for row in range(len(runs)) if row != baseline]
    p_values = [paired_p(values[row] - values[baseline], test) for row in others]
    corrected = dict(zip(others, zip(p_values, holm(p_values), strict=True), strict=True))
    return [
        Compared(metric, bootstrap(own))
        if row == baseline
        else Compared(metric, bootstrap(own), bootstrap(own - values[baseline]), *corrected[row])
        for row, own in enumerate(values)
    ]
