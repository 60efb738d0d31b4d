"""Verb `train`: train and test one recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from freezeframe import imports
from pipelines.commands.options import argument, json_option, option

SHARES = True  # under torchrun its processes share the work; other verbs would each do all of it


@dataclass(frozen=True)
class Train:
    """What `train` is asked for."""

    recipe: Path = argument()
    """YAML file, such as one of pipelines/recipes/."""
    overrides: tuple[str, ...] = argument(nargs="*", metavar="key=value")
    """Settings in place of the recipe's, e.g. train.lr=1e-4 data.folder=DIR."""
    out: Path | None = option(None)
    """Run folder (without it: runs/<name of the recipe>)."""
    device: str = option("auto")
    """Device: auto, cpu, cuda, cuda:1, mps and so on."""
    json: bool = json_option()


REQUEST = Train


def run(request: Train) -> None:
    """Train, or go on, or show what a finished run recorded."""
    with imports():
        from pipelines.console import explain, print_json, say
        from pipelines.data.load import load_data
        from pipelines.data.report import tell
        from pipelines.recipe.recipe import load_recipe
        from pipelines.runs.experiment import goes_on, run_recipe
        from pipelines.runs.processes import processes
        from pipelines.runs.record import RECORD
        from pipelines.runs.results import course_in_words, print_metrics
        from pipelines.runs.run_files import read_object, read_recipe

    with processes(request.device) as (ranks, device):
        recipe = load_recipe(request.recipe, request.overrides)
        folder = request.out or Path("runs") / recipe.name
        done = (folder / "metrics.json").is_file() and not goes_on(read_recipe(folder), recipe)
        data = load_data(recipe.data)
        if ranks.first:
            tell(data.dataset, recipe.data, json=request.json)
        metrics = run_recipe(recipe, folder, device=device, data=data, ranks=ranks)
    if not ranks.first:
        return
    if request.json:
        print_json(metrics)
        return
    say(f"{folder} was finished before; nothing to train" if done else f"trained {recipe.name}, run folder {folder}")
    print_metrics(recipe, metrics)
    if (folder / RECORD).is_file():
        explain(course_in_words(read_object(folder / RECORD)))
