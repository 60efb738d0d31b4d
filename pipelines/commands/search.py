"""Verb `search`: try settings of a recipe, judged on the validation part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipelines.commands.options import argument, json_option, option

if TYPE_CHECKING:
    from pipelines.recipe.recipe import Recipe
    from pipelines.runs.search import Sampler, Trial

SHOWN = 10  # trials in the table; all of them are in trials.json


@dataclass(frozen=True)
class Search:
    """What `search` is asked for."""

    recipe: Path = argument()
    """Recipe file."""
    overrides: tuple[str, ...] = argument(nargs="*", metavar="key=value")
    """Settings for all trials."""
    space: tuple[str, ...] = option((), nargs="+", metavar="key=value,value")
    """Values to choose from (without it: learning rate, width and batch size as in the MicroLens paper)."""
    trials: int = option(20)
    """How many different settings to try."""
    sampler: str = option("tpe")
    """How the next settings are chosen: tpe, random or grid."""
    seed: int = option(0)
    """Seed of the sampler."""
    out: Path = option(Path("runs/search"))
    """Folder for the trials' run folders."""
    device: str = option("auto")
    """Device: auto, cpu, cuda, cuda:1, mps and so on."""
    json: bool = json_option()


REQUEST = Search


def run(request: Search) -> None:
    """Try settings, and write the best recipe and a list of all trials."""
    from features.provenance import write_atomic
    from pipelines.console import print_json, say
    from pipelines.recipe.axes import parse_space
    from pipelines.recipe.recipe import load_recipe, recipe_to_dict
    from pipelines.recipe.yaml_text import dump_yaml
    from pipelines.runs.run_files import read_recipe
    from pipelines.runs.search import PAPER_GRID, search

    space, out = parse_space(request.space) if request.space else PAPER_GRID, request.out
    found = search(
        request.recipe,
        request.overrides,
        space,
        request.trials,
        out,
        sampler=cast("Sampler", request.sampler),
        seed=request.seed,
        device=request.device,
        report=say,
    )
    write_atomic(out / "best.yaml", dump_yaml(recipe_to_dict(read_recipe(found[0].run))))
    listed = [
        {"settings": dict(trial.settings), "run": str(trial.run), "valid": trial.value, "error": trial.error}
        for trial in found
    ]
    write_atomic(out / "trials.json", json.dumps(listed, indent=2))
    if request.json:
        print_json(listed)
        return
    _print(load_recipe(out / "best.yaml"), space, found)
    say(f"best recipe: {out / 'best.yaml'}; all trials: {out / 'trials.json'}")


def _print(recipe: Recipe, space: Mapping[str, Any], found: Sequence[Trial]) -> None:
    from pipelines.console import table, warn
    from pipelines.runs.results import print_metrics
    from pipelines.runs.run_files import read_metrics
    from pipelines.runs.search import in_words

    rows = [
        [*(json.dumps(trial.settings[name]) for name in space), "-" if trial.value is None else f"{trial.value:.4f}"]
        for trial in found[:SHOWN]
    ]
    heads = [*space, f"valid {recipe.train.monitor}"]
    table(f"{len(found)} trials of {recipe.name}", heads, rows, keys=len(space))
    for trial in found:
        if trial.error:
            warn(f"{in_words(trial.settings)}: {trial.error}")
    print_metrics(recipe, read_metrics(found[0].run))
