"""Verb `init`: a recipe drafted for a dataset folder and its feature files."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import ConfigError
from features.installation import called_as
from pipelines.commands.options import COLUMNS, argument, json_option, option

if TYPE_CHECKING:
    from pipelines.data.dataset import Dataset
    from pipelines.drafting.draft import Draft
    from pipelines.drafting.found_features import Search


@dataclass(frozen=True)
class Init:
    """What `init` is asked for."""

    data: Path = argument()
    """Dataset folder (docs/datasets.md)."""
    out: Path = option(Path("recipe.yaml"))
    """Recipe to write."""
    features: tuple[Path, ...] = option((), nargs="+", metavar="FILE|FOLDER")
    """Feature files, or folders of them; only those that fit the dataset are read. Without it: data/features, features,
    and folders named features in and beside the dataset folder."""
    columns: str | None = option(None, help=COLUMNS)
    force: bool = option(False)
    """Write over a recipe that is there."""
    json: bool = json_option()


REQUEST = Init


def run(request: Init) -> None:
    """Print the report of a dataset, write a recipe that fits it, and print the next commands."""
    from features.provenance import write_atomic
    from pipelines.console import print_json, say
    from pipelines.data.detection import read_dataset
    from pipelines.data.report import data_report, print_report
    from pipelines.data.tables import parse_columns
    from pipelines.drafting.draft import draft
    from pipelines.drafting.recipe_text import recipe_text

    _refuse_taken(request)
    columns = parse_columns(request.columns)
    dataset = read_dataset(request.data, columns)
    report = data_report(dataset)
    if not request.json:
        print_report(report)
    made = draft(request.data, dataset, report, columns, request.features)
    text = recipe_text(made)
    request.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(request.out, text)
    commands = _next_commands(request, made, dataset)
    if request.json:
        told = {"recipe": str(request.out), "report": asdict(report) | {"warnings": report.warnings()}}
        print_json(told | _features_as_data(made.search) | {"next": commands})
        return
    _tell_features(made.search)
    _tell_published(dataset)
    say(f"{request.out} written; each choice in it has its reason beside it")
    say("next:")
    for command in commands:
        say(f"  {command}")


def _refuse_taken(request: Init) -> None:
    if request.out.is_dir():
        raise ConfigError(f"--out {request.out} is a folder; name a file, such as {request.out / 'recipe.yaml'}")
    if request.out.exists() and not request.force:
        raise ConfigError(f"{request.out} exists; give --force to write over it, or another --out")


def _tell_features(search: Search) -> None:
    from pipelines.console import say

    for found in search.chosen:
        say(f"features: {found.path}: {found.line}")
    for found, why in search.others:
        say(f"  not read: {found.path}: {why}")
    for path, why in search.passed_over:
        say(f"  passed over: {path}: {why}")
    if not search.chosen:
        places = dict.fromkeys(str(place) for place in search.places)
        say(f"features: none that fit in {', '.join(places)}; the recipe uses ids alone")


def _tell_published(dataset: Dataset) -> None:
    from pipelines.console import say
    from pipelines.recipe.published_data import known_dataset

    if known := known_dataset(dataset.counts()):
        say(f"its counts are those of {known.name}; for the published settings take a recipe of pipelines/recipes/")


def _features_as_data(search: Search) -> dict[str, Any]:
    others = [(found.path, why) for found, why in search.others]
    return {
        "features": [{"path": str(found.path), "holds": found.line} for found in search.chosen],
        "passed_over": [{"path": str(path), "why": why} for path, why in [*others, *search.passed_over]],
    }


def _next_commands(request: Init, made: Draft, dataset: Dataset) -> list[str]:
    """Return the commands that a user may want now."""
    from pipelines.drafting.draft import encoders_for

    start, recipe = called_as(), shlex.quote(str(request.out))
    commands = [f"{start} train {recipe}"]
    if made.search.chosen:
        return [*commands, f"{start} compare {recipe} --axis items.kind=id,v,id+v --seeds 3"]
    data = f"{shlex.quote(str(request.data))}{f' --columns {shlex.quote(request.columns)}' if request.columns else ''}"
    if encoders := encoders_for(dataset):
        commands.append(f"{start} extract --data {data} --encoders {','.join(encoders)} --out data/features")
        commands.append(f"{start} init {data} --out {recipe} --force")
    return commands
