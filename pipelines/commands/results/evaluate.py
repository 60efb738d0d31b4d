"""Verb `evaluate`: a finished run ranked again, with other options or by groups of users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from features.errors import ConfigError
from freezeframe import imports
from pipelines.commands.options import argument, json_option, option


@dataclass(frozen=True)
class Evaluate:
    """What `evaluate` is asked for."""

    run: Path = argument()
    """Run folder."""
    data: Path | None = option(None)
    """Dataset folder, if not the run's; it must hold the same interactions."""
    mask: str | None = option(None)
    """What becomes of seen items: keep, hide or strict (without it: as in the run's recipe)."""
    at: str | None = option(None)
    """List lengths, comma-separated, instead of the recipe's."""
    metrics: str | None = option(None)
    """Metrics, such as HR,NDCG,MRR,Coverage, instead of the recipe's."""
    groups: bool = option(False)
    """Also show metrics by popularity of the target and by length of history."""
    bins: int = option(5)
    """Groups of about equally many users."""
    popularity_edges: str | None = option(None)
    """Least training count of each group, e.g. 1,5,20, instead of --bins."""
    history_edges: str | None = option(None)
    """Least number of seen items of each group, instead of --bins."""
    device: str = option("auto")
    """Device: auto, cpu, cuda, cuda:1, mps and so on."""
    json: bool = json_option()


REQUEST = Evaluate


def run(request: Evaluate) -> None:
    """Rank the test users again and print the metrics."""
    with imports():
        from pipelines.console import print_json
        from pipelines.device import resolve_device
        from pipelines.runs.experiment import evaluate_test, evaluated_as, tell_device
        from pipelines.runs.results import as_metrics, print_groups, print_metrics
        from pipelines.runs.run import open_run

    edges = {"--popularity-edges": request.popularity_edges, "--history-edges": request.history_edges}
    idle = next((f"{name} {text}" for name, text in edges.items() if text is not None), None)
    if idle is not None and not (request.groups or request.json):
        raise ConfigError(f"{idle} is for groups of users; add --groups, or --json, which has them")
    opened = open_run(request.run, device=request.device, place=request.data)
    metrics = request.metrics.split(",") if request.metrics else None
    at = _numbers(request.at, "--at") or None
    recipe = evaluated_as(opened.recipe, at=at, metrics=metrics, mask=request.mask or None)
    split, place = opened.data.split, resolve_device(request.device)
    tell_device(request.device, place)
    found = as_metrics(
        evaluate_test(opened.model, recipe, split, place),
        split,
        bins=request.bins,
        popularity_edges=_numbers(request.popularity_edges, "--popularity-edges"),
        history_edges=_numbers(request.history_edges, "--history-edges"),
    )
    if request.json:
        print_json(found)
        return
    print_metrics(recipe, found)
    if request.groups:
        print_groups(recipe, found)


def _numbers(text: str | None, option: str) -> list[int]:
    """Return the numbers of an option such as '5,10,20'; none for None."""
    words = text.split(",") if text else []
    if not all(word.strip().isdecimal() for word in words):
        raise ConfigError(f"{option} is {text!r}; give whole numbers separated by commas, such as 5,10,20")
    return [int(word) for word in words]
