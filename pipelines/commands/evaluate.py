"""Verb `evaluate`: a finished run ranked again, with other options or by groups of users."""

from __future__ import annotations

from pathlib import Path

from features.errors import ConfigError
from pipelines.console import print_json
from pipelines.device import resolve_device
from pipelines.recipe.recipe import build_recipe, recipe_to_dict
from pipelines.runs.experiment import evaluate_test
from pipelines.runs.results import as_metrics, print_groups, print_metrics
from pipelines.runs.run import open_run


def run_evaluate(
    run: Path,
    mask: str | None,
    at: str | None,
    metrics: str | None,
    groups: bool,
    bins: int,
    popularity_edges: str | None,
    history_edges: str | None,
    device: str,
    json: bool,
    data: Path | None = None,
) -> None:
    """Command line `evaluate`."""
    edges = {"--popularity-edges": popularity_edges, "--history-edges": history_edges}
    idle = next((f"{option} {text}" for option, text in edges.items() if text is not None), None)
    if idle is not None and not (groups or json):
        raise ConfigError(f"{idle} is for groups of users; add --groups, or --json, which has them")
    opened = open_run(run, device=device, place=data)
    plain = recipe_to_dict(opened.recipe)
    asked = {"mask": mask, "at": _numbers(at, "--at"), "metrics": metrics.split(",") if metrics else None}
    plain["evaluate"] |= {name: value for name, value in asked.items() if value}
    recipe = build_recipe(plain)
    split = opened.data.split
    found = as_metrics(
        evaluate_test(opened.model, recipe, split, resolve_device(device)),
        split,
        bins=bins,
        popularity_edges=_numbers(popularity_edges, "--popularity-edges"),
        history_edges=_numbers(history_edges, "--history-edges"),
    )
    if json:
        print_json(found)
        return
    print_metrics(recipe, found)
    if groups:
        print_groups(recipe, found)


def _numbers(text: str | None, option: str) -> list[int]:
    """Return the numbers of an option such as '5,10,20'; none for None."""
    words = text.split(",") if text else []
    if not all(word.strip().isdecimal() for word in words):
        raise ConfigError(f"{option} is {text!r}; give whole numbers separated by commas, such as 5,10,20")
    return [int(word) for word in words]
