"""What a comparison shows: rows of recipes, their numbers beside the papers' and beside a baseline's, and notes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from features.errors import ConfigError
from pipelines.comparing.significance import RESAMPLES, Compared, Interval
from pipelines.ranking.metrics import METRICS
from pipelines.recipe.file_origin import Origin
from pipelines.recipe.oddities import oddities
from pipelines.recipe.paper import PaperResult
from pipelines.recipe.published_data import withheld
from pipelines.recipe.recipe import Recipe
from pipelines.runs.origin import of_run
from pipelines.runs.results import items_in_words, never_met_doubt

ELSEWHERE = "tested on other users, candidates or seen items, or another split"


@dataclass(frozen=True)
class Row:
    """One recipe's results, one entry per seed."""

    recipe: Recipe
    """The recipe that was run."""
    metrics: tuple[dict[str, Any], ...]
    """The metrics of each seed's run."""
    folders: tuple[Path, ...] = ()
    """The run folders, in the same order."""
    label: str = ""
    """The row's name, if the recipe's name is not unique."""

    @property
    def name(self) -> str:
        """Return the row's name."""
        return self.label or self.recipe.name

    @cached_property
    def content(self) -> list[Origin] | None:
        """Return the origins of the row's item content, each once; None if no run recorded them."""
        found = [of_run(folder) for folder in self.folders]
        told = [one for run in found if run is not None for one in run]
        return None if all(run is None for run in found) else list(dict.fromkeys(told))

    @property
    def paper(self) -> PaperResult | None:
        """Return the published numbers that may stand beside the row's; None where there are none."""
        return None if self.withheld else self.recipe.paper

    @property
    def withheld(self) -> str:
        """Return why the row's published numbers are left out; '' if there are none, or they fit."""
        return withheld(self.recipe, self.metrics[0] if self.metrics else {})

    def values(self, group: str, metric: str) -> list[float]:
        """Return one value per seed; empty where the group has no users."""
        found = [metrics["test"].get(group, {}).get(metric) for metrics in self.metrics]
        return [value for value in found if value is not None]


@dataclass(frozen=True)
class Tests:
    """Rows compared with a baseline on the users of one test part."""

    __test__ = False  # tells pytest that this is no test class

    baseline: str
    """Name of the row the others are compared with."""
    rows: tuple[str, ...]
    """Names of the rows, the baseline among them."""
    compared: tuple[tuple[Compared, ...], ...]
    """For each row, one entry per metric."""
    left_out: tuple[str, ...]
    """Names of rows that were tested on something else."""
    test: str
    """The name of the test behind the p values."""


@dataclass(frozen=True)
class Comparison:
    """All that a comparison shows."""

    rows: Sequence[Row]
    """The rows of the table."""
    tests: Tests | None = None
    """Tests against the baseline; None where no row can be tested."""
    title: str = "comparison"
    """The table's title."""
    notes: tuple[str, ...] = ()
    """Notes on the published table as a whole."""
    costs: bool = False
    """Whether the table of costs is shown."""

    @property
    def lines(self) -> list[str]:
        """Return the lines below the table: what the numbers are, then every note once."""
        return [summary(self.rows), *dict.fromkeys([*notes(self.rows), *self.notes])]


def spread(values: Sequence[float]) -> str:
    """Return 'mean ± sample standard deviation' to four digits, '-' for no values.

    >>> spread([0.1, 0.2])
    '0.1500 ± 0.0707'
    """
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the (group, metric) columns: two metrics at two list lengths, the first also for warm and cold."""
    asked = rows[0].recipe.evaluate
    lengths, names = asked.at[:2], [name for name in asked.metrics if name in METRICS][:2]
    found = [("all", f"{name}@{n}") for n in lengths for name in names]
    shown = [column for column in found if any(row.values(*column) for row in rows)]
    return shown + [(group, shown[0][1]) for group in ("warm", "cold")] if shown else []


def comparison(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: our metrics with spread; the paper's at the first list length, and ours minus those."""
    shown = columns(rows)
    first = [metric for group, metric in shown if group == "all"][:2]
    published = any(row.paper for row in rows)
    told = any(row.content for row in rows)
    header = [
        "recipe",
        *(["made from"] if told else []),
        "seeds",
        *(metric if group == "all" else f"{group} {metric}" for group, metric in shown),
    ]
    header += [f"{what} {metric}" for what in ("paper", "ours - paper") for metric in first] if published else []
    cells = []
    for row in rows:
        made = [made_from(row)] if told else []
        line = [row.name, *made, str(len(row.metrics)), *(spread(row.values(group, metric)) for group, metric in shown)]
        if published:
            paper = row.paper.metrics if row.paper else {}
            line += [f"{paper[metric]:.4f}" if metric in paper else "-" for metric in first]
            line += [_against_paper(row, metric) for metric in first]
        cells.append(line)
    return header, cells


def made_from(row: Row) -> str:
    """Return what made a row's content, marked where it is random or faulty; '-' where there is none."""
    return ", ".join(one.label for one in row.content) if row.content else "-" if row.content == [] else "not recorded"


def paper_difference(row: Row, metric: str) -> tuple[float, float] | None:
    """Return our mean minus the paper's number, absolute and relative to it; None where one of them is missing."""
    published = row.paper.metrics.get(metric) if row.paper else None
    ours = row.values("all", metric)
    if published is None or not ours:
        return None
    difference = statistics.fmean(ours) - published
    return difference, difference / published if published else float("nan")


def _against_paper(row: Row, metric: str) -> str:
    found = paper_difference(row, metric)
    return "-" if found is None else f"{found[0]:+.4f} ({100 * found[1]:+.1f} %)"


def significance(tests: Tests) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: mean with interval, difference to the baseline with interval, p values."""
    header = ["recipe", "metric", "mean [95 %]", f"minus {tests.baseline} [95 %]", "p", "p (Holm)"]
    cells = [
        [name, one.metric, _interval(one.own, ""), _interval(one.difference, "+"), _p(one.p), _p(one.p_holm)]
        for place in range(len(tests.compared[0]))
        for name, row in zip(tests.rows, tests.compared, strict=True)
        for one in (row[place],)
    ]
    return header, cells


def _interval(found: Interval | None, sign: str) -> str:
    return "-" if found is None else f"{found.mean:{sign}.4f} [{found.low:{sign}.4f}, {found.high:{sign}.4f}]"


def _p(value: float | None) -> str:
    return "-" if value is None else "<0.0001" if value < 0.0001 else f"{value:.4f}"


def by_popularity(rows: Sequence[Row], baseline: int, metric: str) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of one metric by popularity of the target, and its ratio to the baseline (Figure 6).

    `by_group` says which rows are left out, and what is refused.
    """
    found = by_group(rows, baseline, metric, "popularity")
    base = found.means[found.rows.index(rows[baseline])]
    header = ["training count of the target", "users", *(f"{row.name} {metric}" for row in found.rows)]
    cells = [
        [group, str(users), *(_ratio(row[place], base[place]) for row in found.means)]
        for place, (group, users) in enumerate(found.groups)
    ]
    return header, cells


@dataclass(frozen=True)
class ByGroup:
    """One metric by groups of users."""

    groups: list[tuple[str, int]]
    """Name and number of users of each group."""
    rows: list[Row]
    """The rows that have these groups."""
    means: list[list[float]]
    """For each row, the metric of each group, averaged over seeds."""


def by_group(rows: Sequence[Row], baseline: int, metric: str, kind: Literal["popularity", "history"]) -> ByGroup:
    """Return one metric by popularity of the target or by length of history.

    Rows that were tested on other users than the baseline are left out, and so are those whose training part puts the
    users into other groups, or that lack the metric.

    Raises:
        ConfigError: a run without groups in its metrics file.
    """
    same = [row for row in rows if tested_on(row) == tested_on(rows[baseline])]
    told = [[metrics["test"].get("groups") for metrics in row.metrics] for row in same]
    if not all(found for row in told for found in row):
        raise ConfigError("--groups needs runs whose metrics.json holds groups; train the recipes again")
    shapes = [_shape(found[0][kind], metric) for found in told]
    base = shapes[same.index(rows[baseline])]
    kept = [place for place, shape in enumerate(shapes) if shape == base]
    means = [
        [
            statistics.fmean(values)
            for values in zip(*([g[metric] for g in seed[kind]] for seed in told[place]), strict=True)
        ]
        for place in kept
    ]
    return ByGroup([(name, users) for name, users, _ in base], [same[place] for place in kept], means)


def _shape(groups: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[str, int, bool]]:
    """Return name and users of each group, and whether it has the metric."""
    return [(group["group"], group["users"], metric in group) for group in groups]


def _ratio(value: float, base: float) -> str:
    return f"{value:.4f} ({value / base:.2f} x)" if base else f"{value:.4f}"


def tested_on(row: Row) -> tuple[Any, ...]:
    """Return what two rows must share to be compared user by user: test part, candidates and mask; None if not told."""
    return (row.metrics[0].get("tested_on"), row.recipe.evaluate.mask)


def summary(rows: Sequence[Row]) -> str:
    """Return the line that says what the numbers are; name rows that were tested on something else than the first."""
    line = f"{_seeds(rows)}, mean ± standard deviation; {_protocol(rows[0])}"
    others = [f"{row.name}: {_protocol(row)}" for row in rows[1:] if _protocol(row) != _protocol(rows[0])]
    return "; ".join([line, *others])


def _seeds(rows: Sequence[Row]) -> str:
    counts = sorted({len(row.metrics) for row in rows})
    return f"{' to '.join(str(count) for count in (counts if len(counts) < 2 else (counts[0], counts[-1])))} seed(s)"


def _protocol(row: Row) -> str:
    metrics = row.metrics[0]
    users, sizes = metrics["test"]["users"], metrics.get("sizes")
    met = f" ({items_in_words(sizes)} in {sizes['interactions']} interactions)" if sizes else ""
    return (
        f"{users['all']} test users, {users['warm']} warm and {users['cold']} cold targets, "
        f"{metrics['candidates']} candidates{met}, seen items: {row.recipe.evaluate.mask}" + own_split_in_words(metrics)
    )


def own_split_in_words(metrics: Mapping[str, Any]) -> str:
    """Return what a split other than leave-one-out goes by, after a comma; '' for leave-one-out."""
    if told := metrics.get("split_told"):
        return f", {told}"
    return ", the dataset's own split" if metrics.get("split") == "given" else ""


def tests_summary(tests: Tests) -> str:
    """Return the line that says what the tests are."""
    line = (
        f"[95 %]: bootstrap over test users ({RESAMPLES} resamples, percentiles) of values averaged over seeds; "
        f"p: {tests.test} over users, against {tests.baseline}; Holm: over the {len(tests.rows) - 1} rows compared "
        "with it, each metric separately"
    )
    left_out = f"; {ELSEWHERE}: {', '.join(tests.left_out)}"
    return line + (left_out if tests.left_out else "")


def untested(rows: Sequence[Row], baseline: Row) -> str:
    """Return why no row can be tested against the baseline; '' if there is no other row."""
    others = [row.name for row in rows if row is not baseline]
    if not others:
        return ""
    old = [row.name for row in (baseline, *rows) if tested_on(row)[0] is None]
    if old:
        return f"no tests: {old[0]} is a run of an older version, which kept too little; train it again"
    return f"no tests against {baseline.name}: {ELSEWHERE}: {', '.join(others)}"


def _doubt(row: Row) -> str:
    """Return what is odd about a row's never-met items, from the first seed that shows it; '' if nothing is."""
    found = [metrics["test"]["never_met"] for metrics in row.metrics if "never_met" in metrics["test"]]
    return next((why for each in found if (why := never_met_doubt(row.recipe, each))), "")


def notes(rows: Sequence[Row]) -> list[str]:
    """Return notes: numbers left out, origins, doubts, each recipe's source and note, and the source's oddities."""
    papers = [(row.name, row.paper) for row in rows if row.paper]
    own = [f"{name}: {'; '.join(filter(None, (paper.source, paper.note)))}" for name, paper in papers]
    doubts = [f"{row.name}: {why}" for row in rows if (why := _doubt(row))]
    content = [f"{row.name} is made from {one.line}" for row in rows for one in row.content or ()]
    odd = [note for _, paper in papers for note in oddities(paper.source)]
    return list(dict.fromkeys([*_left_out(rows), *content, *doubts, *own, *odd]))


def _left_out(rows: Sequence[Row]) -> list[str]:
    """Return one line for each reason why published numbers are left out, with the rows where not all share it."""
    published = [row.name for row in rows if row.recipe.paper]
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.withheld:
            names.setdefault(row.withheld, []).append(row.name)
    return [
        f"the published numbers{'' if of == published else ' of ' + ', '.join(of)} are left out: {why}"
        for why, of in names.items()
    ]
