"""Recipes: one YAML file per experiment, loaded strictly into frozen dataclasses.

An unknown key, a wrong type or a missing value stops the run, and the error names its dotted path. Nothing is converted
silently. There is no inheritance between files, and no environment variable matters.
"""

from __future__ import annotations

import copy
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from features.errors import ConfigError, nearest
from features.paths import refused_by_windows
from models import recommenders
from models.shared.representation import TOWERS, ItemsConfig
from pipelines.data.data_config import DataConfig, dates_as_text
from pipelines.ranking.full_ranking import EvaluateConfig
from pipelines.recipe.feature_config import FeatureConfig
from pipelines.recipe.paper import PaperResult
from pipelines.recipe.structure import structure
from pipelines.recipe.yaml_text import override_key, read_mapping
from pipelines.training.train_config import TrainConfig

STRICT: dict[str, Any] = {"extra": "forbid"}
MOST_SEED = 2**63 - 1  # the largest seed that torch takes


@dataclass(frozen=True)
class ModelConfig:
    """The section `model`: which recommender, and its settings."""

    name: str
    """Name of the recommender: its file in models/."""
    settings: Any = None
    """The recommender's `Config`. In YAML its keys are beside `name`: `model: {name: sasrec, layers: 2}`."""


@dataclass(frozen=True)
class Recipe:
    """One complete experiment."""

    name: str
    """Name of the run folder and of the row in tables."""
    data: DataConfig
    """The dataset and how it is split."""
    model: ModelConfig
    """The recommender and its settings."""
    items: ItemsConfig = field(default_factory=ItemsConfig)
    """Where item vectors come from."""
    features: tuple[FeatureConfig, ...] = ()
    """Feature files, for item representations that need them."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Settings of training."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Settings of ranking."""
    seed: int = 0
    """Seed for initialisation, order and dropout."""
    paper: PaperResult | None = None
    """The published result, if there is one."""
    scale: Literal["full", "small"] = "full"
    """'full' is the published setting. 'small' sets the keys that the recipe file lists under `small`, so that it runs
    on two cores. There `small` maps dotted keys to values; a resolved recipe no longer has it."""
    mix_recipes: bool = False
    """Whether clean feature files and files with the benchmark's faults may be in one row."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    def __post_init__(self) -> None:
        """Refuse a name that cannot name a folder, and a seed that torch does not take."""
        if Path(self.name).name != self.name or self.name.startswith("."):
            raise ConfigError(f"name {self.name!r} becomes a run folder; use a plain name without / or a leading dot")
        if sys.platform == "win32" and refused_by_windows(self.name):
            raise ConfigError(f"name {self.name!r} becomes a run folder, which Windows refuses; use letters and digits")
        if not 0 <= self.seed <= MOST_SEED:
            raise ConfigError(f"seed is {self.seed}; it must be from 0 to 2**63 - 1")


def load_recipe(path: Path, overrides: Sequence[str] = (), changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe file and apply `key.path=value` overrides; ConfigError if anything is wrong.

    `changes` (dotted key -> value) come first, as if they were written in the file, so that its `small` goes over them.
    """
    try:
        return _load(path, overrides, changes or {})
    except ConfigError as error:
        if str(path) in str(error) or not _of_the_file(error, path, overrides):
            raise
        raise ConfigError(f"{path}: {error}") from error


def _of_the_file(error: ConfigError, path: Path, overrides: Sequence[str]) -> bool:
    """Return whether the file fails the same way without overrides and changes."""
    try:
        _load(path, [word for word in overrides if word.startswith("scale=")], {})
    except ConfigError as alone:
        return all(part in str(alone) for part in str(error).split("; "))
    return False


def _load(path: Path, overrides: Sequence[str], changes: Mapping[str, Any]) -> Recipe:
    raw = read_mapping(path)
    for key, value in changes.items():
        override_key(raw, f"{key}={json.dumps(value)}")
    if "recipes" in raw and "model" not in raw:
        raise ConfigError(f"{path} is a group of recipes; give it to `compare`, or name one of its recipes")
    return build_recipe(_scaled(raw, overrides, path))


def recipe_from_data(raw: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Build a recipe from what a recipe file would hold, `small` included, and apply `key.path=value` overrides."""
    return build_recipe(_scaled(copy.deepcopy(dict(raw)), overrides))


def _scaled(raw: dict[str, Any], overrides: Sequence[str], path: Path | None = None) -> dict[str, Any]:
    """Return a recipe's plain data with the overrides, under `scale: small` also with those it lists under `small`."""
    small = raw.pop("small", None)
    resolved = small is None and raw.get("scale") == "small"  # a run's config.yaml, where the keys are set already
    for override in overrides:
        override_key(raw, override)
    if raw.get("scale") != "small" or resolved:
        return raw
    if not isinstance(small, dict):
        which = f"recipe {path}" if path else "the recipe"
        raise ConfigError(f"{which} has no section `small`, which scale=small needs; override single keys")
    for key, value in small.items():
        override_key(raw, f"{key}={json.dumps(value)}")
    for override in overrides:  # once more: the command line goes over `small`
        override_key(raw, override)
    return raw


def build_recipe(raw: Mapping[str, Any]) -> Recipe:
    """Turn plain data, as in a YAML file, into a Recipe; ConfigError names the dotted path of what is wrong."""
    sections = dict(raw)
    if isinstance(sections.get("data"), dict):
        sections["data"] = dates_as_text(sections["data"])
    model = sections.pop("model", None)
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise ConfigError("model.name is missing; write e.g. `model: {name: sasrec}`")
    known = recommenders()
    if model["name"] not in known:
        raise ConfigError(f"model.name {model['name']!r} is unknown; {nearest(model['name'], known)}")
    settings = {key: value for key, value in model.items() if key != "name"}
    recipe: Recipe = structure(Recipe, sections | {"model": {"name": model["name"]}}, "")
    _refuse_items(model["name"], recipe.items)
    _refuse_strangers(model["name"], recipe.data)
    kind = known[model["name"]].config_class
    if "max_length" in {entry.name for entry in fields(kind)}:  # one length for the data and the model
        settings.setdefault("max_length", recipe.data.max_length)
    config = structure(kind, settings, "model.")
    length = getattr(config, "max_length", recipe.data.max_length)
    if length != recipe.data.max_length:
        raise ConfigError(
            f"model.max_length is {length}, but data.max_length is {recipe.data.max_length}; set data.max_length only"
        )
    if (
        recipe.train.batch_size == 1
        and getattr(config, "loss", None) == "in-batch"
        and getattr(config, "mask_own", False)
    ):
        raise ConfigError(
            "train.batch_size is 1, but model.loss is 'in-batch', whose negatives are the items of other users in the "
            "batch; use at least 2, or model.loss 'full' or 'sampled'"
        )
    return replace(recipe, model=ModelConfig(model["name"], config))


def _refuse_items(name: str, items: ItemsConfig) -> None:
    """Raise ConfigError for items the model cannot work with."""
    model = recommenders()[name]
    for key, value, known in (("kind", items.kind, model.takes), ("fuse", items.fuse, model.fuses)):
        if model.uses_items and value not in known:
            why = f"{name} cannot work with" + (f" ({model.refuses_towers})" if value in TOWERS else "")
            raise ConfigError(f"items.{key} is {value!r}, which {why}; it takes {', '.join(known)}")


def _refuse_strangers(name: str, data: DataConfig) -> None:
    """Raise ConfigError for held-out users and a model that learns a vector for each user."""
    known = recommenders()
    if data.split == "user-folds" and not known[name].reads_history:
        able = ", ".join(sorted(other for other, model in known.items() if model.reads_history))
        raise ConfigError(
            f"data.split is 'user-folds', but {name} learns a vector for each user and has none for a held-out one; "
            f"use another split, or a model that reads histories: {able}"
        )


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the resolved recipe as plain data, with every default; `build_recipe` reads it back."""
    plain = json.loads(json.dumps(asdict(recipe)))
    plain["model"] = {"name": recipe.model.name} | plain["model"]["settings"]
    return typing.cast("dict[str, Any]", plain)


def difference(before: Recipe, now: Recipe) -> str:
    """Return the first key in which two recipes differ, such as 'train.lr was 0.002, now 0.001'."""
    key = ""
    old: Any = recipe_to_dict(before)
    new: Any = recipe_to_dict(now)
    while isinstance(old, dict) and isinstance(new, dict):
        name = next(name for name in old | new if old.get(name) != new.get(name))
        key, old, new = f"{key}.{name}".removeprefix("."), old.get(name), new.get(name)
    return f"{key} was {old!r}, now {new!r}"
