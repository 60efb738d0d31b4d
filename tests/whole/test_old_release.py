"""What an earlier release made opens with today's code, and gives what it gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import run_pipeline
from features.store import FeatureFile

MADE = Path(__file__).parents[1] / "data" / "release-0.1"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(MADE, tmp_path / "project")
    monkeypatch.chdir(folder)  # its recipe names files as seen from here
    return folder


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run_pipeline.main(list(words)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_feature_file_opens_and_is_still_the_one_that_extract_makes(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = project.glob("features/*.h5")
    file = FeatureFile(path, dataset="data")
    file.verify()
    vectors = file.read(["v03", "v00"])
    assert vectors.shape == (2, file.width)
    assert np.isfinite(vectors).all()
    before = path.read_bytes()
    words = ["extract", "--data", "data", "--encoders", "minilm-tiny", "--weights", "random", "--out", "features"]
    (report,) = json.loads(printed(capsys, *words, "--json"))
    assert report["unchanged"]
    assert path.read_bytes() == before
    assert list(project.glob("features/*.h5")) == [path]


def test_the_run_recommends_and_is_tested_as_it_was(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = json.loads((project / "expected.json").read_text())
    found = json.loads(printed(capsys, "recommend", "runs/old", "--user", "u03", "--top", "4", "--json"))
    wanted = expected["recommend --user u03 --top 4"]
    assert [hit["item"] for hit in found] == [hit["item"] for hit in wanted]
    assert np.allclose([hit["score"] for hit in found], [hit["score"] for hit in wanted], rtol=1e-5)
    tested = json.loads(printed(capsys, "evaluate", "runs/old", "--json"))
    assert tested["test"]["all"] == pytest.approx(expected["evaluate: test, all"])


def test_the_run_is_finished_and_goes_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "was finished before" in printed(capsys, "train", "recipe.yaml", "--out", "runs/old", "--device", "cpu")
    printed(capsys, "train", "recipe.yaml", "train.epochs=4", "--out", "runs/old", "--device", "cpu")
    epochs = [json.loads(line)["epoch"] for line in (project / "runs/old/log.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]


def test_the_run_compares(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "old" in printed(capsys, "compare", "runs/old")
