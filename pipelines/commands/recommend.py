"""Verb `recommend`: top items for a user of a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from freezeframe import imports
from pipelines.commands.options import argument, json_option, option


@dataclass(frozen=True)
class Recommend:
    """What `recommend` is asked for."""

    run: Path = argument()
    """Run folder."""
    user: str = option()
    """Raw user id."""
    data: Path | None = option(None)
    """Dataset folder, where it is not the run's; it may hold new interactions."""
    top: int = option(10)
    """How many items."""
    json: bool = json_option()


REQUEST = Recommend


def run(request: Recommend) -> None:
    """Print a user's newest items, and the best items that the user has not seen."""
    with imports():
        from pipelines.retrieval.retrieve import show_recommended
        from pipelines.runs.run import open_run

    opened = open_run(request.run, place=request.data, new_interactions=True, only_user=request.user)
    show_recommended(opened, request.user, request.top, json=request.json)
