"""The rows of a report: run folders as they are given, or the finished runs of recipes and groups of recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path

from features.errors import ConfigError
from pipelines.comparing.compare import finished_rows, row_place, run_folder, run_tests
from pipelines.comparing.result_table import Comparison, Row, Tests
from pipelines.recipe.plan import Plan, plan
from pipelines.recipe.recipe import difference
from pipelines.runs.run_files import finished_recipe


@dataclass(frozen=True)
class Gathered:
    """What a report is about."""

    shown: Comparison
    """The rows, with their tests."""
    baseline: int
    """Place of the row that the others are compared with."""
    missing: list[str]
    """What could not be had, one line each."""


def gather(
    sources: Sequence[Path],
    *,
    runs: Path = Path("runs"),
    overrides: Sequence[str] = (),
    axes: Sequence[str] = (),
    baseline: str | None = None,
    title: str = "",
) -> Gathered:
    """Return the rows of run folders, or of the finished runs of recipe files and groups of them.

    Args:
        sources: run folders; or recipe files and groups, whose runs are looked for.
        runs: the folder where `compare` put the runs of recipes and groups.
        overrides: words `key=value` that the recipes were run with.
        axes: words `key=value,value` that made a row of each combination.
        baseline: name of the row the others are compared with; without it the group's own, or the first.
        title: the page's title, if not the group's.

    Raises:
        ConfigError: run folders and files are mixed, a folder is no finished run, or no recipe has one.
    """
    folders = [path for path in sources if path.is_dir()]
    if folders and len(folders) < len(sources):
        other = next(path for path in sources if not path.is_dir())
        raise ConfigError(f"{folders[0]} is a folder and {other} is none; report run folders or recipes, not both")
    if folders and (overrides or axes):
        raise ConfigError(f"{folders[0]} is a run and stays as it is; --set and --axis are for recipes")
    made = Plan(())
    missing: list[str] = []
    if not folders:
        made = plan(sources, overrides, axes)
        folders, missing = _finished(made, runs)
    rows = finished_rows(folders)
    wanted = baseline if baseline is not None else made.baseline
    names = [row.name for row in rows]
    if baseline is None and wanted not in names:  # the group's baseline has not been run
        wanted = None
    place = row_place(names, wanted)
    tests, why = _tests(rows, wanted)
    shown = Comparison(rows, tests, title or (made.title if made.title != Comparison.title else ""), made.notes, True)
    return Gathered(shown, place, [*missing, *why])


def _finished(made: Plan, runs: Path) -> tuple[list[Path], list[str]]:
    """Return the finished runs of a plan's recipes, and a line for each recipe without one or with other settings."""
    found: list[Path] = []
    missing: list[str] = []
    for recipe in made.recipes:
        seeds = (run_folder(runs, replace(recipe, seed=seed), seed) for seed in count())
        own = list(takewhile(lambda folder: (folder / "metrics.json").is_file(), seeds))
        found += own
        if not own:
            missing.append(f"row {recipe.name}: {run_folder(runs, recipe, 0)} is no finished run")
        elif (ran := replace(finished_recipe(own[0]), seed=recipe.seed)) != recipe:
            missing.append(f"row {recipe.name}: its recipe; {own[0]} has other settings ({difference(ran, recipe)})")
    if not found:
        raise ConfigError(
            f"none of {len(made.recipes)} recipes has a finished run in {runs}; run them with `compare`, or name the "
            "folder of their runs with --runs"
        )
    return found, missing


def _tests(rows: Sequence[Row], baseline: str | None) -> tuple[Tests | None, list[str]]:
    """Return the tests against the baseline, or None and why a run does not allow them."""
    try:
        return run_tests(rows, baseline), []
    except ConfigError as error:
        return None, [f"intervals and tests: {error}"]
