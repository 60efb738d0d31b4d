"""Runs: one folder each, whole, not made twice, resumed exactly, and never opened with other data than they saw."""

from __future__ import annotations

import json
import mmap
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from features.errors import ConfigError, StoreError
from features.store import FeatureFile
from pipelines.data.load import load_data
from pipelines.device import resolve_device, why_device
from pipelines.ranking.full_ranking import evaluate
from pipelines.recipe.recipe import build_recipe, load_recipe
from pipelines.runs import experiment, memory
from pipelines.runs.experiment import run_recipe, tell_device
from pipelines.runs.run import open_run
from pipelines.training.fit import Progress
from tests.support.small import USERS, item_ids, plain_recipe, recipe, small_dataset, write, write_vectors


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_dataset(tmp_path / "small")


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    return write_vectors(tmp_path / "features" / "small.noise.1.h5", "small", item_ids(), missing=["003"])


def content(vectors: Path, absent: str = "mean") -> dict[str, Any]:
    return {"items": {"kind": "v", "dim": 8}, "features": [{"path": str(vectors), "absent": absent}]}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_run_folder(data: Path, vectors: Path, tmp_path: Path) -> None:
    made = recipe(data, content(vectors))
    run = tmp_path / "run"
    metrics = run_recipe(made, run)
    names = {"config.yaml", "metrics.json", "record.json", "ranks.npy", "log.jsonl", "checkpoint.pt"}
    names |= {"users.json", "items.json", "training.npy", "users.txt", "items.txt"}
    names |= {"interactions.parquet", "titles.parquet", "dataset.json", "item_vectors.npy", "vectors.json"}
    assert {path.name for path in run.iterdir()} == names
    assert load_recipe(run / "config.yaml") == made
    assert read_json(run / "metrics.json") == metrics
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in log] == [1, 2, 3]
    record = read_json(run / "record.json")
    split = load_data(made.data).split
    assert record["dataset"] == {
        "name": "small",
        "fingerprint": split.fingerprint,
        "users": len(split.users),
        "items": len(split.items),
        "dropped_users": 0,
        "dropped_items": 0,
        "split": "leave-one-out",
        "folder": str(data),
    }
    file = FeatureFile(vectors)
    assert record["features"] == [
        {
            "file": str(vectors),
            "listed": 0,
            "fingerprint": file.provenance.fingerprint,
            "vectors_sha256": file.vectors_sha256,
        }
    ]
    assert any("project" in name for name in record["trained_parameters"])
    assert not any("frozen" in name for name in record["trained_parameters"])
    assert (record["recipe"], record["seed"], record["epochs"]) == ("small", 0, 3)
    assert record["costs"]["peak_memory_bytes"] > 10**7
    assert record["code"].startswith("0.")


def test_metrics_follow_from_the_ranks(data: Path, tmp_path: Path) -> None:
    metrics = run_recipe(recipe(data), tmp_path / "run")
    ranks = np.load(tmp_path / "run" / "ranks.npy")
    assert ranks.shape == (USERS,)
    assert metrics["test"]["all"]["HR@10"] == pytest.approx((ranks <= 10).mean())
    users = metrics["test"]["users"]
    assert users["all"] == users["warm"] + users["cold"] == USERS
    assert metrics["candidates"] == len(load_data(recipe(data).data).split.items)


def test_a_second_run_does_nothing(data: Path, tmp_path: Path) -> None:
    first = run_recipe(recipe(data), tmp_path / "run")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir()}
    assert run_recipe(recipe(data), tmp_path / "run") == first
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir()} == before


def test_a_folder_with_a_run_of_other_settings_is_refused(data: Path, tmp_path: Path) -> None:
    run_recipe(recipe(data), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"run holds a run with other settings \(seed was 0, now 1\); choose another"):
        run_recipe(recipe(data, {"seed": 1}), tmp_path / "run")


def test_a_run_that_failed_before_its_first_epoch_may_get_other_settings(data: Path, tmp_path: Path) -> None:
    broken = recipe(data, {"train": {"epochs": 2, "batch_size": 16, "lr": 1e30, "clip": None}})
    with pytest.raises(ConfigError, match=r"loss is nan .*lower it"):
        run_recipe(broken, tmp_path / "run")
    assert run_recipe(recipe(data), tmp_path / "run")["test"]["users"]["all"] == USERS


def test_nor_does_it_hold_on_to_data_and_features(data: Path, vectors: Path, tmp_path: Path) -> None:
    broken = {"train": {"epochs": 2, "batch_size": 16, "lr": 1e30, "clip": None}}
    with pytest.raises(ConfigError, match="loss is nan"):
        run_recipe(recipe(data, content(vectors) | broken), tmp_path / "run")
    write_vectors(vectors, "small", item_ids(), seed=1)
    assert run_recipe(recipe(data, content(vectors)), tmp_path / "run")["test"]["users"]["all"] == USERS


def test_feature_files_of_kinds_that_need_none_may_lack_items(data: Path, vectors: Path, tmp_path: Path) -> None:
    write_vectors(vectors, "small", item_ids()[:-1])
    settings = content(vectors, "error")
    with pytest.raises(StoreError):
        run_recipe(recipe(data, settings), tmp_path / "content")
    settings = settings | {"items": {"kind": "id", "dim": 16}}
    assert run_recipe(recipe(data, settings), tmp_path / "id")["test"]["users"]["all"] == USERS


class StoppedError(Exception):
    """What an interruption is here."""


def test_an_interrupted_run_ends_with_the_metrics_of_an_unbroken_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def stops_in_the_second_epoch(*_: object):  # type: ignore[no-untyped-def]
        def tell(at: Progress) -> None:
            if at.epoch == 2 and at.record is None:
                raise StoppedError

        yield tell

    unbroken = run_recipe(recipe(data), tmp_path / "unbroken")
    monkeypatch.setattr(experiment, "watching", stops_in_the_second_epoch)
    with pytest.raises(StoppedError):
        run_recipe(recipe(data), tmp_path / "broken")
    with pytest.raises(ConfigError, match=r"broken is no finished run .*train a recipe first"):
        open_run(tmp_path / "broken")
    monkeypatch.undo()
    assert run_recipe(recipe(data), tmp_path / "broken") == unbroken
    assert np.array_equal(np.load(tmp_path / "broken" / "ranks.npy"), np.load(tmp_path / "unbroken" / "ranks.npy"))


def test_what_a_kill_left_is_removed_when_a_run_goes_on(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(run / ".checkpoint.pt.4711.tmp", "half")
    write(run / ".record.json.0123abcd.tmp", "half")
    write(run / ".notes.tmp", "the user's own")
    run_recipe(recipe(data), run)
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == [".notes.tmp"]


def test_peak_memory_is_that_of_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    write(tmp_path / "proc" / "status", "Name:\tpython\nVmHWM:\t  123456 kB\nVmRSS:\t  1 kB\n")
    run_recipe(recipe(data), tmp_path / "own")
    assert (tmp_path / "proc" / "clear_refs").read_text() == "5"
    record = read_json(tmp_path / "own" / "record.json")["costs"]
    assert (record["peak_memory_bytes"], record["peak_memory_of"]) == (123456 * 1024, "run")
    monkeypatch.setattr(memory, "PROC", tmp_path / "absent")
    run_recipe(recipe(data), tmp_path / "without")
    record = read_json(tmp_path / "without" / "record.json")["costs"]
    assert record["peak_memory_of"] == "process"
    assert record["peak_memory_bytes"] > 10**7


def test_memory_of_an_earlier_run_does_not_count() -> None:
    cpu = torch.device("cpu")
    if not memory.start_peaks(cpu):
        pytest.skip("this system does not let a process start its peak anew")
    # pages of its own: an array could come from what the process already holds, and would stay there
    with mmap.mmap(-1, 2**26) as earlier:
        for _ in range(64):
            earlier.write(bytes(2**20))
        high = memory.peaks(cpu, own=True)["peak_memory_bytes"]
    assert memory.start_peaks(cpu)
    assert memory.peaks(cpu, own=True)["peak_memory_bytes"] < high - 2**25


def test_an_opened_run_has_the_weights_of_its_metrics(data: Path, vectors: Path, tmp_path: Path) -> None:
    metrics = run_recipe(recipe(data, content(vectors)), tmp_path / "run")
    run = open_run(tmp_path / "run")
    split = run.data.split
    assert not run.model.training
    assert evaluate(run.model, split.test, split.train_counts, mask="hide").metrics == pytest.approx(
        metrics["test"]["all"]
    )


def test_popularity_has_nothing_to_train(data: Path, tmp_path: Path) -> None:
    made = recipe(data, {"model": {"name": "popularity"}})
    run_recipe(made, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert read_json(tmp_path / "run" / "record.json")["trained_parameters"] == {}
    counts = open_run(tmp_path / "run").model.item_vectors()[:, 0]
    assert torch.equal(counts, torch.from_numpy(load_data(made.data).split.train_counts).float())


# Other data than the run saw.


def test_a_changed_dataset_is_refused(data: Path, tmp_path: Path) -> None:
    run_recipe(recipe(data), tmp_path / "run")
    with (data / "interactions.tsv").open("a") as handle:
        handle.write("u00\t001\t99\n")
    for again in (lambda: open_run(tmp_path / "run"), lambda: run_recipe(recipe(data), tmp_path / "run")):
        with pytest.raises(
            ConfigError, match=r"dataset 'small' changed since .*run was trained, and .*; train into another"
        ):
            again()


def test_a_changed_feature_file_is_refused(data: Path, vectors: Path, tmp_path: Path) -> None:
    made = recipe(data, content(vectors))
    run_recipe(made, tmp_path / "run")
    write_vectors(vectors, "small", item_ids(), seed=1)
    for again in (lambda: open_run(tmp_path / "run"), lambda: run_recipe(made, tmp_path / "run")):
        with pytest.raises(ConfigError, match=r"feature file .*noise\.1\.h5 changed since .*run was trained"):
            again()


def test_features_of_other_items_are_refused(data: Path, tmp_path: Path) -> None:
    foreign = write_vectors(tmp_path / "other.h5", "large", [*item_ids()[:14], *(f"x{n}" for n in range(40))])
    with pytest.raises(StoreError, match=r"other\.h5 was made for dataset 'large'; it has rows for 14 of the 30 items"):
        run_recipe(recipe(data, content(foreign, "mean")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_features_made_under_another_name_join_by_id(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The farm's folder and the laptop's need not have one name."""
    ids = item_ids()
    there = write_vectors(tmp_path / "there.h5", "farm", ids[::-1])
    run_recipe(recipe(data, content(there, "mean")), tmp_path / "run")
    said = "there.h5 was made for dataset 'farm'; it has rows for 30 of the 30 items of 'small', joined by id"
    assert said in " ".join(capsys.readouterr().err.split())
    here = write_vectors(tmp_path / "here.h5", "small", ids[::-1])
    run_recipe(recipe(data, content(here, "mean")), tmp_path / "same")
    assert np.array_equal(np.load(tmp_path / "run" / "ranks.npy"), np.load(tmp_path / "same" / "ranks.npy"))


def test_items_without_vectors_are_refused_or_get_what_the_recipe_says(
    data: Path, vectors: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"lacks 1 of 30 items, first '003' \(missing: no cover\).*absent: mean"):
        run_recipe(recipe(data, content(vectors, "error")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run_recipe(recipe(data, content(vectors, "zero")), tmp_path / "run")


def test_a_pattern_that_names_no_feature_file(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no feature file matches .*nothing\*\.h5; make it with `extract`"):
        run_recipe(recipe(data, content(tmp_path / "nothing*.h5")), tmp_path / "run")


def test_representations_that_need_features_say_so(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe 'small': .*feature"):
        run_recipe(recipe(data, {"items": {"kind": "dnn"}}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_record_and_a_folder_that_is_no_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"small is no finished run"):
        open_run(data)
    run_recipe(recipe(data), tmp_path / "run")
    write(tmp_path / "run" / "record.json", "{")
    with pytest.raises(ConfigError, match=r"record\.json is damaged .*; delete the run folder and train again"):
        open_run(tmp_path / "run")


# Settings.


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "tpu"])
def test_a_device_that_is_not_there(data: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"device '{name}' cannot be used here \(.+\); try auto"):
        run_recipe(recipe(data), tmp_path / "run", device=name)
    assert not (tmp_path / "run").exists()


def test_why_a_device_was_taken_is_told_and_recorded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tell_device.cache_clear()
    quick = recipe(data, {"train": {"epochs": 1}})
    for name in ("one", "two"):
        run_recipe(quick, tmp_path / name)
    told = why_device("auto", torch.device("cpu"))
    assert capsys.readouterr().err.count(told) == 1  # once for all runs of a process
    assert json.loads((tmp_path / "two" / "record.json").read_text())["device_why"] == told
    assert "(auto: " in told
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "; --device mps takes the Apple GPU" in why_device("auto", torch.device("cpu"))


def test_an_operation_that_an_apple_gpu_lacks_is_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object, **__: object) -> None:
        raise NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device. If you want")

    monkeypatch.setattr("pipelines.runs.experiment.fit", lacking)
    with pytest.raises(
        ConfigError, match=r"^The operator 'aten::x' is .+ MPS device\. Use --device cpu, or set PYTORCH_"
    ):
        run_recipe(recipe(data), tmp_path / "run", device="cpu")


def test_auto_is_a_device() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_length_of_histories_is_given_once(data: Path) -> None:
    plain = plain_recipe(data, {"data": {"folder": str(data), "max_length": 20}})
    assert build_recipe(plain).model.settings.max_length == 20
    plain["model"]["max_length"] = 10
    with pytest.raises(
        ConfigError, match=r"model\.max_length is 10, but data\.max_length is 20; set data\.max_length only"
    ):
        build_recipe(plain)


@pytest.mark.parametrize(("candidates", "count"), [("interactions", 30), ("catalog", 32)])
def test_candidates_may_be_the_whole_catalog(data: Path, candidates: str, count: int) -> None:
    write(data / "covers" / "900.jpg", "x")
    write(data / "items.csv", "item,title\n901,only a title\n")
    plain = plain_recipe(data, {"data": {"folder": str(data), "candidates": candidates}})
    assert len(load_data(build_recipe(plain).data).split.items) == count
