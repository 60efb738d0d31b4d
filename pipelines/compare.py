"""Several recipes, several seeds, one table: mean and spread, warm and cold, the paper's number beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from features.errors import ConfigError
from pipelines.config import Recipe, load_recipe
from pipelines.console import say, table
from pipelines.data.split import DataConfig
from pipelines.experiment import Data, load_data, run_recipe

GROUPS = ("all", "warm", "cold")


@dataclass(frozen=True)
class Row:
    """One recipe's results, one entry per seed.

    Attributes:
        recipe: what was run.
        metrics: the metrics of each seed's run.
    """

    recipe: Recipe
    metrics: tuple[dict[str, Any], ...]

    def values(self, group: str, metric: str) -> list[float]:
        """Return one value per seed; empty where the group has no users."""
        found = [metrics["test"][group].get(metric) for metrics in self.metrics]
        return [value for value in found if value is not None]


def compare(recipes: Sequence[Recipe], seeds: int, out: Path, *, device: str = "auto") -> list[Row]:
    """Run every recipe with seeds 0 .. seeds-1 in `out/<name>-seed<k>`; finished runs are taken as they are.

    Raises:
        ConfigError: no seeds, or two recipes of one name.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}; a comparison needs at least 1")
    names = [recipe.name for recipe in recipes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{names.count(twice)} recipes are named {twice!r}; rows and run folders need names of their own"
        )
    data: dict[DataConfig, Data] = {}
    rows = []
    for recipe in recipes:
        if recipe.data not in data:
            data[recipe.data] = load_data(recipe.data)
        runs = [
            run_recipe(
                replace(recipe, seed=seed), out / f"{recipe.name}-seed{seed}", device=device, data=data[recipe.data]
            )
            for seed in range(seeds)
        ]
        rows.append(Row(recipe, tuple(runs)))
    return rows


def spread(values: Sequence[float]) -> str:
    """Return 'mean ± sample standard deviation' to four digits, '-' for no values.

    >>> spread([0.1, 0.2])
    '0.1500 ± 0.0707'
    """
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def comparison(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: HR and NDCG at the first two list lengths, HR also warm and cold."""
    lengths = rows[0].recipe.evaluate.at[:2]
    columns = [(group, f"{m}@{n}") for group in ("all",) for n in lengths for m in ("HR", "NDCG")]
    columns += [(group, f"HR@{lengths[0]}") for group in ("warm", "cold")]
    published = any(row.recipe.paper for row in rows)
    header = ["recipe", *(metric if group == "all" else f"{group} {metric}" for group, metric in columns)]
    header += [f"paper {metric}" for _, metric in columns[:2]] if published else []
    cells = []
    for row in rows:
        line = [row.recipe.name, *(spread(row.values(group, metric)) for group, metric in columns)]
        if published:
            paper = row.recipe.paper.metrics if row.recipe.paper else {}
            line += [f"{paper[metric]:.4f}" if metric in paper else "-" for _, metric in columns[:2]]
        cells.append(line)
    return header, cells


def markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return the table as Markdown."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def summary(rows: Sequence[Row]) -> str:
    """Return the line that says what the numbers are."""
    users = rows[0].metrics[0]["test"]["users"]
    first = rows[0].recipe
    return (
        f"{len(rows[0].metrics)} seed(s), mean ± standard deviation; {users['all']} test users, {users['warm']} warm "
        f"and {users['cold']} cold targets, {rows[0].metrics[0]['candidates']} candidates, seen items: "
        f"{first.evaluate.mask}"
    )


def run_compare(
    recipes: Sequence[Path], overrides: Sequence[str], seeds: int, out: Path, markdown: Path | None, device: str
) -> None:
    """Command line `compare`."""
    rows = compare([load_recipe(path, overrides) for path in recipes], seeds, out, device=device)
    print_comparison("comparison", rows)
    if markdown:
        write_markdown(markdown, rows)
        say(f"table written to {markdown}")


def print_comparison(title: str, rows: Sequence[Row]) -> None:
    """Print the table of `rows`."""
    header, cells = comparison(rows)
    notes = [
        f"{row.recipe.name}: {row.recipe.paper.note}" for row in rows if row.recipe.paper and row.recipe.paper.note
    ]
    table(title, header, cells, note="\n".join([summary(rows), *notes]))


def write_markdown(path: Path, rows: Sequence[Row]) -> None:
    """Write the table of `rows` to a Markdown file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{markdown(*comparison(rows))}\n{summary(rows)}.\n", encoding="utf-8")
