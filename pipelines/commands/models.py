"""Verb `models`: the recommenders there are."""

from __future__ import annotations

from dataclasses import dataclass

from features.errors import ConfigError, nearest
from freezeframe import imports
from pipelines.commands.options import argument, json_option


@dataclass(frozen=True)
class Models:
    """What `models` is asked for."""

    name: str | None = argument(nargs="?", metavar="NAME")
    """Recommender to show in full (without it: all of them, in short)."""
    json: bool = json_option()


REQUEST = Models


def run(request: Models) -> None:
    """Print a table of all recommenders, or all about one."""
    with imports():
        from models import described
        from pipelines.console import print_json, table

    rows = []
    for name, model in described().items():
        settings = ", ".join(f"{field}={default}" for field, default in model.settings.items())
        takes = ", ".join(model.takes) if model.uses_items else "-"
        searched = "yes" if model.inner_product else "no"
        rows.append([name, model.what, model.paper, takes, model.trains_on, searched, settings])
    header = ["model", "what", "paper", "items.kind", "trains on", "searchable", "settings"]
    if request.name is not None:
        known = [row[0] for row in rows]
        if request.name not in known:
            raise ConfigError(f"model {request.name!r} is unknown; {nearest(request.name, known)}")
        rows = [rows[known.index(request.name)]]
    if request.json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
    elif request.name is not None:
        table("", ["what", "value"], list(zip(header, rows[0], strict=True)))
    else:
        note = "searchable: the score is an inner product, so that an index can be built; settings: `models NAME`"
        table("models", header[:-1], [row[:-1] for row in rows], note=note, full="models NAME")
