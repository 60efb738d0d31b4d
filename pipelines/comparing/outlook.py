"""What a comparison would do, for `compare --dry-run`: which runs are there, which would be trained, what is missing.

Recipes, run folders and the names of feature files are read; no dataset is, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from features.errors import ConfigError
from features.paths import here
from pipelines.comparing.compare import run_folder
from pipelines.recipe.recipe import Recipe, difference, recipe_to_dict
from pipelines.runs.experiment import goes_on
from pipelines.runs.run_files import read_recipe
from pipelines.runs.warm_start import start_folder
from pipelines.training.checkpoint import CHECKPOINT

State = Literal["finished", "unfinished", "longer", "new", "other"]
IN_WORDS: dict[State, str] = {
    "finished": "is there, taken as it is",
    "unfinished": "goes on from its last checkpoint",
    "longer": "is there, goes on for more epochs",
    "new": "would be trained",
    "other": "stops the comparison",
}


@dataclass(frozen=True)
class RunOutlook:
    """What would become of one run folder."""

    recipe: str
    """Name of the recipe."""
    seed: int
    """Seed of the run."""
    folder: str
    """Run folder."""
    state: State
    """'finished', 'unfinished' or 'longer' (its recipe asks for more epochs), 'new', or 'other': the folder holds a run
    with other settings."""
    why: str
    """What differs, for 'other'; else ''."""


def outlook(recipes: Sequence[Recipe], seeds: int, out: Path) -> list[RunOutlook]:
    """Return what `compare` would do with each run folder, in the order of its work."""
    made = []
    for recipe in recipes:
        for seed in range(seeds):
            folder = run_folder(out, recipe, seed)
            state, why = _state(replace(recipe, seed=seed), folder)
            made.append(RunOutlook(recipe.name, seed, str(folder), state, why))
    return made


def _state(recipe: Recipe, folder: Path) -> tuple[State, str]:
    finished = (folder / "metrics.json").is_file()
    if not (folder / "config.yaml").is_file() or not (finished or (folder / CHECKPOINT).is_file()):
        return "new", ""
    before = read_recipe(folder)
    if goes_on(before, recipe):
        return "longer" if finished else "unfinished", ""
    if recipe_to_dict(before) != recipe_to_dict(recipe):
        return "other", difference(before, recipe)
    return "finished" if finished else "unfinished", ""


def obstacles(recipes: Sequence[Recipe], runs: Sequence[RunOutlook]) -> list[str]:
    """Return, each once, what is missing or in the way: dataset folders, feature files, runs to start from."""
    told: dict[str, None] = {}
    for recipe in recipes:
        if not here(recipe.data.folder).is_dir():
            told.setdefault(f"dataset folder {recipe.data.folder} does not exist")
        for feature in recipe.features:
            try:
                feature.resolve()
            except ConfigError as error:
                told.setdefault(str(error))
        told |= dict.fromkeys(_starts_missing(recipe, runs))
    told |= {f"{run.folder} holds a run with other settings ({run.why})": None for run in runs if run.state == "other"}
    return list(told)


def _starts_missing(recipe: Recipe, runs: Sequence[RunOutlook]) -> list[str]:
    """Return the runs that a recipe starts from and that neither exist nor are made by an earlier row."""
    missing = []
    for place, run in enumerate(runs):
        source = start_folder(replace(recipe, seed=run.seed), Path(run.folder)) if run.recipe == recipe.name else None
        if source is None or run.state == "finished" or (source / "metrics.json").is_file():
            continue
        if source not in [Path(earlier.folder) for earlier in runs[:place]]:
            missing.append(f"{source}, which recipe {recipe.name!r} starts from, is no finished run")
    return missing
