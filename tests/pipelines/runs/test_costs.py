"""The ledger of a run: what its record says of seconds, memory, bytes and items encoded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from extract.jobs import sharding
from features.merge import merge
from features.provenance import Provenance
from features.shards.job import FeatureJob
from features.store import FeatureFile, FeatureRows, write_features
from models.items.towers import take_meters, towers_of
from pipelines.data.load import load_data
from pipelines.runs.experiment import run_recipe
from pipelines.runs.inputs import build_model
from pipelines.towers.open_towers import open_towers
from tests.support.small import ITEMS, item_ids, recipe, write_vectors
from tests.support.stores import JOB, cut, encode, wanted
from tests.support.tower_runs import changes, data, media, write_activations

__all__ = ["data"]  # a fixture


def ledger(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "record.json").read_text())["costs"])


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# Seconds of a feature file.


def test_a_finished_file_adds_up_what_its_shards_took(tmp_path: Path) -> None:
    job = FeatureJob(tmp_path / "f.h5", JOB, wanted(range(20)))
    for positions in cut(job, 8)[:2]:
        job.write(encode(job, positions), seconds={"decode": 1.5, "encode": 0.25})
    again = FeatureJob(tmp_path / "f.h5", JOB, wanted(range(20)))  # another worker, or the run after a crash
    for positions in cut(again, 8):
        again.write(encode(again, positions), seconds={"decode": 0.5, "encode": 1.0})
    made = again.finish()
    assert made.seconds == FeatureFile(made.path).seconds == {"decode": 3.5, "encode": 1.5}
    grown = FeatureJob(tmp_path / "f.h5", JOB, wanted(range(23)))
    grown.write(encode(grown, grown.pending), seconds={"decode": 1.0, "encode": 0.0})
    assert grown.finish().seconds == {"decode": 4.5, "encode": 1.5}


def test_seconds_are_no_part_of_what_a_file_is(tmp_path: Path) -> None:
    files = []
    for name, spent in (("quick", {"decode": 1.0, "encode": 1.0}), ("slow", {"decode": 9.0, "encode": 9.0}), ("?", {})):
        path = write_vectors(tmp_path / f"{name}.h5", "small", item_ids())
        rows = FeatureRows(
            item_ids(), FeatureFile(path).read(item_ids()), np.zeros(ITEMS, np.uint8), *[[""] * ITEMS] * 3
        )
        write_features(path, rows, Provenance("small", {"encoder": "noise"}), seconds=spent)
        files.append(FeatureFile(path))
    with h5py.File(files[0].path) as one, h5py.File(files[1].path) as two:
        assert {key for key in one.attrs if one.attrs[key] != two.attrs[key]} == {"seconds"}
    merge(tmp_path / "all.h5", dict.fromkeys(item_ids(), files[0]), files[0].provenance)
    assert FeatureFile(tmp_path / "all.h5").seconds == files[0].seconds
    mixed = {item: files[number % 3] for number, item in enumerate(item_ids())}
    merge(tmp_path / "mixed.h5", mixed, files[0].provenance)
    assert FeatureFile(tmp_path / "mixed.h5").seconds == {}, "a part that does not know makes the sum unknown"


def test_extraction_notes_what_each_shard_took(corpus_features: dict[str, Path], monkeypatch: Any) -> None:
    assert all(set(FeatureFile(path).seconds) == {"decode", "encode"} for path in corpus_features.values())
    covers = FeatureFile(corpus_features["resnet-tiny"])
    assert covers.seconds["encode"] > 0
    assert covers.seconds["decode"] > 0
    work = sharding.Work(None, None, None, None)  # type: ignore[arg-type]
    work.seconds.update(decode=5.0, encode=2.0, write=9.0)
    assert work.since({"decode": 4.0, "encode": 0.5, "write": 0.0}) == {"decode": 1.0, "encode": 1.5}


# Runs.


def test_the_ledger_of_a_run_that_trains_an_encoder(data: Path, tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path / "vectors.h5", "small", item_ids())
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    made = recipe(data, changes("top", "bert-tiny", 1, (vectors, file)))
    run_recipe(replace(made, train=replace(made.train, epochs=3, eval_every=2)), tmp_path / "run")
    found, epochs = ledger(tmp_path / "run"), log(tmp_path / "run")
    assert found["epochs"] == len(epochs) == 3
    for phase in ("train", "valid"):
        total = sum(epoch[f"{phase}_s"] for epoch in epochs)
        assert found[f"{phase}_s"] == pytest.approx(total)
        assert found[f"{phase}_s_per_epoch"] == pytest.approx(total / 3)
    assert 0 < found["read_s_per_epoch"] + found["forward_s_per_epoch"] < found["train_s_per_epoch"]
    assert [epoch["encoded_valid"] for epoch in epochs] == [0, ITEMS, ITEMS], "all items, once per validation"
    assert found["encoded_per_validation"] == ITEMS
    assert found["encoded_per_epoch"] == pytest.approx(sum(epoch["encoded"] for epoch in epochs) / 3)
    assert found["peak_memory_bytes"] > 10**7
    counts = json.loads((tmp_path / "run" / "record.json").read_text())["parameter_counts"]
    assert found["parameters_trained"] == sum(part["trained"] for part in counts.values())
    assert found["stored"] == [
        {"file": str(file), "holds": "activations", "bytes": file.stat().st_size, "decode_s": None, "encode_s": None}
    ]
    assert (found["stored_bytes"], found["extraction_s"]) == (file.stat().st_size, None)


def test_the_ledger_of_a_run_on_vectors_counts_the_files_it_reads(data: Path, tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "vectors.h5", "small", item_ids())
    held = FeatureFile(path)
    rows = FeatureRows(item_ids(), held.read(item_ids()), held.columns.states, *[[""] * ITEMS] * 3)
    write_features(path, rows, held.provenance, seconds={"decode": 7.0, "encode": 0.5})
    cut = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    for kind, expected in (("v", 7.5), ("id", 0), ("e2e", 0)):
        made = recipe(data, changes(kind, "bert-tiny", 1, (path, cut)))
        run_recipe(replace(made, train=replace(made.train, epochs=1)), tmp_path / kind)
        found = ledger(tmp_path / kind)
        assert found["extraction_s"] == expected, kind
        assert found["stored_bytes"] == (path.stat().st_size if kind == "v" else 0)
        assert ("encoded_per_epoch" in found) == (kind == "e2e")


@pytest.mark.parametrize(("micro_batch", "passes"), [(None, 1), (4, 2)])
def test_meters_count_distinct_items_and_recomputed_ones_again(
    micro_batch: int | None, passes: int, data: Path
) -> None:
    made = recipe(data, changes("e2e", "bert-tiny", 1, micro_batch=micro_batch))
    split = load_data(made.data).split
    model = build_model(made, split, [], {}, open_towers(made, split, [], media))
    take_meters(model)
    model.items(torch.tensor([3, 1, 3, 8, 9, 1, 5, 12])).sum().backward()
    model.item_vectors()
    meter = take_meters(model)
    assert (meter.with_graph, meter.without_graph) == (6 * passes, ITEMS)
    assert meter.read_s > 0
    assert meter.forward_s > 0
    assert vars(take_meters(model)) == dict.fromkeys(vars(meter), 0)
    assert len(towers_of(model)) == 1
