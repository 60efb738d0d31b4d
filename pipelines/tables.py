"""Groups of recipes: one YAML file per table or figure of a paper, which `compare` runs as a whole.

A group names recipe files and says what is known of the published table; it is read as strictly as a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from features.errors import ConfigError, nearest
from pipelines.config import Recipe, load_recipe, read_mapping, structure
from pipelines.console import table
from pipelines.oddities import oddities

SHIPPED = Path(__file__).parent / "recipes" / "tables"


@dataclass(frozen=True)
class Group:
    """The rows of one published table.

    Attributes:
        title: heads our table.
        source: paper and table; what is known to be odd about it is printed below.
        recipes: recipe files, relative to the group file, in the order of the rows.
        notes: what else to know before comparing.
        baseline: name of the recipe that the others are tested against; None = the first.
        groups: also print the table by popularity of the target, as `--groups` does.
    """

    title: str
    source: str
    recipes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    baseline: str | None = None
    groups: bool = False

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse a group without recipes."""
        if not self.recipes:
            raise ConfigError("recipes is empty; name at least one recipe file, relative to the group file")


@dataclass(frozen=True)
class Plan:
    """What the files given to a comparison come to.

    Attributes:
        recipes: of all files, each once, in their order.
        title: of the table.
        notes: of the groups among the files.
        baseline: of the first group that names one.
        groups: whether a group wants the table by popularity.
    """

    recipes: tuple[Recipe, ...]
    title: str = "comparison"
    notes: tuple[str, ...] = ()
    baseline: str | None = None
    groups: bool = False


def load_group(path: Path) -> Group:
    """Read a group file; ConfigError on anything that cannot be meant, and for a recipe file that does not exist."""
    return _group(path, read_mapping(path))


def _group(path: Path, raw: dict[str, Any]) -> Group:
    try:
        group: Group = structure(Group, raw, "")
    except ConfigError as error:
        raise ConfigError(f"group {path}: {error}") from error
    for name in group.recipes:
        if not (path.parent / name).is_file():
            folder = (path.parent / name).parent
            there = nearest(Path(name).name, [found.name for found in folder.glob("*.yaml")])
            raise ConfigError(f"group {path} names {name!r}, which does not exist in {folder.resolve()}; {there}")
    return group


def plan(sources: Sequence[Path], overrides: Sequence[str]) -> Plan:
    """Read recipe files and group files, mixed as they come, and apply the overrides to every recipe.

    Overrides of `features` are left out where a recipe lists no feature files, so that one word gives a whole group
    other features.

    Raises:
        ConfigError: anything that cannot be meant in one of the files, or an override that no recipe has a place for.
    """
    groups: dict[Path, Group] = {}
    files: dict[Path, dict[str, Any]] = {}  # by resolved path: two groups may share a row
    for source in sources:
        raw = read_mapping(source)
        if not _is_group(raw):
            files.setdefault(source.resolve(), raw)
            continue
        groups[source] = _group(source, raw)
        members = [(source.parent / name).resolve() for name in groups[source].recipes]
        files |= {member: read_mapping(member) for member in members if member not in files}
    _check_features(overrides, files)
    recipes = tuple(load_recipe(path, _fitting(overrides, raw)) for path, raw in files.items())
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


def _fitting(overrides: Sequence[str], raw: dict[str, Any]) -> list[str]:
    return [word for word in overrides if raw.get("features") or not word.startswith("features.")]


def _check_features(overrides: Sequence[str], files: dict[Path, dict[str, Any]]) -> None:
    lost = next((word for word in overrides if not any(word in _fitting([word], raw) for raw in files.values())), None)
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
