"""Compares several recipes or groups of them, several seeds, or finished runs in one table.

pipelines/comparing/result_table.py says what the table shows, pipelines/recipe/collections.py what a group is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from features.errors import ConfigError, StoreError, nearest
from pipelines.comparing.result_table import Row, Tests, columns, tested_on
from pipelines.comparing.significance import Test, compare_with_baseline
from pipelines.console import note
from pipelines.data.data_config import DataConfig
from pipelines.data.load import Data, load_data
from pipelines.data.report import tell
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
    check_rows(recipes, seeds)
    data = _read_all(recipes)
    _refuse_starts(recipes, seeds, out)
    rows = []
    for place, recipe in enumerate(recipes):
        folders = [run_folder(out, recipe, seed) for seed in range(seeds)]
        runs = []
        for seed, folder in enumerate(folders):
            if len(recipes) * seeds > 1:
                note(f"run {place * seeds + seed + 1} of {len(recipes) * seeds}: {recipe.name}, seed {seed}")
            runs.append(run_recipe(replace(recipe, seed=seed), folder, device=device, data=data[recipe.data]))
        rows.append(Row(recipe, tuple(runs), tuple(folders)))
    return rows


def run_folder(out: Path, recipe: Recipe, seed: int) -> Path:
    """Return the folder of one run of a comparison."""
    return out / f"{recipe.name}-seed{seed}"


def check_rows(recipes: Sequence[Recipe], seeds: int) -> None:
    """Raise ConfigError for a comparison without seeds, or with two recipes of one name."""
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}; a comparison needs at least 1")
    names = [recipe.name for recipe in recipes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{names.count(twice)} recipes are named {twice!r}; give each its own name, for its row and run folders"
        )


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
        folders = [(replace(recipe, seed=seed), run_folder(out, recipe, seed)) for seed in range(seeds)]
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
    place = row_place([row.name for row in rows], baseline)
    check_test(test)
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


def row_place(names: Sequence[str], name: str | None) -> int:
    """Return the place of the baseline's row, the first without a name; ConfigError for a name that no row has."""
    if name is not None and name not in names:
        raise ConfigError(f"--baseline {name!r} is no row of the table; {nearest(name, names)}")
    return names.index(name) if name is not None else 0


def check_test(test: str) -> Test:
    """Return the name of a test; ConfigError for one that there is not."""
    if test not in get_args(Test):
        raise ConfigError(f"--test is {test!r}; {nearest(test, get_args(Test))}")
    return cast(Test, test)
