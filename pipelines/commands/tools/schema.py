"""Verb `schema`: what a recipe may hold, for editors that complete and check YAML."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.commands.options import argument


@dataclass(frozen=True)
class Schema:
    """What `schema` is asked for."""

    kind: str = argument(choices=("recipe", "group"), nargs="?", metavar="recipe|group")
    """Which kind of file: recipe (the default), or a group of recipes, as `compare` takes it."""


REQUEST = Schema


def run(request: Schema) -> None:
    """Print the JSON schema of recipe files or group files."""
    from pipelines.commands.options import field_docstrings
    from pipelines.console import print_json
    from pipelines.recipe.schema import group_schema, recipe_schema

    print_json(group_schema(field_docstrings) if request.kind == "group" else recipe_schema(field_docstrings))
