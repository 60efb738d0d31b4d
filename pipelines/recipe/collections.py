"""Groups of recipes: one YAML file per table or figure of a paper, which `compare` runs as a whole.

A group names recipe files and its published source. It is read as strictly as a recipe. No recipe is loaded here, so
that `compare` lists the groups without torch; plan.py makes their rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from features.errors import ConfigError, nearest
from features.paths import shortest
from pipelines.console import table
from pipelines.recipe.paper import PaperResult
from pipelines.recipe.structure import structure
from pipelines.recipe.yaml_text import RECIPES, read_mapping

SHIPPED = RECIPES / "tables"


@dataclass(frozen=True)
class Member:
    """One row of a group: a recipe file, unchanged or with some keys set."""

    recipe: str
    """The recipe file, relative to the group file."""
    name: str = ""
    """Name of the row and its run folder; needed if keys are set."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key -> value, as if written in the recipe file. `small.items.dim` sets a value under its `small`."""
    paper: PaperResult | None = None
    """Published result of the row. If keys are set, the one in the recipe file does not apply."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse a changed recipe without a name, and a name or a published result for an unchanged one."""
        if bool(self.set) != bool(self.name) or (self.paper and not self.set):
            raise ConfigError(
                f"recipes: row {self.name or self.recipe!r} must have recipe, name and set, or a recipe alone"
            )

    @property
    def changes(self) -> dict[str, Any]:
        """Return the dotted keys and values to set in the recipe file."""
        if not self.name:
            return {}
        return {"name": self.name, "paper": asdict(self.paper) if self.paper else None, **self.set}


@dataclass(frozen=True)
class Group:
    """A group of recipes: the rows of one published table."""

    title: str
    """Title of our table."""
    source: str
    """Paper and table. Known oddities of the source are printed below our table."""
    recipes: tuple[Member, ...]
    """The rows, in order."""
    notes: tuple[str, ...] = ()
    """Further notes, printed below our table."""
    baseline: str | None = None
    """Name of the recipe that the others are tested against; None = the first."""
    groups: bool = False
    """Whether to print the table by popularity of the target as well, as `--groups` does."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse a group without recipes."""
        if not self.recipes:
            raise ConfigError("recipes is empty; name at least one recipe file, relative to the group file")


def load_group(path: Path) -> Group:
    """Read a group file; ConfigError if anything in it is wrong, or a recipe file does not exist."""
    return group_of(path, read_mapping(path))


def group_of(path: Path, raw: dict[str, Any]) -> Group:
    """Return the group of a file whose plain data were read; errors as `load_group`."""
    rows = raw.get("recipes")
    if isinstance(rows, list):
        raw = raw | {"recipes": [{"recipe": row} if isinstance(row, str) else row for row in rows]}
    try:
        group: Group = structure(Group, raw, "")
    except ConfigError as error:
        raise ConfigError(f"group {path}: {error}") from error
    for name in [row.recipe for row in group.recipes]:
        if not (path.parent / name).is_file():
            folder = (path.parent / name).parent
            there = nearest(Path(name).name, [found.name for found in folder.glob("*.yaml")])
            raise ConfigError(f"group {path} names {name!r}, which does not exist in {folder.resolve()}; {there}")
    return group


def print_groups() -> None:
    """Print the groups of recipes that come with freezeframe."""
    cells = [["-" if value is None else str(value) for value in group.values()] for group in list_groups()]
    table("groups of recipes", ["file", "title", "source", "recipes", "baseline"], cells)


def list_groups() -> list[dict[str, Any]]:
    """Return file, title, source, number of recipes and baseline of the groups that come with freezeframe.

    They are not checked here as `load_group` does, which takes longer than reading them: a test does that.
    """
    found = {path: read_mapping(path) for path in sorted(SHIPPED.glob("*.yaml"))}
    return [
        {
            "file": shortest(path),
            "title": group["title"],
            "source": group["source"],
            "recipes": len(group["recipes"]),
            "baseline": group.get("baseline"),
        }
        for path, group in found.items()
    ]
