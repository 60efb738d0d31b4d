"""Recipes: what is written is what runs, and nothing that cannot be meant gets past the loader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pipelines
from features.errors import ConfigError
from pipelines.recipe.feature_config import FeatureConfig
from pipelines.recipe.recipe import Recipe, build_recipe, difference, load_recipe, recipe_to_dict
from pipelines.recipe.yaml_text import dump_yaml, parse_yaml
from tests.support.small import plain_recipe, write

RECIPES = sorted((Path(pipelines.__file__).parent / "recipes").glob("*.yaml"))
TEXT = """
name: test
data: {folder: data}
model: {name: sasrec, layers: 2}
features:
  - {path: a.h5, absent: mean}
  - {path: b.h5}
train: {lr: 1e-4}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "test.yaml", TEXT)


def test_a_recipe_file(file: Path) -> None:
    recipe = load_recipe(file)
    assert recipe.train.lr == 1e-4  # YAML 1.2: a number, though without a point
    assert recipe.model.name == "sasrec"
    assert recipe.model.settings.layers == 2
    assert recipe.features == (FeatureConfig("a.h5", "mean"), FeatureConfig("b.h5", "error"))
    assert (recipe.evaluate.mask, recipe.evaluate.at, recipe.seed, recipe.paper) == ("hide", (10, 20), 0, None)


def test_a_small_scale_is_listed_in_the_recipe(tmp_path: Path) -> None:
    path = write(tmp_path / "test.yaml", TEXT + "small: {items.dim: 16, train.lr: 1e-2, train.epochs: 3}\n")
    full, small = load_recipe(path), load_recipe(path, ["scale=small", "train.epochs=7"])
    assert (full.scale, full.items.dim, full.train.lr) == ("full", 64, 1e-4)
    assert (small.scale, small.items.dim, small.train.lr, small.train.epochs) == ("small", 16, 1e-2, 7)
    resolved = write(tmp_path / "config.yaml", dump_yaml(recipe_to_dict(small)))
    assert (
        build_recipe(recipe_to_dict(small)) == load_recipe(resolved) == load_recipe(resolved, ["scale=small"]) == small
    )


def test_a_small_scale_that_is_not_there_or_wrong_is_told(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ConfigError, match="has no section `small`, which scale=small needs"):
        load_recipe(file, ["scale=small"])
    with pytest.raises(ConfigError, match="scale is 'tiny'"):
        load_recipe(file, ["scale=tiny"])
    path = write(tmp_path / "bad.yaml", TEXT + "small: {items.dimm: 16}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'items\.dimm'; did you mean 'dim'"):
        load_recipe(path, ["scale=small"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_that_comes_with_the_package_loads(path: Path) -> None:
    recipe = load_recipe(path, ["data.folder=elsewhere"])
    assert recipe.name
    assert build_recipe(recipe_to_dict(recipe)) == recipe
    assert path.read_text(encoding="utf-8").lstrip().startswith("#"), "a recipe opens with a comment on its source"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nmae=x", r"unknown key 'nmae'; did you mean 'name'\? Known: .*seed"),
        ("data.foldr=x", r"unknown key 'data\.foldr'; did you mean 'folder'\? Known: "),
        ("train.lrr=1", r"unknown key 'train\.lrr'; did you mean 'lr'\?"),
        ("model.layer=1", r"unknown key 'model\.layer'; did you mean 'layers'\?"),
        ("items.kid=id", r"unknown key 'items\.kid'; did you mean 'kind'\?"),
        ("evaluate.batchsize=3", r"unknown key 'evaluate\.batchsize'; did you mean 'batch_size'\?"),
        ("features.1.pth=x", r"unknown key 'features\.1\.pth'; did you mean 'path'\?"),
        ("paper.sauce=x", r"unknown key 'paper\.sauce'; did you mean 'source'\?"),
        ("train.epochs=ten", r"train\.epochs is 'ten': "),
        ("train.epochs=2.5", r"train\.epochs is 2\.5: "),
        ("train.epochs='2'", r"train\.epochs is '2': "),
        ("train.epochs=true", r"train\.epochs is True: "),
        ("train.epochs=0", r"train\.epochs is 0; it must be at least 1"),
        ("train.monitor=HR", r"train\.monitor is 'HR'; it must be NAME@K"),
        ("name=3", r"name is 3: "),
        ("data=here", r"data is 'here': give a mapping of keys to values"),
        ("data.folder=null", r"data\.folder is None: "),
        ("data.keep_last=2", r"data\.keep_last is 2; keep at least 3"),
        ("data.short_users=no", r"data\.short_users is 'no': .*'drop' or 'error'"),
        ("evaluate.mask=hidden", r"evaluate\.mask is 'hidden': .*'keep', 'hide' or 'strict'"),
        ("evaluate.at=[]", r"evaluate\.at is \[\]; it needs list lengths of at least 1, such as \[10, 20\]"),
        ("evaluate.at=[10, 0]", r"evaluate\.at is \[10, 0\]; it needs list lengths of at least 1"),
        ("evaluate.batch_size=0", r"evaluate\.batch_size is 0; it must be at least 1"),
        ("seed=-1", r"seed is -1; it must be from 0 to 2\*\*63 - 1"),
        ("seed=99999999999999999999999", r"seed is 9{23}; it must be from 0 to"),
        ("lr=1e-3", r"unknown key 'lr'; did you mean 'train\.lr'\? Known: data, .*train"),
        ("batch_size=3", r"unknown key 'batch_size'; did you mean 'train\.batch_size' or 'evaluate\.batch_size'\?"),
        ("path=f.h5", r"unknown key .path.; did you mean .data.\?"),
        ("evaluate.at=10", r"evaluate\.at is 10: give a list, such as \[10\]$"),
        ("evaluate.metrics=HR", r"evaluate\.metrics is 'HR': give a list, such as \[HR\]$"),
        ("features={}", r"features is \{\}: give a list$"),
        ("paper={source: T, metrics: {HR@10: 4.96}}", r"paper\.metrics\.HR@10 is 4\.96; give a share, such as 0\.0496"),
        ("paper={source: T, metrics: {HR@10: -1}}", r"paper\.metrics\.HR@10 is -1; give a share, such as"),
        ("paper={source: T, metrics: 3}", r"paper\.metrics is 3: give a mapping of keys to values"),
        ("name=", r"name is None: "),
        ("name=../x", r"name '\.\./x' becomes a run folder; use a plain name"),
        ("features.0.path=''", r"features\.path is ''; name a feature file"),
        ("items.kind=idd", r"items\.kind is 'idd': "),
        ("train.lr=2020-01-31", r"holds a value that is neither text, number, list nor mapping"),
        ("model.name=sasrek", r"model\.name 'sasrek' is unknown; did you mean 'sasrec'\? Known: .*popularity"),
        ("model.layers=two", r"model\.layers is 'two': "),
        ("train.lr.x=1", r"'train\.lr\.x=1' leads into a value that has no keys"),
        ("train.lr.x.y=1", r"'train\.lr\.x\.y=1' leads into a value that has no keys"),
        ("features.2.path=c.h5", r"override 'features\.2\.path=c\.h5': the list has 2 entries, counted from 0"),
        ("features.first=c.h5", r"override 'features\.first=c\.h5': the list has 2 entries, counted from 0"),
        ("train.lr", r"override 'train\.lr' is not of the form key\.path=value, such as train\.lr=1e-4"),
        ("=1", r"override '=1' is not of the form"),
        ("train.lr=[1", r"override 'train\.lr=\[1' is not valid YAML"),
    ],
)
def test_what_cannot_be_meant_is_named(file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(file, [override])
    assert "\n" not in str(caught.value)
    assert str(file) not in str(caught.value), "the file is as it should be"


@pytest.mark.parametrize("overrides", [[], ["data.folder=x"], ["scale=small", "seed=3"]])
def test_what_is_wrong_in_a_file_names_it_once(tmp_path: Path, overrides: list[str]) -> None:
    text = TEXT.replace("lr:", "lrr:") + "small: {seed: 1}\n"
    path = write(tmp_path / "r.yaml", text.replace("data: {folder: data}", "data: {}") if overrides[:1] else text)
    with pytest.raises(ConfigError, match=r"r\.yaml: .*unknown key 'train\.lrr'; did you mean 'lr'") as caught:
        load_recipe(path, overrides)
    assert str(caught.value).count(str(path)) == 1


def test_of_two_recipes_the_first_other_key_is_told() -> None:
    before = build_recipe(plain_recipe(Path("x"), {"train": {"lr": 0.002}, "evaluate": {"at": [10]}, "seed": 1}))
    now = build_recipe(plain_recipe(Path("x"), {"train": {"lr": 0.001}, "evaluate": {"at": [10, 20]}, "seed": 2}))
    assert difference(before, now) == "train.lr was 0.002, now 0.001"
    assert difference(replace(before, train=now.train), now) == "evaluate.at was [10], now [10, 20]"


@pytest.mark.parametrize(("missing", "named"), [("name", "name"), ("data", "data"), ("model", "model.name")])
def test_a_missing_section_is_named(tmp_path: Path, missing: str, named: str) -> None:
    plain = plain_recipe(tmp_path)
    del plain[missing]
    with pytest.raises(ConfigError, match=rf"^{named} is missing"):
        build_recipe(plain)


@pytest.mark.parametrize("section", ["data", "paper", "features"])
def test_a_missing_value_inside_a_section_is_named(tmp_path: Path, section: str) -> None:
    needed = {"data": "data.folder", "paper": "paper.source", "features": "features.0.path"}[section]
    with pytest.raises(ConfigError, match=f"^{needed} is missing"):
        build_recipe(plain_recipe(tmp_path, {section: [{}] if section == "features" else {}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", r'is not valid YAML: .*duplicate key "name"'),
        ("train: {lr: 1, lr: 2}\n", r'duplicate key "lr"'),
        ("name: [", r"r\.yaml is not valid YAML"),
        ("name: !!python/object:os.system {}", r"r\.yaml is not valid YAML: could not determine a constructor"),
        ("just words", r"r\.yaml is not a mapping"),
        ("", r"r\.yaml is not a mapping"),
    ],
)
def test_what_is_no_recipe_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path / "r.yaml", text))


def test_a_file_that_is_no_text_and_one_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n\xff\xff")
    with pytest.raises(ConfigError, match=r"recipe .*features\.h5 is not UTF-8 text; give a YAML file"):
        load_recipe(path)
    with pytest.raises(ConfigError, match=r"recipe .*none\.yaml does not exist; .*pipelines/recipes/"):
        load_recipe(tmp_path / "none.yaml")


def test_overrides_reach_every_depth(file: Path) -> None:
    overrides = ["train.lr=5e-3", "features.1.absent=zero", "paper.source=T", "paper.metrics={HR@10: 0.05}", "seed=7"]
    recipe = load_recipe(file, [*overrides, "features.0={path: c=d.h5}", "data.keep_last=null", "items.kind=id+v"])
    assert recipe.train.lr == 5e-3
    assert recipe.features == (FeatureConfig("c=d.h5"), FeatureConfig("b.h5", "zero"))
    assert recipe.paper is not None
    assert recipe.paper.metrics == {"HR@10": 0.05}
    assert (recipe.seed, recipe.data.keep_last, recipe.items.kind) == (7, None, "id+v")


def test_the_last_override_of_a_key_counts(file: Path) -> None:
    assert load_recipe(file, ["seed=1", "seed=2"]).seed == 2


@settings(max_examples=40, deadline=None)
@given(
    lr=st.floats(1e-12, 1e3),
    keep=st.none() | st.integers(3, 50),
    at=st.lists(st.integers(1, 99), min_size=1, max_size=3),
    note=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    score=st.floats(0, 1),
)
@example(lr=1.0, keep=None, at=[1], note="\x85", score=0.0)
def test_recipes_survive_yaml(lr: float, keep: int | None, at: list[int], note: str, score: float) -> None:
    changes: dict[str, Any] = {
        "data": {"folder": "x y", "keep_last": keep},
        "train": {"lr": lr},
        "evaluate": {"at": at},
        "features": [{"path": "a*.h5", "absent": "mean"}],
        "paper": {"source": "no: #1", "metrics": {"HR@10": score}, "note": note},
    }
    recipe = build_recipe(plain_recipe(Path("x"), changes))
    assert isinstance(recipe, Recipe)
    assert recipe.train.lr == lr
    again = build_recipe(parse_yaml(dump_yaml(recipe_to_dict(recipe)), "dump"))
    assert again == recipe
    assert recipe_to_dict(again) == recipe_to_dict(recipe)


def test_the_dump_writes_every_default_in_order(tmp_path: Path) -> None:
    recipe = build_recipe(plain_recipe(tmp_path))
    plain = recipe_to_dict(recipe)
    assert list(plain)[:4] == ["name", "data", "model", "items"]
    assert plain["train"]["clip"] == recipe.train.clip
    assert plain["model"].keys() > {"name", "dropout"}
    assert recipe_to_dict(replace(recipe, seed=5))["seed"] == 5


# Feature paths.


def test_a_pattern_resolves_to_one_file(tmp_path: Path) -> None:
    only = write(tmp_path / "d.tiny.12ab.h5", "x")
    assert FeatureConfig(str(tmp_path / "d.tiny.*.h5")).resolve() == only
    assert FeatureConfig(str(only)).resolve() == only


def test_a_path_with_special_characters_is_itself(tmp_path: Path) -> None:
    odd = write(tmp_path / "try [1]" / "a?.h5", "x")
    assert FeatureConfig(str(odd)).resolve() == odd


def test_relative_patterns_start_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f" / "a.h5", "x")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert FeatureConfig("../f/*.h5").resolve().resolve() == (tmp_path / "f" / "a.h5").resolve()


def test_none_and_several_matches(tmp_path: Path) -> None:
    pattern = str(tmp_path / "*.h5")
    with pytest.raises(ConfigError, match=r"no feature file matches .*\*\.h5; make it with `extract`"):
        FeatureConfig(pattern).resolve()
    for name in ("b", "a"):
        write(tmp_path / f"{name}.h5", "x")
    with pytest.raises(ConfigError, match=r"2 feature files match .*\*\.h5: a\.h5, b\.h5; name one"):
        FeatureConfig(pattern).resolve()


def test_a_folder_is_no_feature_file(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    with pytest.raises(ConfigError, match=r"no feature file matches .*features; "):
        FeatureConfig(str(tmp_path / "features")).resolve()
