"""The switch is real: one recipe, items.kind flipped through all of them, and what then learns."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from extract.encoders.cutting import split_encoder
from models.shared.recommender import PairBatch, TrainBatch
from models.shared.representation import Kind
from pipelines.data.load import load_data
from pipelines.data.split import Split
from pipelines.recipe.recipe import Recipe, load_recipe
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.runs.experiment import run_recipe
from pipelines.runs.inputs import build_model, open_features
from pipelines.towers.media import media_of
from pipelines.towers.open_towers import load_encoder, open_towers
from tests.support.small import ITEMS, LAYERS, WIDTH, item_ids, plain_recipe, write, write_layers, write_vectors
from tests.support.tower_runs import changes, data, write_activations

__all__ = ["data"]  # a fixture

DIM = 8


@pytest.fixture
def recipe_file(data: Path, tmp_path: Path) -> Path:
    files = (
        write_vectors(tmp_path / "vectors.h5", "small", item_ids()),
        write_layers(tmp_path / "layers.h5", "small", item_ids()),
        write_activations(tmp_path / "cut.h5", "bert-tiny", 2),
    )
    return write(tmp_path / "recipe.yaml", dump_yaml(plain_recipe(data, changes("id", "bert-tiny", 1, files))))


def some_of(split: Split, *, pairs: bool) -> TrainBatch | PairBatch:
    if pairs:
        return PairBatch(*torch.from_numpy(split.train_edges[:, :32]))
    return TrainBatch(
        *(torch.from_numpy(part[:16]) for part in (split.train.users, split.train.items, split.train.mask))
    )


def gradients(recipe: Recipe) -> tuple[dict[str, int], dict[str, int]]:
    """Return the sizes of the parameters that one step on a batch gives a gradient, and of those it gives none."""
    data = load_data(recipe.data)
    files = open_features(recipe, data.split)
    towers = open_towers(recipe, data.split, files, media_of(data.dataset, data.split, recipe.features))
    model = build_model(recipe, data.split, files, {}, towers)
    model(some_of(data.split, pairs=model.trains_on == "pairs")).loss.backward()
    found: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for name, parameter in model.named_parameters():
        found[parameter.grad is None][name] = parameter.numel()
    return found


@pytest.mark.parametrize("kind", get_args(Kind))
def test_what_learns_is_what_the_kind_says_and_the_record_names_it(
    kind: str, recipe_file: Path, tmp_path: Path
) -> None:
    made = load_recipe(recipe_file, [f"items.kind={kind}"])
    assert replace(made, items=replace(made.items, kind="id")) == load_recipe(recipe_file), "nothing else is changed"
    learning, still = gradients(made)
    items = {name: size for name, size in learning.items() if name.startswith("items.")}
    by_part = Counter(name.split(".")[1] for name in items)
    project = WIDTH * DIM + DIM
    match kind:
        case "id":
            assert items == {"items.embedding.weight": ITEMS * DIM}
        case "v":
            assert (set(by_part), sum(items.values())) == ({"project"}, project)
        case "dnn":  # the projection and two more layers
            assert (by_part, sum(items.values())) == ({"project": 6}, project + 2 * (DIM * DIM + DIM))
        case "id+v":
            assert (by_part, sum(items.values())) == ({"members": 3}, ITEMS * DIM + project)
        case "adapter":  # down and up of each layer, its gates, and the projection
            adapters = LAYERS * (2 * WIDTH * DIM + WIDTH + DIM)
            assert (by_part, sum(items.values())) == (
                {"side": 4 * LAYERS + 1, "project": 2},
                adapters + LAYERS + project,
            )
        case _:
            assert set(by_part) == {"tower", "project"}
            _, top = split_encoder(load_encoder("bert-tiny", "random", 0), 1)
            inside = {name: size for name, size in items.items() if name.startswith("items.tower.")}
            assert sum(inside.values()) == sum(tensor.numel() for tensor in top.parameters())
    frozen = {name for name in still if name.startswith("items.")}
    assert frozen == set(still)
    assert bool(frozen) == (kind in ("top", "e2e")), "vectors that stay as they are, are no parameters"
    # The record of a run says the same.
    run_recipe(replace(made, train=replace(made.train, epochs=1)), tmp_path / "run", device="cpu")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert set(record["trained_parameters"]) == set(learning)
    counted = record["parameter_counts"]
    assert sum(part["trained"] for part in counted.values()) == sum(learning.values())
    assert sum(part["frozen"] for part in counted.values()) == sum(still.values())
    assert record["costs"]["parameters_trained"] == sum(learning.values())
    assert [facts["top_blocks"] for facts in record.get("encoders", [])] == ([1] if frozen else [])
    # And so do the weights.
    content = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["model"]
    assert set(content) >= set(learning)
    assert not frozen & set(content)


@pytest.mark.parametrize("name", ["gru4rec", "nextitnet", "dssm", "youtube"])
def test_other_models_take_it_unchanged(name: str, recipe_file: Path) -> None:
    taken = {
        kind: gradients(load_recipe(recipe_file, [f"items.kind={kind}", f"model={{name: {name}}}"]))[0]
        for kind in ("id", "top", "e2e")
    }
    own = {kind: {key for key in learning if not key.startswith("items.")} for kind, learning in taken.items()}
    assert own["id"] == own["top"] == own["e2e"]
    assert any(key.startswith("items.tower.") for key in taken["top"])
    assert {key for key in taken["top"] if key.startswith("items.project")} == {
        "items.project.weight",
        "items.project.bias",
    }
