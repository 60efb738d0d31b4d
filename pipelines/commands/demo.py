"""Verb `demo`: the whole job on a generated corpus, offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.commands.options import option


@dataclass(frozen=True)
class Demo:
    """What `demo` is asked for."""

    out: Path = option(Path("demo"))
    """Folder for the corpus and all artefacts."""
    seeds: int = option(3)
    """Training runs per row of the table."""
    items: int = option(320)
    """Clips in the corpus."""
    users: int = option(900)
    """Users in the corpus."""


REQUEST = Demo


def run(request: Demo) -> None:
    """Do the whole job, and say where things lie."""
    from pipelines.demo import run_demo

    run_demo(request.out, seeds=request.seeds, items=request.items, users=request.users)
