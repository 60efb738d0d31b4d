"""What the sections of a report show, computed; page.py writes it down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from markupsafe import Markup

from features.errors import ConfigError, FreezeframeError
from features.store import FeatureFile
from pipelines.comparing.cost_table import cost_summary, cost_table
from pipelines.comparing.result_table import Comparison, Row, by_group, columns, comparison, significance, tests_summary
from pipelines.reporting import charts
from pipelines.reporting.feature_look import Examined
from pipelines.reporting.neighbours import nearest_items
from pipelines.reporting.offers import GONE, Offers
from pipelines.reporting.people import Person, concentration, told
from pipelines.runs.results import TITLES, course_in_words, items_in_words
from pipelines.runs.run_files import read_object, read_text

NEIGHBOURS = 5
Made = TypeVar("Made")


@dataclass(frozen=True)
class Table:
    """A table as text: the first `keys` cells of a line name it."""

    caption: str
    """What the table shows."""
    header: Sequence[str]
    """Names of the columns."""
    cells: Sequence[Sequence[str]]
    """The lines."""
    lines: Sequence[str] = ()
    """Remarks below it."""
    keys: int = 1
    """How many cells of a line name it."""


@dataclass(frozen=True)
class Figure:
    """A chart with what stands below it."""

    svg: Markup
    """The chart."""
    caption: str
    """What it shows."""
    table: Table | None = None
    """The numbers behind it."""


@dataclass(frozen=True)
class Neighbours:
    """An item and what each feature file calls similar."""

    item: str
    """Raw id."""
    files: list[tuple[str, list[tuple[str, float]]]]
    """For each file what made it, and the nearest items with their cosines; no items where it has no vector."""


@dataclass(frozen=True)
class RunFacts:
    """What a run was made from and what it took."""

    folder: str
    """The run folder, as it was given."""
    facts: list[tuple[str, str]]
    """Name and value."""
    recipe: str
    """The recipe as it was run, in YAML."""


@dataclass
class Sections:
    """All sections."""

    tables: list[Table] = field(default_factory=list)
    """The comparison, its tests and costs."""
    figures: list[Figure] = field(default_factory=list)
    """Charts of what was scored and what it cost."""
    offers: list[Figure] = field(default_factory=list)
    """How the offers are spread over the items."""
    people: list[Person] = field(default_factory=list)
    """The sample of users."""
    items: list[Neighbours] = field(default_factory=list)
    """Items with their neighbours."""
    features: list[tuple[Examined, Markup]] = field(default_factory=list)
    """Feature files with their charts."""
    runs: list[RunFacts] = field(default_factory=list)
    """One entry for each run."""


def tables(shown: Comparison) -> list[Table]:
    """Return the table of the comparison, of its tests where there are any, and of costs."""
    said, *remarks = shown.lines
    found = [Table("Comparison", *comparison(shown.rows), [said, *remarks])]
    if shown.tests:
        found.append(Table("Differences", *significance(shown.tests), [tests_summary(shown.tests)], keys=2))
    return [*found, Table("Costs", *cost_table(shown.rows), [cost_summary(shown.rows)])]


def figures(shown: Comparison, baseline: int) -> tuple[list[Figure], list[str]]:
    """Return the charts of courses, costs and groups, and a line for each that cannot be drawn."""
    found, missing = _courses(shown.rows)
    found.append(Figure(charts.cost_chart(shown), "Accuracy against seconds of training and validation"))
    if measured := columns(shown.rows):
        metric = measured[0][1]
        for kind in ("popularity", "history"):
            try:
                found.append(_by_group(shown.rows, baseline, metric, kind))
            except ConfigError as error:
                missing.append(f"{metric} by {TITLES[kind]}: {error}")
        found.append(_warm_cold(shown.rows, metric))
    return [one for one in found if one.svg or one.table], missing


def _courses(rows: Sequence[Row]) -> tuple[list[Figure], list[str]]:
    courses, missing = [], []
    for row in rows:
        try:
            told = charts.epochs(row.folders[0])
        except FreezeframeError as error:
            missing.append(f"curves of {row.name}: {error}")
            continue
        if told:
            courses.append((row.name, row.recipe.train.monitor, told))
        elif told is None:
            missing.append(f"curves of {row.name}: its run has no log")
    drawn = charts.course_charts(courses)
    words = ("Loss by epoch", "Validation by epoch, of the metric that chose the best epoch")
    return [Figure(svg, f"{what} (first seed)") for svg, what in zip(drawn, words, strict=True)], missing


def _by_group(rows: Sequence[Row], baseline: int, metric: str, kind: Literal["popularity", "history"]) -> Figure:
    found = by_group(rows, baseline, metric, kind)
    header = [TITLES[kind], "users", *(row.name for row in found.rows)]
    lines = [
        [name, str(users), *(f"{means[place]:.4f}" for means in found.means)]
        for place, (name, users) in enumerate(found.groups)
    ]
    caption = f"{metric} by {TITLES[kind]}"
    return Figure(charts.group_chart(kind, found, metric, TITLES[kind]), caption, Table(caption, header, lines))


def _warm_cold(rows: Sequence[Row], metric: str) -> Figure:
    header = ["row", "warm users", f"warm {metric}", "cold users", f"cold {metric}"]
    cells = []
    for row in rows:
        users, line = row.metrics[0]["test"]["users"], [row.name]
        for group in ("warm", "cold"):
            values = row.values(group, metric)
            line += [str(users[group]), f"{np.mean(values):.4f}" if values else "-"]
        cells.append(line)
    caption = f"{metric} for warm and for cold targets"
    table = Table(caption, header, cells, ["cold = the target never occurs in training"])
    return Figure(charts.warm_cold_chart(rows, metric), caption, table)


def spread(found: Offers) -> list[Figure]:
    """Return chart and table of how the offers are spread over the items; nothing where no row has lists."""
    each = concentration(found)
    header = ["row", "coverage", "Gini", "on cold items", "on the top 1 % of items"]
    cells = [
        [one.row, *(f"{value:.4f}" for value in (one.coverage, one.gini, one.cold_share, one.top_share))]
        for one in each
    ]
    table = Table("Spread of the offers", header, cells, [f"{told(found)}; shares are of all places in these lists"])
    caption = "How much of all lists the most offered items take"
    return [Figure(charts.offer_chart(each), caption, table)] if each else []


def neighbours(files: Sequence[Examined], items: Sequence[str]) -> list[Neighbours]:
    """Return the neighbours of items in all files of vectors; items that are in no file are left out."""
    vectors = [one for one in files if len(one.file.shape) == 2]
    near = [(one.name, nearest_items(one.file, items, NEIGHBOURS)) for one in vectors]
    return [
        Neighbours(item, [(name, found.get(item, [])) for name, found in near])
        for item in items
        if any(item in found for _, found in near)
    ]


def chosen_items(persons: Sequence[Person], files: Iterable[FeatureFile], count: int, seed: int) -> list[str]:
    """Return the items whose neighbours are shown: what the people took and had, then a seeded sample of the files'."""
    met: dict[str, None] = dict.fromkeys(shown.item for one in persons for shown in one.targets)
    met |= dict.fromkeys(shown.item for one in persons for shown in reversed(one.history))
    files = list(files)
    kept = [item for item in met if any(file.done([item])[0] for file in files)][:count]
    others = sorted({item for file in files for item in file.columns.ids} - set(kept)) if len(kept) < count else []
    drawn = np.random.default_rng(seed).permutation(len(others))
    return [*kept, *(others[place] for place in drawn[: count - len(kept)])]


def run_facts(rows: Sequence[Row]) -> list[RunFacts]:
    """Return what each run was made from, on which machine, and what it took; ConfigError for a damaged run."""
    return [_facts(row, folder) for row in rows for folder in row.folders]


def _facts(row: Row, folder: Path) -> RunFacts:
    record = read_object(folder / "record.json") if (folder / "record.json").is_file() else {}
    data: dict[str, Any] = record.get("dataset", {})
    metrics = row.metrics[row.folders.index(folder)]
    facts = [("seed", str(record.get("seed", "not recorded")))]
    if data:
        facts.append(("dataset", f"{data.get('name')}, fingerprint {data.get('fingerprint')}"))
    if sizes := metrics.get("sizes"):
        facts.append(
            ("sizes", f"{sizes['users']} users, {items_in_words(sizes)}, {sizes['interactions']} interactions")
        )
    facts += [
        (
            "features",
            f"{Path(one['file']).name}, fingerprint {one['fingerprint']}, vectors {one['vectors_sha256'][:16]}",
        )
        for one in record.get("features", ())
    ]
    facts += [("course", words)] if (words := course_in_words(record)) else []
    libraries = ", ".join(f"{name} {version}" for name, version in record.get("libraries", {}).items())
    facts += [("code", record["code"])] if "code" in record else []
    facts += [("libraries", libraries)] if libraries else []
    facts += [("command", " ".join(record["command"]))] if record.get("command") else []
    facts += [("finished", record["finished"])] if "finished" in record else []
    return RunFacts(str(folder), facts, read_text(folder / "config.yaml"))


def missing_of(what: str, make: Callable[[], Made], missing: list[str]) -> Made | None:
    """Return what `make()` returns; where something it needs is gone, None, with a line in `missing`."""
    try:
        return make()
    except GONE as error:
        missing.append(f"{what}: {error}")
        return None
