"""Paired tests and intervals: against scipy, against plain resampling, and against what they promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from features.errors import ConfigError
from pipelines.comparing import significance
from pipelines.comparing.significance import (
    bootstrap,
    compare_with_baseline,
    holm,
    load_ranks,
    paired_p,
    user_values,
)


def save(run: Path, ranks: list[float], offsets: list[int] | None = None) -> Path:
    run.mkdir(parents=True)
    np.save(run / "ranks.npy", np.array(ranks, float))
    if offsets is not None:
        np.save(run / "rank_offsets.npy", np.array(offsets))
    return run


def test_the_interval_is_that_of_drawing_users() -> None:
    rng = np.random.default_rng(0)
    values = rng.choice([0, 0.4, 1], size=400, p=[0.7, 0.2, 0.1])
    found = bootstrap(values, resamples=20_000)
    drawn = values[rng.integers(0, 400, (20_000, 400))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=0.002)  # a tenth of the interval's half width
    assert found.high == pytest.approx(high, abs=0.002)
    assert high - low > 0.04


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(300):
        found = bootstrap(rng.binomial(1, 0.3, size=300).astype(float), resamples=500, seed=seed)
        inside += found.low <= 0.3 <= found.high
    assert 0.91 <= inside / 300 <= 0.985


def test_draws_in_pieces_are_the_same_law(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).normal(size=50)
    whole = bootstrap(values, resamples=4000)
    monkeypatch.setattr(significance, "CELLS", 300)
    pieces = bootstrap(values, resamples=4000)
    assert pieces.low == pytest.approx(whole.low, abs=0.03)
    assert bootstrap(np.full(7, 0.25)) == significance.Interval(0.25, 0.25, 0.25)


def test_p_values_are_scipys() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(80), rng.random(80) + 0.1
    assert paired_p(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert paired_p(a - b, "wilcoxon") == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert paired_p(np.zeros(5)) == paired_p(np.zeros(5), "wilcoxon") == 1
    with pytest.raises(ConfigError, match=r"--test is 'wilcoxn'; did you mean 'wilcoxon'\?"):
        paired_p(a, "wilcoxn")  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_as_the_step_down_procedure(p_values: list[float], alpha: float) -> None:
    rejected = set()
    for place, row in enumerate(sorted(range(len(p_values)), key=lambda row: p_values[row])):
        if p_values[row] > alpha / (len(p_values) - place):
            break
        rejected.add(row)
    margin = min(abs(p * n - alpha) for p in p_values for n in range(1, len(p_values) + 1))
    if margin > 1e-9:  # not at the very border, where rounding decides
        assert {row for row, p in enumerate(holm(p_values)) if p <= alpha} == rejected


def test_users_are_averaged_over_seeds(tmp_path: Path) -> None:
    runs = [save(tmp_path / "0", [1, 3, 50]), save(tmp_path / "1", [2, 30, 50])]
    assert user_values(runs, "HR@2").tolist() == [1, 0, 0]
    assert user_values(runs, "HR@10").tolist() == [1, 0.5, 0]
    several = save(tmp_path / "2", [1, 9, 2], [0, 2, 3])
    assert user_values([several], "Recall@5").tolist() == [0.5, 1]
    with pytest.raises(ConfigError, match=r"none holds no ranks\.npy"):
        load_ranks(tmp_path / "none")


def test_rows_are_compared_with_the_baseline(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    base = rng.integers(1, 40, 500).astype(float)
    better = np.maximum(1, base - rng.integers(0, 12, 500))
    runs = [[save(tmp_path / "base", base.tolist())], [save(tmp_path / "same", base.tolist())]]
    runs.append([save(tmp_path / "better", better.tolist())])
    first, same, last = compare_with_baseline(runs, 0, "HR@10")
    assert first.difference is None
    assert first.p is None
    assert same.difference == significance.Interval(0, 0, 0)
    assert (same.p, same.p_holm) == (1, 1)
    assert last.own.mean == pytest.approx((better <= 10).mean())
    assert last.difference is not None
    assert last.difference.low > 0
    wanted = stats.ttest_rel((better <= 10).astype(float), (base <= 10).astype(float)).pvalue
    assert last.p == pytest.approx(wanted)
    assert last.p_holm == pytest.approx(min(1, 2 * wanted))
    turned = compare_with_baseline(runs, 2, "HR@10")[0].difference
    assert turned is not None
    assert turned.mean == pytest.approx(-last.difference.mean)
