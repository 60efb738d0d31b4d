"""A JSON schema of recipes and of groups, made from the dataclasses that load them, for editors.

It refuses what depends on one key alone: unknown keys, wrong types, words that are none of the choices, and numbers
out of range as far as BOUNDS knows them. Loading a recipe refuses more, such as keys that contradict each other.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from models import recommenders
from pipelines.ranking.metrics import LIST_METRICS, METRICS
from pipelines.recipe.collections import Group
from pipelines.recipe.feature_config import FeatureConfig
from pipelines.recipe.recipe import MOST_SEED, ModelConfig, Recipe

Docs = Callable[[type[Any]], Mapping[str, str]]  # the docstring under each field of a dataclass
DIALECT = "http://json-schema.org/draft-07/schema#"  # the newest that editors know whole
AT_LEAST_1 = {"minimum": 1}
SHARE_BELOW_1 = {"minimum": 0, "exclusiveMaximum": 1}
ABOVE_0 = {"exclusiveMinimum": 0}
# Dotted key -> what its dataclass demands of a number; `model.` stands for every recommender that has the key.
BOUNDS: Mapping[str, Mapping[str, float]] = {
    "seed": {"minimum": 0, "maximum": MOST_SEED},
    "data.keep_last": {"minimum": 3},
    "data.max_length": AT_LEAST_1,
    "data.min_interactions": {"minimum": 3},
    "data.min_item_interactions": {"minimum": 0},
    "items.dim": AT_LEAST_1,
    "items.layers": {"minimum": 0},
    "items.hidden": AT_LEAST_1,
    "items.dropout": SHARE_BELOW_1,
    "items.init_std": ABOVE_0,
    "items.top_blocks": AT_LEAST_1,
    "items.encoder_lr": ABOVE_0,
    "items.micro_batch": AT_LEAST_1,
    "model.negatives": AT_LEAST_1,
    "model.reg": {"minimum": 0},
    "model.max_length": AT_LEAST_1,
    "model.dropout": SHARE_BELOW_1,
    "train.epochs": AT_LEAST_1,
    "train.batch_size": AT_LEAST_1,
    "train.lr": ABOVE_0,
    "train.weight_decay": {"minimum": 0},
    "train.clip": ABOVE_0,
    "train.patience": AT_LEAST_1,
    "train.eval_every": AT_LEAST_1,
    "train.eval_batch_size": AT_LEAST_1,
    "evaluate.batch_size": AT_LEAST_1,
}
SMALL = "Dotted keys and their values that `scale=small` sets, such as train.epochs: 10."


def recipe_schema(docs: Docs) -> dict[str, Any]:
    """Return the schema of recipe files.

    Args:
        docs: returns the docstring under each field of a dataclass; it becomes the description of the key.
    """
    made = _of(Recipe, docs)
    made["properties"]["model"] = _model(docs)
    made["properties"]["small"] = {"type": "object", "description": SMALL, "propertyNames": {"pattern": _dotted("")}}
    made["properties"]["name"]["pattern"] = "^[^./][^/]*$"
    definitions = made["$defs"]
    definitions["TrainConfig"]["properties"]["monitor"]["pattern"] = f"^({'|'.join(METRICS)})@[1-9][0-9]*$"
    definitions["EvaluateConfig"]["properties"]["metrics"]["items"]["enum"] = [*METRICS, *LIST_METRICS]
    definitions["PaperResult"]["properties"]["metrics"]["additionalProperties"] |= {"minimum": 0, "maximum": 1}
    del definitions["ModelConfig"]
    return {"$schema": DIALECT, "title": "freezeframe recipe"} | made


def group_schema(docs: Docs) -> dict[str, Any]:
    """Return the schema of group files, the tables of several recipes that `compare` takes; `docs` as above."""
    made = _of(Group, docs)
    made["properties"]["recipes"]["items"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Member"}]}
    made["$defs"]["Member"]["properties"]["set"]["propertyNames"] = {"pattern": _dotted("small.")}
    return {"$schema": DIALECT, "title": "freezeframe group of recipes"} | made


def _of(kind: type[Any], docs: Docs) -> dict[str, Any]:
    """Return pydantic's schema of a dataclass, with our descriptions and bounds."""
    made: dict[str, Any] = _without_titles(TypeAdapter(kind).json_schema())
    for section, held in _dataclasses(kind, ""):
        _explain(made["$defs"][held.__name__] if section else made, held, section, docs)
    return made


def _dataclasses(kind: type[Any], prefix: str) -> Iterator[tuple[str, type[Any]]]:
    """Yield a dataclass and those of its fields, each with its dotted prefix, such as 'train.'."""
    yield prefix, kind
    for name, hint in typing.get_type_hints(kind).items():
        for held in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(held) and isinstance(held, type):
                yield from _dataclasses(held, f"{prefix}{name}.")


def _explain(made: dict[str, Any], kind: type[Any], prefix: str, docs: Docs) -> None:
    """Add descriptions and bounds to the properties of a dataclass, inherited ones included."""
    told: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            told |= docs(base)
    for name, one in made["properties"].items():
        bounds = BOUNDS.get(prefix + name, {})
        for choice in one.get("anyOf", [one]) if bounds else ():
            if choice.get("type") in ("integer", "number"):
                choice.update(bounds)
        if "$ref" in one:  # draft 7 ignores what stands beside a reference
            made["properties"][name] = one = {"allOf": [{"$ref": one["$ref"]}]}
        if name in told:
            one["description"] = told[name]


def _model(docs: Docs) -> dict[str, Any]:
    """Return the schema of the section `model`, whose other keys depend on the name."""
    branches = []
    for name, model in recommenders().items():
        settings = _without_titles(TypeAdapter(model.config_class).json_schema())
        _explain(settings, model.config_class, "model.", docs)
        properties = {"name": True, **settings["properties"]}
        takes = {"properties": properties, "additionalProperties": False}
        branches.append({"if": {"properties": {"name": {"const": name}}}, "then": takes})
    named = {"enum": list(recommenders()), "description": docs(ModelConfig)["name"]}
    told = docs(Recipe)["model"]
    return {
        "type": "object",
        "required": ["name"],
        "properties": {"name": named},
        "allOf": branches,
        "description": told,
    }


def _dotted(before: str) -> str:
    """Return a pattern of the dotted keys of a recipe, with or without the text `before`."""
    settings = {field.name for model in recommenders().values() for field in dataclasses.fields(model.config_class)}
    patterns = [re.escape("model.") + f"({'|'.join(sorted({'name', *settings}))})"]
    for name, hint in typing.get_type_hints(Recipe).items():
        if dataclasses.is_dataclass(hint) and hint is not ModelConfig:
            keys = "|".join(field.name for field in dataclasses.fields(hint))
            patterns.append(rf"{name}\.({keys})(\..+)?")
    features = "|".join(field.name for field in dataclasses.fields(FeatureConfig))
    patterns += [rf"features\.[0-9]+\.({features})", "features|seed|mix_recipes"]
    return f"^({re.escape(before)})?({'|'.join(patterns)})$"


def _without_titles(made: Any) -> Any:
    """Return a schema without the titles that pydantic makes of the names of keys."""
    if isinstance(made, list):
        return [_without_titles(one) for one in made]
    if not isinstance(made, dict):
        return made
    return {key: _without_titles(one) for key, one in made.items() if key != "title" or not isinstance(one, str)}
