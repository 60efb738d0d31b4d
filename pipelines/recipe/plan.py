"""The rows of a comparison: recipe files and groups of them, loaded with overrides and axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import ConfigError, nearest
from pipelines.recipe.axes import parse_axes, vary
from pipelines.recipe.collections import Group, group_of
from pipelines.recipe.oddities import oddities
from pipelines.recipe.recipe import Recipe, load_recipe
from pipelines.recipe.yaml_text import read_mapping


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
        groups[source] = group_of(source, raw)
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
