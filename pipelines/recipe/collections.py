"""Groups of recipes: one YAML file per table or figure of a paper, which `compare` runs as a whole.

A group names recipe files and its published source. It is read as strictly as a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from features.errors import ConfigError, nearest
from features.paths import shortest
from pipelines.console import table
from pipelines.recipe.axes import parse_axes, vary
from pipelines.recipe.oddities import oddities
from pipelines.recipe.recipe import RECIPES, PaperResult, Recipe, load_recipe, read_mapping
from pipelines.recipe.structure import structure

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


@dataclass(frozen=True)
class Plan:
    """The rows of a comparison, made from the recipe and group files given to it."""

    recipes: tuple[Recipe, ...]
    """Recipes from all files, each once, in order."""
    title: str = "comparison"
    """Title of the table."""
    notes: tuple[str, ...] = ()
    """Notes of the groups, and known oddities of their sources."""
    baseline: str | None = None
    """Baseline of the first group that names one."""
    groups: bool = False
    """Whether a group asks for the table by popularity."""


def load_group(path: Path) -> Group:
    """Read a group file; ConfigError if anything in it is wrong, or a recipe file does not exist."""
    return _group(path, read_mapping(path))


def _group(path: Path, raw: dict[str, Any]) -> Group:
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


def plan(sources: Sequence[Path], overrides: Sequence[str], axes: Sequence[str] = ()) -> Plan:
    """Read recipe files and group files in any mixture, and apply the overrides to every recipe.

    Overrides of `features` skip recipes that list no feature files, so that one override can give a whole group other
    features.

    Args:
        sources: recipe and group files.
        overrides: words `key=value`.
        axes: words `key=value,value`; every recipe becomes one row per combination (see pipelines/recipe/axes.py).

    Raises:
        ConfigError: anything in one of the files is wrong, an override applies to no recipe, or axes are given with a
            group.
    """
    groups: dict[Path, Group] = {}
    rows: list[_Row] = []
    for source in sources:
        raw = read_mapping(source)
        if not _is_group(raw):
            rows.append(_Row(source.resolve(), {}))
            continue
        groups[source] = _group(source, raw)
        rows += [_Row((source.parent / row.recipe).resolve(), row.changes) for row in groups[source].recipes]
    if axes and groups:
        raise ConfigError(
            f"--axis is for recipes, but {next(iter(groups))} is a group of recipes; name its recipes instead"
        )
    rows = [row for place, row in enumerate(rows) if row not in rows[:place]]  # two groups may share a row
    _check_features(overrides, rows)
    recipes = tuple(made for row in rows for made in _load(row, overrides, axes))
    for path, group in groups.items():
        names = [recipe.name for recipe in recipes]
        if group.baseline is not None and group.baseline not in names:
            raise ConfigError(
                f"group {path}: baseline {group.baseline!r} is not one of the recipes; {nearest(group.baseline, names)}"
            )
    return _joined(recipes, list(groups.values()))


def _joined(recipes: tuple[Recipe, ...], groups: Sequence[Group]) -> Plan:
    if not groups:
        return Plan(recipes)
    notes = [note for group in groups for note in (*oddities(group.source), *group.notes)]
    return Plan(
        recipes,
        title="; ".join(f"{group.title} ({group.source})" for group in groups),
        notes=tuple(dict.fromkeys(notes)),
        baseline=next((group.baseline for group in groups if group.baseline is not None), None),
        groups=any(group.groups for group in groups),
    )


def _is_group(raw: dict[str, Any]) -> bool:
    return "model" not in raw and ("recipes" in raw or "title" in raw)


@dataclass(frozen=True)
class _Row:
    path: Path
    """The recipe file."""
    changes: Mapping[str, Any]
    """Dotted key -> value, to set in the recipe file."""

    def fitting(self, overrides: Sequence[str]) -> list[str]:
        """Return the overrides, without those of feature files if the recipe lists none."""
        features = self.changes.get("features", read_mapping(self.path).get("features"))
        return [word for word in overrides if features or not word.startswith("features.")]


def _load(row: _Row, overrides: Sequence[str], axes: Sequence[str]) -> list[Recipe]:
    words = row.fitting(overrides)
    try:
        base = load_recipe(row.path, words, row.changes)
    except ConfigError as error:
        where = f"row {row.changes['name']!r}: " if row.changes else ""
        raise ConfigError(f"{where}{error}") from error
    if not axes:
        return [base]
    return vary(base, lambda more: load_recipe(row.path, [*words, *more], row.changes), parse_axes(axes))


def _check_features(overrides: Sequence[str], rows: Sequence[_Row]) -> None:
    lost = next((word for word in overrides if not any(row.fitting([word]) for row in rows)), None)
    if lost is not None:
        raise ConfigError(f"--set {lost}: none of the recipes lists feature files; leave it out")


def print_groups() -> None:
    """Print the groups of recipes that come with freezeframe."""
    cells = [["-" if value is None else str(value) for value in group.values()] for group in list_groups()]
    table("groups of recipes", ["file", "title", "source", "recipes", "baseline"], cells)


def list_groups() -> list[dict[str, Any]]:
    """Return file, title, source, number of recipes and baseline of the groups that come with freezeframe."""
    found = {path: load_group(path) for path in sorted(SHIPPED.glob("*.yaml"))}
    return [
        {
            "file": shortest(path),
            "title": group.title,
            "source": group.source,
            "recipes": len(group.recipes),
            "baseline": group.baseline,
        }
        for path, group in found.items()
    ]
