"""Run folders that are damaged or of an earlier version: one line that names the file, wherever it is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from features.errors import ConfigError
from pipelines.commands.results import compare as verb
from pipelines.comparing.cost_table import cost_summary
from pipelines.comparing.result_table import Row
from pipelines.recipe.recipe import load_recipe
from pipelines.runs.experiment import run_recipe
from pipelines.runs.run import open_run
from pipelines.training.checkpoint import load_best
from tests.support.small import recipe, small_dataset

Use = Callable[[Path, Path], None]  # gets a run that a test may spoil, and the whole one


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train = {"epochs": 1, "batch_size": 16}
    run_recipe(recipe(small_dataset(folder / "small"), {"train": train}), folder / "run")
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A finished run that a test may spoil."""
    return shutil.copytree(trained, tmp_path / "run")


def train(run: Path, trained: Path) -> None:
    run_recipe(load_recipe(trained / "config.yaml"), run)


def compare(run: Path, trained: Path) -> None:
    verb.run(verb.Compare((run,), out=run.parent / "out", device="cpu", costs=True))


def opened(run: Path, trained: Path) -> None:
    open_run(run)


def tested(run: Path, trained: Path) -> None:
    """Compare with a run of another recipe, which needs the ranks of both."""
    other = shutil.copytree(trained, run.parent / "other")
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("name: small", "name: other"))
    verb.run(verb.Compare((other, run), out=run.parent / "out", device="cpu"))


DAMAGED: list[tuple[str, bytes, str, list[Use]]] = [
    ("metrics.json", b"", "Expecting value", [train, compare]),
    ("metrics.json", b'{"test": {"all"', "Expecting ':'", [train, compare]),
    ("metrics.json", b"{}", "lacks 'test'", [train, compare]),
    ("metrics.json", b'{"test": {}}', "lacks 'candidates'", [compare]),
    ("config.yaml", b"name: \xff\n", "no UTF-8 text", [train, compare, opened]),
    ("config.yaml", b"", "no mapping of keys to values", [train, compare, opened]),
    ("record.json", b"\x00junk", "Expecting value", [train, compare, opened]),
    ("record.json", b"\xff", "no UTF-8 text", [train, compare, opened]),
    ("record.json", b"[]", "no JSON object", [train, compare, opened]),
    ("ranks.npy", b"", "No data left in file", [tested]),
    ("ranks.npy", b"junk", "", [tested]),
]


@pytest.mark.parametrize(
    ("name", "content", "why", "use"),
    [(name, content, why, use) for name, content, why, uses in DAMAGED for use in uses],
)
def test_damaged_files_are_named(run: Path, trained: Path, name: str, content: bytes, why: str, use: Use) -> None:
    (run / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{name} is damaged \(.*{why}.*\); delete the run folder and train again$"):
        use(run, trained)


def change(run: Path, **changes: Any) -> None:
    """Set keys of a run's record; None removes one."""
    record = json.loads((run / "record.json").read_text()) | changes
    (run / "record.json").write_text(json.dumps({name: value for name, value in record.items() if value is not None}))


@pytest.mark.parametrize("use", [train, opened])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dataset": None}, "lacks 'dataset'"),
        ({"features": None}, "lacks 'features'"),
        ({"dataset": {}}, "lacks 'fingerprint'"),
        ({"features": [{}]}, "lacks 'vectors_sha256'"),
        ({"dataset": []}, "list indices"),
    ],
)
def test_records_of_too_early_versions_are_told(
    run: Path, trained: Path, changes: dict[str, Any], why: str, use: Use
) -> None:
    change(run, **changes)
    said = rf"record\.json is of an older version or damaged \({why}.*\); train into another folder$"
    with pytest.raises(ConfigError, match=said):
        use(run, trained)


def test_runs_from_before_sides_and_processes_are_used(run: Path, trained: Path) -> None:
    change(run, sides=None, processes=None)
    train(run, trained)
    opened(run, trained)
    compare(run, trained)
    row = Row(load_recipe(run / "config.yaml"), (), (run,))
    assert "measured on cpu" in cost_summary([row])
    change(run, sides="0" * 64)
    with pytest.raises(ConfigError, match=r"tags of 'small' changed since .*run was trained"):
        opened(run, trained)


def test_a_checkpoint_one_may_not_read_is_not_called_damaged(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    model = open_run(run).model
    monkeypatch.setattr("torch.load", forbidden)
    with pytest.raises(ConfigError, match=r"^cannot read .*checkpoint\.pt \(permission denied\); check its perm"):
        load_best(run / "checkpoint.pt", model)
