"""Groups of recipes: one YAML file per table or figure of a paper, which `compare` runs as a whole.

A group names recipe files and says what is known of the published table; it is read as strictly as a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from features.errors import ConfigError, nearest
from pipelines.console import table
from pipelines.recipe.axes import parse_axes, vary
from pipelines.recipe.oddities import oddities
from pipelines.recipe.recipe import PaperResult, Recipe, load_recipe, read_mapping
from pipelines.recipe.structure import structure

SHIPPED = Path(__file__).parents[1] / "recipes" / "tables"


@dataclass(frozen=True)
class Member:
    """One row of a group: a recipe file as it stands, or with some keys set."""

    recipe: str
    """File, relative to the group file."""
    name: str = ""
    """Of the row and its run folder, where anything is set."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key -> value, put into the recipe as if they stood in it (`small.items.dim`: under its `small`)."""
    paper: PaperResult | None = None
    """The published result of the row; that of the recipe file is not the row's any more."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse a row that is another one than the recipe's and has no name of its own."""
        if bool(self.set) != bool(self.name) or (self.paper and not self.set):
            raise ConfigError(
                f"recipes: row {self.name or self.recipe!r} needs all of recipe, name and set, or a recipe alone"
            )

    @property
    def changes(self) -> dict[str, Any]:
        """Return what to put into the recipe file."""
        if not self.name:
            return {}
        return {"name": self.name, "paper": asdict(self.paper) if self.paper else None, **self.set}


@dataclass(frozen=True)
class Group:
    """The rows of one published table."""

    title: str
    """Heads our table."""
    source: str
    """Paper and table; what is known to be odd about it is printed below."""
    recipes: tuple[Member, ...]
    """The rows, in their order."""
    notes: tuple[str, ...] = ()
    """What else to know before comparing."""
    baseline: str | None = None
    """Name of the recipe that the others are tested against; None = the first."""
    groups: bool = False
    """Also print the table by popularity of the target, as `--groups` does."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse a group without recipes."""
        if not self.recipes:
            raise ConfigError("recipes is empty; name at least one recipe file, relative to the group file")


@dataclass(frozen=True)
class Plan:
    """What the files given to a comparison come to."""

    recipes: tuple[Recipe, ...]
    """Of all files, each once, in their order."""
    title: str = "comparison"
    """Of the table."""
    notes: tuple[str, ...] = ()
    """Of the groups among the files."""
    baseline: str | None = None
    """Of the first group that names one."""
    groups: bool = False
    """Whether a group wants the table by popularity."""


def load_group(path: Path) -> Group:
    """Read a group file; ConfigError on anything that cannot be meant, and for a recipe file that does not exist."""
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
    """Read recipe files and group files, mixed as they come, and apply the overrides to every recipe.

    Overrides of `features` are left out where a recipe lists no feature files, so that one word gives a whole group
    other features.

    Args:
        sources: recipe and group files.
        overrides: `key=value` words.
        axes: `key=value,value` words: every recipe becomes a row for each combination (see pipelines.recipe.axes).

    Raises:
        ConfigError: anything that cannot be meant in one of the files, an override that no recipe has a place for, or
            axes of a group.
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
        raise ConfigError(f"--axis is for recipes, and {next(iter(groups))} is a group of them; name its recipes")
    rows = [row for place, row in enumerate(rows) if row not in rows[:place]]  # two groups may share a row
    _check_features(overrides, rows)
    recipes = tuple(made for row in rows for made in _load(row, overrides, axes))
    for path, group in groups.items():
        names = [recipe.name for recipe in recipes]
        if group.baseline is not None and group.baseline not in names:
            raise ConfigError(
                f"group {path}: baseline {group.baseline!r} is no recipe; {nearest(group.baseline, names)}"
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
    changes: Mapping[str, Any]

    def fitting(self, overrides: Sequence[str]) -> list[str]:
        """Return the overrides but those of feature files, where there are none."""
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
    """Print the groups that come with freezeframe."""
    found = {path: load_group(path) for path in sorted(SHIPPED.glob("*.yaml"))}
    cells = [
        [_short(path), group.title, group.source, str(len(group.recipes)), group.baseline or "-"]
        for path, group in found.items()
    ]
    table("groups of recipes", ["file", "title", "source", "recipes", "baseline"], cells)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
