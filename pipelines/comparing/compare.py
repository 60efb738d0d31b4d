"""Compares several recipes or groups of them, several seeds, or finished runs in one table.

pipelines/comparing/comparison.py says what the table shows, pipelines/recipe/collections.py what a group is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from features.errors import ConfigError, StoreError, nearest
from pipelines.comparing.comparison import Comparison, Row, Tests, by_popularity, columns, tested_on, untested
from pipelines.comparing.cost_table import trains_an_encoder
from pipelines.comparing.output import WRITERS, print_comparison
from pipelines.comparing.plot import check_plot, write_plot
from pipelines.comparing.significance import Test, compare_with_baseline
from pipelines.console import say, table
from pipelines.data.data_config import DataConfig
from pipelines.data.load import Data, load_data
from pipelines.data.report import tell
from pipelines.recipe.collections import Plan, plan, print_groups
from pipelines.recipe.recipe import Recipe
from pipelines.runs.experiment import run_recipe
from pipelines.runs.inputs import open_features
from pipelines.runs.run_files import finished_recipe, read_metrics
from pipelines.runs.warm_start import refuse_start, start_folder
from pipelines.towers.open_towers import refuse_shallow

WORDS: dict[Test, str] = {"t": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test"}


def compare(recipes: Sequence[Recipe], seeds: int, out: Path, *, device: str = "auto") -> list[Row]:
    """Run every recipe with seeds 0 .. seeds-1 in `out/<name>-seed<k>`; finished runs are taken as they are.

    Raises:
        ConfigError: no seeds, two recipes of one name, or feature files that are not there or too shallow.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}; a comparison needs at least 1")
    names = [recipe.name for recipe in recipes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{names.count(twice)} recipes are named {twice!r}; give each its own name, for its row and run folders"
        )
    data = _read_all(recipes)
    _refuse_starts(recipes, seeds, out)
    rows = []
    for recipe in recipes:
        folders = [out / f"{recipe.name}-seed{seed}" for seed in range(seeds)]
        runs = [
            run_recipe(replace(recipe, seed=seed), folder, device=device, data=data[recipe.data])
            for seed, folder in enumerate(folders)
        ]
        rows.append(Row(recipe, tuple(runs), tuple(folders)))
    return rows


def _read_all(recipes: Sequence[Recipe]) -> dict[DataConfig, Data]:
    """Return the data of all recipes; check their features, so that errors come before hours of training.

    Raises:
        ConfigError: feature files that are not there, of other items or too shallow; data with nothing to train on.
    """
    data: dict[DataConfig, Data] = {}
    failed: dict[str, None] = {}
    for recipe in recipes:
        try:
            for feature in recipe.features:
                feature.resolve()
            refuse_shallow(recipe)
            if recipe.data not in data:
                data[recipe.data] = load_data(recipe.data)
                tell(data[recipe.data].dataset, recipe.data)
            open_features(recipe, data[recipe.data].split)
        except (ConfigError, StoreError) as error:
            failed.setdefault(str(error))
    if failed:
        several = f"{len(failed)} things are in the way: " if len(failed) > 1 else ""
        raise ConfigError(several + "; ".join(failed))
    return data


def _refuse_starts(recipes: Sequence[Recipe], seeds: int, out: Path) -> None:
    """Raise ConfigError if a row starts from a run that does not fit, or that is not there by the time it is needed."""
    before: dict[Path, Recipe] = {}
    for recipe in recipes:
        folders = [(replace(recipe, seed=seed), out / f"{recipe.name}-seed{seed}") for seed in range(seeds)]
        for seeded, folder in folders:
            source = start_folder(seeded, folder)
            if source is not None and not (folder / "metrics.json").is_file():
                refuse_start(seeded, source, before.get(source))
        before.update((folder, seeded) for seeded, folder in folders)


def finished_rows(folders: Sequence[Path]) -> list[Row]:
    """Return finished runs as rows; runs that differ only in the seed share a row.

    Raises:
        ConfigError: a folder that is no finished run, or one run or seed given twice.
    """
    rows: dict[int, list[tuple[Path, Recipe]]] = {}
    kinds: list[Recipe] = []
    for folder in folders:
        recipe = finished_recipe(folder)
        kind = replace(recipe, seed=0)
        if kind not in kinds:
            kinds.append(kind)
        runs = rows.setdefault(kinds.index(kind), [])
        same = next((path for path, other in runs if other.seed == recipe.seed), None)
        if same is not None:
            raise ConfigError(f"{same} and {folder} are runs of one recipe and seed; give one of them")
        runs.append((folder, recipe))
    names = [kind.name for kind in kinds]
    return [
        Row(
            kinds[place],
            _metrics([folder for folder, _ in runs]),
            tuple(folder for folder, _ in runs),
            label=str(runs[0][0]) if names.count(kinds[place].name) > 1 else "",
        )
        for place, runs in rows.items()
    ]


def _metrics(folders: Sequence[Path]) -> tuple[dict[str, Any], ...]:
    """Return the metrics of runs of one recipe; ConfigError if they were tested on different data."""
    found = [read_metrics(folder) for folder in folders]
    for folder, metrics in zip(folders, found, strict=True):
        if metrics.get("tested_on") != found[0].get("tested_on"):
            raise ConfigError(
                f"{folders[0]} and {folder} are runs of one recipe with different seeds, but were tested on different "
                "data; compare them separately"
            )
    return tuple(found)


def run_tests(rows: Sequence[Row], baseline: str | None = None, test: Test = "t") -> Tests | None:
    """Compare all rows with the baseline (its name; None = the first), user by user, in the metrics of the table.

    Returns:
        None where no other row was tested on the baseline's users, targets, candidates and mask.

    Raises:
        ConfigError: a baseline or a test that does not exist, or a run without ranks.
    """
    place = _baseline([row.name for row in rows], baseline)
    _check_test(test)
    base = rows[place]
    same = [row for row in rows if tested_on(row) == tested_on(base)]
    if len(same) < 2 or tested_on(base)[0] is None:
        return None
    # the first two, and the one that chose the baseline's best epoch
    shown = [metric for group, metric in columns(rows) if group == "all"][:2]
    metrics = list(dict.fromkeys([*shown, base.recipe.train.monitor]))
    runs = [row.folders for row in same]
    per_metric = [compare_with_baseline(runs, same.index(base), metric, test) for metric in metrics]
    return Tests(
        baseline=base.name,
        rows=tuple(row.name for row in same),
        compared=tuple(zip(*per_metric, strict=True)),
        left_out=tuple(row.name for row in rows if row not in same),
        test=WORDS[test],
    )


def _baseline(names: Sequence[str], baseline: str | None) -> int:
    if baseline is not None and baseline not in names:
        raise ConfigError(f"--baseline {baseline!r} is no row of the table; {nearest(baseline, names)}")
    return names.index(baseline) if baseline is not None else 0


def _check_test(test: str) -> None:
    if test not in get_args(Test):
        raise ConfigError(f"--test is {test!r}; {nearest(test, get_args(Test))}")


def run_compare(
    sources: Sequence[Path],
    overrides: Sequence[str],
    seeds: int,
    out: Path,
    device: str,
    baseline: str | None = None,
    test: Test = "t",
    groups: bool = False,
    costs: bool = False,
    plot: Path | None = None,
    axes: Sequence[str] = (),
    markdown: Path | None = None,
    csv: Path | None = None,
    latex: Path | None = None,
) -> None:
    """Command line `compare`; without sources it lists the groups of recipes that come with freezeframe."""
    _check_test(test)
    if plot is not None:
        check_plot(plot)
    if not sources:
        print_groups()
        return
    runs = _run_folders(sources, [*overrides, *axes], seeds)
    made = Plan(()) if runs else plan(sources, overrides, axes)
    baseline = baseline if baseline is not None else made.baseline
    if not runs:
        _baseline([recipe.name for recipe in made.recipes], baseline)  # before hours of training, not after
    rows = finished_rows(runs) if runs else compare(made.recipes, seeds, out, device=device)
    tests = run_tests(rows, baseline, test)
    shown = Comparison(rows, tests, made.title, made.notes, costs or any(map(trains_an_encoder, rows)))
    print_comparison(shown)
    if tests is None and (why := untested(rows, rows[_baseline([row.name for row in rows], baseline)])):
        say(why)
    if groups or made.groups:
        place = _baseline([row.name for row in rows], baseline)
        metric = columns(rows)[0][1]
        table(f"{metric} by popularity", *by_popularity(rows, place, metric))
        say(f"x = times {rows[place].name}; cold = the target never occurs in training")
    for name, path in {"markdown": markdown, "csv": csv, "latex": latex}.items():
        if path:
            WRITERS[name](path, shown)
            say(f"table written to {path}")
    if plot is not None:
        write_plot(plot, shown)
        say(f"picture written to {plot}")


def _run_folders(sources: Sequence[Path], overrides: Sequence[str], seeds: int) -> list[Path]:
    """Return the sources if they are run folders, nothing if they are files."""
    runs = [path for path in sources if path.is_dir()]
    if runs and len(runs) < len(sources):
        other = next(path for path in sources if not path.is_dir())
        raise ConfigError(f"{runs[0]} is a folder and {other} is none; compare recipes or finished runs, not both")
    if runs and (overrides or seeds != 1):
        raise ConfigError(f"{runs[0]} is a run and stays as it is; --set, --axis and --seeds are for recipes")
    return runs
