"""Training tells how it goes: one line per epoch in the log and, without a terminal, on standard error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import run_pipeline
from features.errors import StoreError
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.runs.experiment import run_recipe
from pipelines.runs.results import course_in_words
from pipelines.training.checkpoint import EpochRecord
from pipelines.training.epoch_log import LOG, EpochLog
from pipelines.training.fit import Progress, fit
from pipelines.training.train_config import TrainConfig
from pipelines.training.watch import _parts
from tests.support.small import plain_recipe, recipe, small_dataset, write

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("watch") / "data")


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / LOG).read_text().splitlines()]


class StoppedError(Exception):
    """What an interruption is here."""


def test_the_log_grows_while_the_run_goes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def watched(*args: Any, progress: Any, **options: Any) -> Any:
        def tell(at: Progress) -> None:
            progress(at)
            if at.record is not None:
                seen.append(logged(tmp_path / "run"))
                if stop and at.epoch == 2:
                    raise StoppedError

        return fit(*args, progress=tell, **options)

    monkeypatch.setattr("pipelines.runs.experiment.fit", watched)
    stop = True
    with pytest.raises(StoppedError):
        run_recipe(recipe(data), tmp_path / "run")
    with (tmp_path / "run" / LOG).open("a") as log:
        log.write('{"epoch": 3, "half a li')  # as a kill may leave it
    stop = False
    run_recipe(recipe(data), tmp_path / "run")
    assert seen == [[1], [1, 2], [1, 2, 3]]
    assert logged(tmp_path / "run") == [1, 2, 3]


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    log = EpochLog(tmp_path)
    log.write(())
    (tmp_path / LOG).unlink()
    (tmp_path / LOG).mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*log\.jsonl"):
        log.hear(Progress(1, 1, 1, EpochRecord(1, 0.5, 1.0, 0.0, None)))


def test_one_line_per_epoch_and_a_summary(data: Path, tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path / "r.yaml", dump_yaml(plain_recipe(data)))
    train = ["train", str(tmp_path / "r.yaml"), "--device", "cpu", "--out"]
    assert run_pipeline.main([*train, str(tmp_path / "a")]) == 0
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("train small seed 0: ")]
    told = r"epoch \d of 3, loss [\d.]+, NDCG@10 0\.\d{4}, best 0\.\d{4} in epoch \d, patience \d, [\d.]+ sequences/s"
    assert [bool(re.fullmatch(f"train small seed 0: {told}", line)) for line in lines] == [True] * 3
    assert [line.split()[5] for line in lines] == ["1", "2", "3"]
    summary = out.splitlines()[-1]
    assert re.fullmatch(
        r"best epoch \d of 3, [\d.]+ s of training and validation, on cpu x \d+, peak memory \d+ MB( of the process)?",
        summary,
    )
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    assert summary.startswith(f"best epoch {record['best_epoch']} of {record['epochs']}, ")
    assert run_pipeline.main([*train, str(tmp_path / "a")]) == 0  # finished: told again from the record
    assert capsys.readouterr().out.splitlines()[-1] == summary
    assert run_pipeline.main([*train, str(tmp_path / "b"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["test"]
    assert err.count("train small seed 0: epoch") == 3
    assert run_pipeline.main([*train, str(tmp_path / "c"), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "epoch 1" not in err
    assert out.splitlines()[-1].startswith("best epoch ")


def test_many_runs_say_which_one_it_is(data: Path, tmp_path: Path, capsys: Capture) -> None:
    popularity = {key: value for key, value in plain_recipe(data).items() if key in ("name", "data")}
    write(tmp_path / "p.yaml", dump_yaml({**popularity, "model": {"name": "popularity"}}))
    compare = ["compare", str(tmp_path / "p.yaml"), "--seeds", "2", "--out", str(tmp_path), "--device", "cpu"]
    assert run_pipeline.main(compare) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("run ")] == [f"run {n + 1} of 2: small, seed {n}" for n in (0, 1)]
    assert logged(tmp_path / "small-seed0") == []
    search = ["search", str(tmp_path / "p.yaml"), "--space", "seed=1,2", "--sampler", "grid", "--device", "cpu"]
    assert run_pipeline.main([*search, "--out", str(tmp_path / "search"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 2
    assert [line for line in err.splitlines() if re.match(r"trial \d of", line)] == [
        f"trial {n} of 2: seed={n}" for n in (1, 2)
    ]


def test_the_bar_tells_the_best_epoch_and_the_patience_left() -> None:
    config = TrainConfig(epochs=9, patience=4, eval_every=2)
    last = EpochRecord(3, 1.23456, 1.0, 0.0, {"NDCG@10": 0.5})
    before = [EpochRecord(n, 2.0, 1.0, 0.0, None) for n in (1, 2)]
    at = Progress(4, 2, 7, None, history=[*before, last], best_epoch=2, best={"NDCG@10": 0.6})
    assert _parts(at, config) == ["epoch 4/9", "loss 1.235", "NDCG@10 0.5000", "best epoch 2", "patience 3"]
    assert _parts(Progress(1, 7, 7, None), config) == ["epoch 1/9"]  # not validated
    assert _parts(Progress(2, 7, 7, None), config)[-1] == "validating"


def test_a_record_of_an_older_version_tells_what_it_holds() -> None:
    assert course_in_words({}) == ""
    assert course_in_words({"epochs": 0, "best_epoch": 0}) == "no epochs: nothing is trained"
    record = {"epochs": 9, "best_epoch": 5, "train_s": 3725.0, "device": "a GPU", "processes": 2}
    assert (
        course_in_words(record)
        == "best epoch 5 of 9, 1:02:05 of training and validation, on a GPU in each of 2 processes"
    )
