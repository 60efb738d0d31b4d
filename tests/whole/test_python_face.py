"""The names that `from pipelines import ...` gives: docs/python.md runs as it stands, errors help, types are there."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipelines
from pipelines import (
    ConfigError,
    Evaluation,
    FeatureFile,
    Hit,
    Run,
    StoreError,
    api,
    evaluate,
    extract_features,
    open_features,
    open_run,
    read_dataset,
    recommend,
    similar_items,
    train,
)
from pipelines.recipe.yaml_text import dump_yaml
from tests.support.small import WIDTH, item_ids, plain_recipe, small_dataset, write, write_interactions, write_vectors

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "python.md"


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for block in blocks(PAGE):
        exec(block, scope)  # our own page
    assert scope["vectors"].shape == (len(scope["have"]), scope["features"].width)
    assert scope["vectors"].dtype == np.float32
    assert len(scope["near"]) == 5
    assert scope["result"].metrics.keys() == {"HR@5", "NDCG@5", "HR@10", "NDCG@10"}
    assert scope["run"].recipe.train.lr == 1e-3
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5


def test_the_package_and_its_module_offer_the_same_names() -> None:
    assert pipelines.__all__ == api.__all__


def test_the_page_shows_every_function_with_its_arguments() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in pipelines.__all__:
        value = getattr(pipelines, name)
        if not inspect.isfunction(value):
            assert f"`{name}`" in text
            continue
        arguments = [str(one.replace(annotation=one.empty)) for one in inspect.signature(value).parameters.values()]
        (shown,) = re.findall(rf"^\| `{name}\((.*?)\)` \|", text, re.MULTILINE)
        plain = re.sub(r"'(.*?)'", r'"\1"', ", ".join(arguments))
        assert shown.replace("*, ", "") == plain


def test_importing_the_package_does_not_wait_for_the_libraries() -> None:
    code = "import pipelines, sys; assert not {'torch', 'polars', 'numpy'} & set(sys.modules); print(dir(pipelines))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'recommend'" in done.stdout


def test_the_face_is_that_of_the_module_behind_it() -> None:
    assert pipelines.__all__ == api.__all__
    for name in pipelines.__all__:
        assert getattr(pipelines, name) is getattr(api, name)
        assert getattr(api, name).__doc__
    with pytest.raises(ImportError, match="trian"):
        exec("from pipelines import trian")


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    return plain_recipe(small_dataset(tmp_path / "data"), {"train": {"epochs": 1, "batch_size": 16}})


def test_a_dict_and_a_file_make_the_same_run(tmp_path: Path, recipe: dict[str, Any]) -> None:
    path = write(tmp_path / "r.yaml", dump_yaml(recipe))
    of_dict = train(recipe, out=tmp_path / "a", overrides=["seed=3"], device="cpu")
    of_file = train(str(path), out=str(tmp_path / "b"), overrides=["seed=3"], device="cpu")
    assert "seed" not in recipe, "the caller's dict was changed"
    assert of_dict.recipe == of_file.recipe
    assert of_dict.recipe.seed == 3
    found, again = evaluate(of_dict), evaluate(open_run(tmp_path / "b", device="cpu"))
    assert isinstance(found, Evaluation)
    assert np.array_equal(found.ranks, again.ranks)
    assert found.metrics.keys() == {"HR@10", "NDCG@10", "HR@20", "NDCG@20"}
    assert evaluate(of_dict, at=[3], metrics=["MRR"], mask="keep").metrics.keys() == {"MRR@3"}


def test_small_and_a_missing_small(tmp_path: Path, recipe: dict[str, Any]) -> None:
    run = train({**recipe, "small": {"train.lr": 0.5}}, out=tmp_path / "a", overrides=["scale=small"], device="cpu")
    assert run.recipe.train.lr == 0.5
    with pytest.raises(ConfigError, match="the recipe has no section `small`"):
        train(recipe, out=tmp_path / "b", overrides=["scale=small"])


def test_without_a_folder_the_run_goes_where_the_command_line_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(recipe, device="cpu").folder == Path("runs") / "small"
    assert (tmp_path / "runs" / "small" / "metrics.json").is_file()


def test_recommendations_leave_out_what_a_user_has_had_also_since_training(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    run = train(recipe, out=tmp_path / "run", device="cpu")
    had = set(run.data.dataset.interactions.filter(run.data.dataset.interactions["user"] == "u03")["item"])
    hits = recommend(run, "u03", top=5)
    assert all(isinstance(hit, Hit) and hit.item not in had for hit in hits)
    rows = [*run.data.dataset.interactions.iter_rows(), ("u03", hits[0].item, 999)]
    write_interactions(tmp_path / "data", rows)
    with pytest.raises(ConfigError, match="changed"):
        open_run(tmp_path / "run")
    later = open_run(tmp_path / "run", new_interactions=True, device="cpu")
    assert hits[0].item not in [hit.item for hit in recommend(later, "u03", top=20)]
    with pytest.raises(ConfigError, match="no test targets: its dataset has changed"):
        evaluate(later)
    with pytest.raises(ConfigError, match="did you mean"):
        recommend(run, "u003")


def test_columns_by_name(tmp_path: Path) -> None:
    write(tmp_path / "interactions.csv", "who,item,timestamp\na,1,0\n")
    assert read_dataset(str(tmp_path), columns={"user": "who"}).interactions["user"].to_list() == ["a"]
    with pytest.raises(ConfigError, match="column 'usr' is unknown; did you mean 'user'"):
        read_dataset(tmp_path, columns={"usr": "who"})


def test_feature_files_by_id(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "f.h5", "data", item_ids(), missing=["004"])
    file = open_features(str(path), dataset="data")
    assert isinstance(file, FeatureFile)
    assert file.read(["003", "001"]).shape == (2, WIDTH)
    assert [hit.item for hit in similar_items(file, "003", top=40)].count("003") == 0
    with pytest.raises(StoreError, match="'004'"):
        similar_items(file, "004")
    with pytest.raises(StoreError, match="belongs to dataset 'data', not 'other'"):
        open_features(path, dataset="other")


def test_extraction_of_some_items_and_a_misspelt_option(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data")
    report = extract_features(data, "minilm-tiny", tmp_path / "out", items=["003", "001"], weights="random")
    assert open_features(report.path).columns.ids == ("001", "003")
    assert "random weights" in report.warning
    with pytest.raises(ConfigError, match="option 'wieghts' of extract_features is unknown; did you mean 'weights'"):
        extract_features(data, "minilm-tiny", tmp_path / "out", wieghts="random")
    with pytest.raises(ConfigError, match="encoder 'minlm-tiny' is unknown; did you mean"):
        extract_features(read_dataset(data), "minlm-tiny", tmp_path / "out")


def test_runs_are_typed(tmp_path: Path, recipe: dict[str, Any]) -> None:
    model = {"model": {"name": "popularity"}}
    run = train({key: value for key, value in recipe.items() if key != "items"} | model, out=tmp_path / "p")
    assert isinstance(run, Run)
    assert evaluate(run).n_users == len(run.data.split.test.users)
