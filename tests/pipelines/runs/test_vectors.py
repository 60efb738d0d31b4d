"""What a recipe's items are read from: vectors or layers, and which items have their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from features.errors import ConfigError
from features.store import FeatureFile
from pipelines.data.load import load_data
from pipelines.runs.experiment import run_recipe
from pipelines.runs.frozen_vectors import read_vectors
from pipelines.runs.inputs import build_model, open_features
from pipelines.runs.run import open_run
from tests.support.small import ITEMS, LAYERS, item_ids, recipe, small_dataset, write_layers, write_vectors


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_dataset(tmp_path / "small")


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    return write_layers(tmp_path / "layers.h5", "small", item_ids())


def changes(files: list[Path], absent: str = "error", **items: Any) -> dict[str, Any]:
    return {"items": {"dim": 8, **items}, "features": [{"path": str(file), "absent": absent} for file in files]}


MIX, ADAPTER = {"kind": "v", "mix": True}, {"kind": "adapter", "hidden": 4}


@pytest.mark.parametrize("items", [{"kind": "v"}, {"kind": "dnn"}, MIX, MIX | {"kind": "id+v"}, ADAPTER])
def test_each_kind_takes_the_files_it_can_use(items: dict[str, Any], data: Path, tmp_path: Path) -> None:
    files = [
        write_vectors(tmp_path / "vectors.h5", "small", item_ids()),
        write_layers(tmp_path / "layers.h5", "small", item_ids()),
    ]
    made = recipe(data, changes(files, **items))
    split = load_data(made.data).split
    vectors, present = read_vectors(made, split, open_features(made, split))
    layered = items.get("mix") or items["kind"] == "adapter"
    assert [*vectors] == [*present] == (["1:layers"] if layered else ["0:vectors"])
    direct = FeatureFile(files[layered or 0]).read(split.items.ids)
    assert torch.equal(next(iter(vectors.values())), torch.from_numpy(direct))


@pytest.mark.parametrize("kind", ["id", "top", "e2e"])
def test_other_kinds_read_none(kind: str, data: Path, tmp_path: Path) -> None:
    made = recipe(
        data, changes([write_layers(tmp_path / "layers.h5", "small", item_ids())], kind=kind, mix=True, encoder="any")
    )
    split = load_data(made.data).split
    assert read_vectors(made, split, open_features(made, split)) == ({}, {})


@pytest.mark.parametrize(
    ("items", "recipe_of_file", "message"),
    [
        (
            {"kind": "v"},
            {"layers": [1]},
            r"'v', but .*x\.h5 holds layers of shape \(3, 8\) .*set items\.mix=true, or",
        ),
        ({"kind": "v"}, {"top_blocks": 1}, r"'v', but .*x\.h5 holds activations .*or use kind 'top' or 'e2e'"),
        (
            MIX,
            {"top_blocks": 1},
            r"'v' with items\.mix, which reads layers, but .*x\.h5 holds activations",
        ),
        (ADAPTER, {"top_blocks": 1}, r"'adapter', which reads layers, but .*x\.h5 holds activations of shape \(3, 8\)"),
        (ADAPTER, None, r"'adapter', which reads layers, but .*x\.h5 holds vectors of shape .*make a file of layers"),
    ],
)
def test_files_of_another_kind_are_refused(
    items: dict[str, Any], recipe_of_file: dict[str, Any] | None, message: str, data: Path, tmp_path: Path
) -> None:
    if recipe_of_file is None:
        write_vectors(tmp_path / "x.h5", "small", item_ids())
    else:
        write_layers(tmp_path / "x.h5", "small", item_ids(), made=recipe_of_file)
    with pytest.raises(ConfigError, match=message):
        run_recipe(recipe(data, changes([tmp_path / "x.h5"], **items)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_needs_vectors_names_what_it_takes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"items\.kind is 'adapter', which vbpr cannot work with; it takes v, dnn"):
        recipe(data, changes([tmp_path / "x.h5"], **ADAPTER) | {"model": {"name": "vbpr"}})


@pytest.mark.parametrize("items", [MIX, ADAPTER], ids=["mix", "adapter"])
def test_a_run_on_layers_is_trained_recorded_and_opened(
    items: dict[str, Any], data: Path, layers: Path, tmp_path: Path
) -> None:
    made = recipe(data, changes([layers], **items))
    run_recipe(replace(made, train=replace(made.train, epochs=2, lr=0.05)), tmp_path / "run")
    opened = open_run(tmp_path / "run").model
    split = load_data(made.data).split
    fresh = build_model(made, split, open_features(made, split), {})
    assert opened.item_vectors().shape == (ITEMS, 8)
    assert not torch.allclose(opened.item_vectors(), fresh.item_vectors())
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    if items is not MIX:
        assert "layer_shares" not in record
        return
    ((name, shares),) = record["layer_shares"].items()
    assert name == "items.mix"
    assert len(shares) == LAYERS
    assert sum(shares) == pytest.approx(1)
    assert shares != [pytest.approx(1 / LAYERS)] * LAYERS


@pytest.mark.parametrize("items", [{"kind": "v"}, MIX, ADAPTER], ids=["v", "mix", "adapter"])
def test_items_without_a_vector_do_not_move_the_others(items: dict[str, Any], data: Path, tmp_path: Path) -> None:
    """What stands in for ten absent items changes nothing about the twenty that are there."""
    if items == {"kind": "v"}:
        file = write_vectors(tmp_path / "x.h5", "small", item_ids(), missing=item_ids()[:10])
    else:
        file = write_layers(tmp_path / "x.h5", "small", item_ids(), missing=item_ids()[:10])
    tables = []
    for absent in ("zero", "mean"):
        made = recipe(data, changes([file], absent, **items))
        split = load_data(made.data).split
        tables.append(build_model(made, split, open_features(made, split), {}).item_vectors())
    have = torch.from_numpy(FeatureFile(file).done(load_data(made.data).split.items.ids))
    assert int(have.sum()) == 20
    torch.testing.assert_close(tables[0][have], tables[1][have])
    assert not torch.allclose(tables[0][~have], tables[1][~have])
