"""Reads the files of a run folder; the error about a damaged one names the file and the next step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import ConfigError
from pipelines.recipe.recipe import Recipe, load_recipe
from pipelines.recipe.yaml_text import parse_yaml


def finished_recipe(folder: Path) -> Recipe:
    """Return the recipe of a finished run; ConfigError if the folder holds none, or its recipe is damaged."""
    if not (folder / "config.yaml").is_file() or not (folder / "metrics.json").is_file():
        raise ConfigError(f"{folder} is no finished run (no config.yaml or metrics.json); train a recipe first")
    return read_recipe(folder)


def read_recipe(folder: Path) -> Recipe:
    """Return the recipe in a run's config.yaml; ConfigError if it is damaged or was not written by this program."""
    path = folder / "config.yaml"
    raw = parse_yaml(read_text(path), str(path))
    if not isinstance(raw, dict):
        raise _damaged(path, "no mapping of keys to values")
    return _as_it_ran(load_recipe(path), raw)


def _as_it_ran(recipe: Recipe, raw: dict[str, Any]) -> Recipe:
    """Return a run's recipe in which a setting that an earlier version lacked says what that version did."""
    items = raw.get("items")
    if isinstance(items, dict) and "encoder_seed" not in items:
        return replace(recipe, items=replace(recipe.items, encoder_seed=None))
    return recipe


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return what a run's metrics.json holds; ConfigError if it is damaged."""
    path = folder / "metrics.json"
    metrics = read_object(path)
    lacking = [name for name in ("test", "candidates") if name not in metrics]
    if lacking:
        raise _damaged(path, f"lacks {lacking[0]!r}")
    return metrics


def read_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file of a run holds; ConfigError if it is damaged."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise _damaged(path, error) from error
    if not isinstance(value, dict):
        raise _damaged(path, "no JSON object")
    return value


def read_array(path: Path) -> NDArray[Any]:
    """Return an array of a run; ConfigError if it is damaged."""
    try:
        array: NDArray[Any] = np.load(path)
    except (ValueError, EOFError) as error:
        raise _damaged(path, error) from error
    return array


def read_text(path: Path) -> str:
    """Return the text of a run's file; ConfigError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, "no UTF-8 text") from error


def _damaged(path: Path, why: object) -> ConfigError:
    line = " ".join(str(why).split())[:200]
    return ConfigError(f"{path} is damaged ({line}); delete the run folder and train again")
