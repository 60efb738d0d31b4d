"""The JSON schema of recipes: it takes what loading takes, and refuses misspelt keys, wrong types and wrong words."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

import run_pipeline
from features.errors import ConfigError
from models import recommenders
from pipelines.commands.options import field_docstrings
from pipelines.recipe.recipe import build_recipe, recipe_to_dict
from pipelines.recipe.schema import BOUNDS, group_schema, recipe_schema
from pipelines.recipe.yaml_text import parse_yaml

RECIPES = Path(__file__).resolve().parents[3] / "pipelines" / "recipes"
SCHEMA = recipe_schema(field_docstrings)
CHECK = Draft7Validator(SCHEMA)
PLAIN: dict[str, Any] = {"name": "r", "data": {"folder": "d"}, "model": {"name": "sasrec"}}


def changed(key: str, value: Any, plain: dict[str, Any] = PLAIN) -> dict[str, Any]:
    """Return a recipe with a dotted key set."""
    made = copy.deepcopy(plain)
    node, (*parents, last) = made, key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return made


def test_the_schema_is_one() -> None:
    Draft7Validator.check_schema(SCHEMA)
    Draft7Validator.check_schema(group_schema(field_docstrings))


def test_the_recipes_that_come_with_freezeframe_are_valid() -> None:
    for path in RECIPES.glob("*.yaml"):
        raw = parse_yaml(path.read_text(encoding="utf-8"), path.name)
        assert not [error.message for error in CHECK.iter_errors(raw)], path.name
        raw.pop("small", None)
        assert not [error.message for error in CHECK.iter_errors(recipe_to_dict(build_recipe(raw)))], path.name


def test_the_groups_that_come_with_freezeframe_are_valid() -> None:
    check = Draft7Validator(group_schema(field_docstrings))
    for path in (RECIPES / "tables").glob("*.yaml"):
        raw = parse_yaml(path.read_text(encoding="utf-8"), path.name)
        assert not [error.message for error in check.iter_errors(raw)], path.name
        assert list(check.iter_errors(raw | {"titel": "x"}))


def keys() -> list[str]:
    """Return every key of a recipe that has a section, dotted, with those of each recommender."""
    definitions = SCHEMA["$defs"]
    sections = {"data": "DataConfig", "items": "ItemsConfig", "train": "TrainConfig", "evaluate": "EvaluateConfig"}
    found = [f"{name}.{key}" for name, one in sections.items() for key in definitions[one]["properties"]]
    return [*found, *(f"model.{field.name}" for field in dataclasses.fields(recommenders()["sasrec"].config_class))]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(keys()), st.integers(0, 30), st.sampled_from("abcxyz_"))
def test_a_misspelt_key_is_refused_wherever_it_stands(key: str, place: int, letter: str) -> None:
    section, _, name = key.partition(".")
    place %= len(name)
    misspelt = f"{section}.{name[:place]}{letter}{name[place:]}"
    if misspelt in keys():
        return
    for broken in (changed(misspelt, 1), PLAIN | {misspelt.replace(".", ""): 1}, PLAIN | {"small": {misspelt: 1}}):
        assert not CHECK.is_valid(broken)
        broken.pop("small", None)
        if broken != PLAIN:
            with pytest.raises(ConfigError):
                build_recipe(broken)
    assert CHECK.is_valid(PLAIN | {"small": {key: 1}})


@pytest.mark.parametrize("key", BOUNDS)
def test_a_bound_is_that_of_the_loader(key: str) -> None:
    """What the schema says of a number's range is what loading says: the bound itself, and the next number beyond."""
    plain = PLAIN
    if key == "model.reg":
        plain = PLAIN | {"model": {"name": "bprmf"}}
    if key in ("items.top_blocks", "items.encoder_lr", "items.micro_batch"):
        plain = changed("items", {"kind": "e2e", "encoder": "minilm-tiny"})
    if key == "model.max_length":
        plain = changed("data.max_length", 1)
    if key == "train.batch_size":  # with losses that do not draw from the batch
        plain = changed("model.loss", "full")
    (field,) = (field for field in dataclasses.fields(_owner(key)) if field.name == key.rpartition(".")[2])
    step = 1e-3 if "float" in str(field.type) else 1
    for bound, limit in BOUNDS[key].items():
        inside = step if bound.endswith("inimum") else -step
        fine, beyond = (limit + inside, limit) if bound.startswith("exclusive") else (limit, limit - inside)
        assert CHECK.is_valid(changed(key, fine, plain)), (key, fine)
        assert not CHECK.is_valid(changed(key, beyond, plain)), (key, beyond)
        build_recipe(changed(key, fine, plain))
        with pytest.raises(ConfigError):
            build_recipe(changed(key, beyond, plain))


def _owner(key: str) -> Any:
    recipe = build_recipe(PLAIN)
    section = key.rpartition(".")[0]
    if key == "model.reg":
        return recommenders()["bprmf"].config_class()
    return recipe.model.settings if section == "model" else getattr(recipe, section) if section else recipe


WRONG = [
    ("name", "a/b"),
    ("model.name", "sasrek"),
    ("items.kind", "w"),
    ("train.epochs", "many"),
    ("train.monitor", "NDGC@10"),
    ("evaluate.metrics", ["HR", "NDGC"]),
    ("features", {"path": "f.h5"}),
    ("paper", {"source": "s", "metrics": {"HR@10": 4.96}}),
    ("data.columns", {"usr": "u"}),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrong_values_are_refused_as_loading_refuses_them(key: str, value: Any) -> None:
    assert CHECK.is_valid(PLAIN)
    assert not CHECK.is_valid(changed(key, value))
    with pytest.raises(ConfigError):
        build_recipe(changed(key, value))


def test_a_key_of_one_model_is_none_of_another() -> None:
    assert CHECK.is_valid(changed("model.heads", 2))
    assert not CHECK.is_valid(changed("model.heads", 2, PLAIN | {"model": {"name": "gru4rec"}}))


def test_every_key_says_what_it_is() -> None:
    for name, one in SCHEMA["$defs"].items():
        assert all(key.get("description") for key in one["properties"].values()), name
    assert all(key.get("description") for key in SCHEMA["properties"].values())
    for branch in SCHEMA["properties"]["model"]["allOf"]:
        told = {name: key for name, key in branch["then"]["properties"].items() if name != "name"}
        assert all(key.get("description") for key in told.values()), branch["if"]


def test_the_verb_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_pipeline.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(SCHEMA))
    assert run_pipeline.main(["schema", "group"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "freezeframe group of recipes"
