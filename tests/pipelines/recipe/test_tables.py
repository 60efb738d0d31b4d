"""Groups of recipes: read strictly, run as one table; and those of the paper, as far as can be said without data."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import run_pipeline
from features.errors import ConfigError
from pipelines.commands.results import compare as verb
from pipelines.comparing.result_table import Row, notes
from pipelines.recipe.collections import Group, Member, load_group
from pipelines.recipe.plan import plan
from pipelines.recipe.recipe import load_recipe
from pipelines.recipe.yaml_text import dump_yaml
from tests.support.small import item_ids, plain_recipe, small_dataset, write, write_vectors

QUICK = {"train": {"epochs": 1, "batch_size": 64}}
SOURCE = "arXiv 2309.15379, Table 9"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, feature files, recipes of three rows and a group in tables/."""
    folder = tmp_path_factory.mktemp("tables")
    data = small_dataset(folder / "small")
    for name in ("video", "title"):
        write_vectors(folder / f"{name}.h5", "small", item_ids(), seed=len(name))
    features = [{"path": str(folder / "video.h5")}]
    paper = {"source": SOURCE, "metrics": {"HR@10": 0.05}}
    rows: dict[str, dict[str, Any]] = {
        "ids": {**QUICK, "paper": paper, "small": {"items.dim": 4}},
        "content": {**QUICK, "items": {"kind": "v", "dim": 8}, "features": features, "small": {"items.dim": 2}},
        "floor": {"model": {"name": "popularity"}, "small": {}},
    }
    for name, changes in rows.items():
        write(folder / f"{name}.yaml", dump_yaml(plain_recipe(data, {"name": name, **changes})))
    group(folder)
    return folder


def group(folder: Path, name: str = "group", **changes: Any) -> Path:
    plain = {
        "title": "three rows",
        "source": SOURCE,
        "recipes": ["../ids.yaml", "../content.yaml", "../floor.yaml"],
        "notes": ["made up"],
        "baseline": "floor",
        **changes,
    }
    return write(folder / "tables" / f"{name}.yaml", dump_yaml({k: v for k, v in plain.items() if v is not None}))


def command(sources: list[Path], out: Path, **options: Any) -> None:
    verb.run(verb.Compare(tuple(sources), **{"out": out / "runs", "device": "cpu", **options}))


def test_a_group_is_run_printed_and_written_as_one_table(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {form: tmp_path / form for form in ("markdown", "latex", "csv")}
    command([here / "tables" / "group.yaml"], tmp_path, **files)
    said = capsys.readouterr().out
    for words in (f"three rows ({SOURCE})", "made up", "the numbers of YouTube ID cannot all be right", "minus floor"):
        assert words in " ".join(said.split()), words
    text = files["markdown"].read_text()
    assert text.startswith(f"**three rows ({SOURCE})**\n\n| recipe |")
    assert text.count("\n- made up\n") == text.count("cannot all be right") == 1
    assert f"caption{{three rows ({SOURCE}). 1 seed" in files["latex"].read_text()
    with files["csv"].open(newline="", encoding="utf-8") as handle:
        assert list(dict.fromkeys(line["recipe"] for line in csv.DictReader(handle))) == ["ids", "content", "floor"]
    runs = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/metrics.json")}
    command([here / "tables" / "group.yaml"], tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/metrics.json")} == runs


def test_groups_and_recipes_mix_and_a_row_of_both_stands_once(here: Path) -> None:
    other = group(here, "other", title="two rows", recipes=["../floor.yaml", "../ids.yaml"], notes=None, baseline="ids")
    made = plan([here / "content.yaml", here / "tables" / "other.yaml", here / "tables" / "group.yaml"], [])
    assert [recipe.name for recipe in made.recipes] == ["content", "floor", "ids"]
    assert made.title == f"two rows ({SOURCE}); three rows ({SOURCE})"
    assert made.notes[-1] == "made up"
    assert len(made.notes) == len(set(made.notes)) == 3
    assert (made.baseline, plan([here / "tables" / "group.yaml", other], []).baseline) == ("ids", "floor")
    alone = plan([here / "ids.yaml", here / "floor.yaml"], [])
    assert (alone.title, alone.notes, alone.baseline, alone.groups) == ("comparison", (), None, False)


def test_the_command_line_has_the_last_word_on_the_baseline(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command([group(here, "by-popularity", recipes=["../floor.yaml", "../ids.yaml"], groups=True)], tmp_path)
    assert "HR@10 by popularity" in capsys.readouterr().out
    command([here / "tables" / "group.yaml"], tmp_path, baseline="ids")
    said = capsys.readouterr().out
    assert "against ids" in " ".join(said.split())
    assert "by popularity" not in said


def test_overrides_reach_every_row_and_features_those_that_have_any(here: Path) -> None:
    file = here / "tables" / "group.yaml"
    small = plan([file], ["scale=small"])
    warning = notes([Row(recipe, ()) for recipe in small.recipes])[0]
    assert warning == "the published numbers are left out: scale=small is narrower and shorter than published"
    assert not any("scale" in note for note in notes([Row(recipe, ()) for recipe in plan([file], []).recipes]))
    assert [(recipe.scale, recipe.items.dim) for recipe in small.recipes] == [("small", 4), ("small", 2), ("small", 8)]
    title = str(here / "title.h5")
    made = plan([file], [f"features.0.path={title}"])
    assert [tuple(feature.path for feature in recipe.features) for recipe in made.recipes] == [(), (title,), ()]
    with pytest.raises(ConfigError, match=r"--set features\.0\.path=x: none of the recipes lists feature files"):
        plan([here / "ids.yaml", here / "floor.yaml"], ["features.0.path=x"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipes": ["../idz.yaml"]}, r"names '\.\./idz\.yaml', which does not exist in .*; did you mean 'ids\.yaml'"),
        ({"recipes": []}, r"recipes is empty; name at least one recipe file"),
        ({"recipes": "../ids.yaml"}, r"recipes is '\.\./ids\.yaml': "),
        ({"recipes": None}, r"recipes is missing"),
        ({"source": None}, r"source is missing"),
        ({"note": "x"}, r"unknown key 'note'; did you mean 'notes'"),
        ({"recipes": None, "recipe": ["../ids.yaml"]}, r"unknown key 'recipe'; did you mean 'recipes'"),
        ({"baseline": "flor"}, r"baseline 'flor' is not one of the recipes; did you mean 'floor'"),
        ({"groups": "yes"}, r"groups is 'yes': "),
    ],
)
def test_groups_that_cannot_be_meant(here: Path, changes: dict[str, Any], message: str) -> None:
    path = group(here, "bad", **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        plan([path], [])
    assert str(caught.value).startswith(f"group {path}")
    assert "\n" not in str(caught.value)


CHANGED = {
    "recipe": "../content.yaml",
    "name": "titles",
    "set": {"features.0.path": "title.h5", "items.kind": "dnn", "items.layers": 1, "small.items.layers": 0},
    "paper": {"source": SOURCE, "metrics": {"HR@10": 0.07}, "note": "of its own"},
}


def test_a_row_may_be_a_recipe_with_other_keys(here: Path) -> None:
    rows = ["../ids.yaml", "../content.yaml", CHANGED, {**CHANGED, "name": "bare", "paper": None}]
    rows.append({"recipe": "../ids.yaml", "name": "wide", "set": {"items.dim": 16}})
    path = group(here, "changed", recipes=rows, baseline="titles")
    made = {recipe.name: recipe for recipe in plan([path, path], []).recipes}
    assert list(made) == ["ids", "content", "titles", "bare", "wide"]
    titles = made["titles"]
    assert (titles.items.kind, titles.items.layers, titles.items.dim) == ("dnn", 1, 8)
    assert titles.features[0].path == "title.h5"
    assert titles.paper is not None
    assert (titles.paper.metrics, titles.paper.note) == ({"HR@10": 0.07}, "of its own")
    assert made["bare"].paper is None
    assert made["wide"].paper is None, "what was published is not of the changed row"
    assert made["content"] == load_recipe(here / "content.yaml")
    small = {recipe.name: recipe.items for recipe in plan([path], ["scale=small"]).recipes}
    assert [(small[name].dim, small[name].layers) for name in ("content", "titles", "wide")] == [(2, 2), (2, 0), (4, 2)]
    asked = plan([path], ["scale=small", "items.layers=3", "features.0.path=x.h5"]).recipes[2]
    assert (asked.items.layers, asked.features[0].path) == (3, "x.h5"), "the command line has the last word"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**CHANGED, "name": ""}, r"row '\.\./content\.yaml' must have recipe, name and set, or a recipe alone"),
        ({"recipe": "../ids.yaml", "name": "x"}, r"row 'x' must have recipe, name and set"),
        ({**CHANGED, "sets": {}}, r"unknown key 'recipes\.1\.sets'; did you mean 'set'"),
        ({"name": "x", "set": {"items.dim": 4}}, r"recipes\.1\.recipe is missing"),
        ({**CHANGED, "recipe": "../contend.yaml"}, r"names '\.\./contend\.yaml', .*did you mean 'content\.yaml'"),
        ({**CHANGED, "set": {"items.lairs": 1}}, r"^row 'titles': unknown key 'items\.lairs'; did you mean 'layers'"),
        (3, r"recipes\.1 is 3: "),
    ],
)
def test_rows_that_cannot_be_meant(here: Path, row: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plan([group(here, "bad", recipes=["../ids.yaml", row], baseline=None)], [])
    assert "\n" not in str(caught.value)


def test_a_group_in_place_of_a_recipe_and_files_that_are_neither(here: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"group\.yaml is a group of recipes; give it to `compare`"):
        load_recipe(here / "tables" / "group.yaml")
    with pytest.raises(ConfigError, match="does not exist; recipes that come with freezeframe are in"):
        plan([tmp_path / "nothing.yaml"], [])
    with pytest.raises(ConfigError, match=r"model\.name is missing"):
        plan([write(tmp_path / "neither.yaml", "name: x\n")], [])


def test_absent_features_are_told_before_anything_is_trained(here: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no feature file matches gone\.h5"):
        command([here / "tables" / "group.yaml"], tmp_path, overrides=["features.0.path=gone.h5"])
    assert not (tmp_path / "runs").exists()


def test_without_sources_the_groups_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_pipeline.main(["compare"]) == 0
    said = capsys.readouterr().out
    assert "groups of recipes" in said
    assert "IDRec and VIDRec on MicroLens-100K" in " ".join(said.split())


def test_a_group_file(here: Path) -> None:
    assert load_group(here / "tables" / "group.yaml") == Group(
        "three rows",
        SOURCE,
        tuple(map(Member, ("../ids.yaml", "../content.yaml", "../floor.yaml"))),
        ("made up",),
        "floor",
    )
