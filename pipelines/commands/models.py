"""Verb `models`: the recommenders there are."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass

from pipelines.commands.options import json_option


@dataclass(frozen=True)
class Models:
    """What `models` is asked for."""

    json: bool = json_option()


REQUEST = Models


def run(request: Models) -> None:
    """Print a table of all recommenders."""
    from models import recommenders
    from pipelines.console import print_json, table

    rows = []
    for name, model in recommenders().items():
        settings = ", ".join(f"{field.name}={field.default}" for field in dataclasses.fields(model.config_class))
        takes = ", ".join(model.takes) if model.uses_items else "-"
        what = (inspect.getdoc(model) or "").split("\n")[0]
        searched = "yes" if model.inner_product else "no"
        rows.append([name, what, model.paper, takes, model.trains_on, searched, settings])
    header = ["model", "what", "paper", "items.kind", "trains on", "searchable", "settings"]
    if request.json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        note = "searchable: the score is an inner product, so that an index can be built; settings: see --json"
        table("models", header[:-1], [row[:-1] for row in rows], note=note)
