"""Search: settings are tried once, judged on validation, and taken up again after a stop."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from features.errors import ConfigError
from pipelines.recipe.axes import parse_space
from pipelines.recipe.recipe import load_recipe, recipe_to_dict
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.runs import search as search_module
from pipelines.runs.search import PAPER_GRID, search
from run_pipeline import main
from tests.support.small import recipe, small_dataset, write

SPACE = parse_space(["train.lr=1e-4,1e-2", "items.dim=8,16", "model.layers=1"])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("search")
    plain = recipe_to_dict(recipe(small_dataset(place / "small"), {"train": {"epochs": 2, "batch_size": 64}}))
    return write(place / "recipe.yaml", dump_yaml(plain))


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_different_settings_are_tried_and_the_best_comes_first(file: Path, tmp_path: Path, sampler: Any) -> None:
    found = search(file, [], SPACE, 9, tmp_path, sampler=sampler)
    assert len(found) == 4  # all there are
    assert len({tuple(trial.settings.items()) for trial in found}) == 4
    values = [trial.value for trial in found]
    assert values == sorted(values, reverse=True)
    for trial in found:
        config = load_recipe(trial.run / "config.yaml")
        assert (config.train.lr, config.items.dim) == (trial.settings["train.lr"], trial.settings["items.dim"])
        metrics = json.loads((trial.run / "metrics.json").read_text())
        assert trial.value == metrics["valid"][config.train.monitor]


def test_the_same_search_trains_nothing_again(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = search(file, [], SPACE, 2, tmp_path)
    real = search_module.run_recipe
    trained = []

    def watched(asked: Any, folder: Path, **options: Any) -> Any:
        if not (folder / "metrics.json").is_file():
            trained.append(folder)
        return real(asked, folder, **options)

    monkeypatch.setattr(search_module, "run_recipe", watched)
    more = search(file, [], SPACE, 4, tmp_path)
    assert len(trained) == 2
    assert {trial.run for trial in first} < {trial.run for trial in more}


def test_a_trial_that_fails_does_not_end_the_search(file: Path, tmp_path: Path) -> None:
    space = parse_space(["train.lr=1e-2,1e30"])
    found = search(file, ["train.clip=null"], space, 2, tmp_path)
    assert [trial.value is None for trial in found] == [False, True]
    assert "loss is nan" in found[1].error or "not finite" in found[1].error
    with pytest.raises(ConfigError, match="all 1 trials failed"):
        search(file, ["train.clip=null"], parse_space(["train.lr=1e30"]), 2, tmp_path)


def test_the_command_writes_the_best_recipe(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["search", str(file), "train.epochs=1", "--space", "train.lr=1e-3,1e-2", "--out", str(tmp_path)]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "2 trials of small" in printed
    listed = json.loads((tmp_path / "trials.json").read_text())
    best = load_recipe(tmp_path / "best.yaml")
    assert best.train.lr == listed[0]["settings"]["train.lr"]
    assert best.train.epochs == 1
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == listed


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--space", "train.lr"], "'train.lr' is not of the form"),
        (["--space", "train.lr=1", "train.lr=2"], "space names 'train.lr' twice"),
        (["--space", "train.lrate=1e-3"], "unknown key 'train.lrate'; did you mean"),
        (["--trials", "0"], "--trials is 0"),
        (["--seed", "-1"], "--seed is -1; it must be from 0 to 2**32 - 1"),
        (["--sampler", "magic"], "--sampler is 'magic'"),
    ],
)
def test_bad_searches_end_in_one_line(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: list[str], message: str
) -> None:
    assert main(["search", str(file), "--out", str(tmp_path), *line]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_optuna_a_grid_still_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="a search needs Optuna"):
        search(file, [], SPACE, 1, tmp_path)
    assert len(search(file, [], SPACE, 1, tmp_path, sampler="grid")) == 1


def test_the_papers_grid_is_the_default() -> None:
    assert PAPER_GRID["train.lr"] == (1e-5, 5e-5, 1e-4, 5e-4, 1e-3)
    assert (min(PAPER_GRID["items.dim"]), max(PAPER_GRID["items.dim"])) == (64, 4096)
    assert (min(PAPER_GRID["train.batch_size"]), max(PAPER_GRID["train.batch_size"])) == (64, 2048)
