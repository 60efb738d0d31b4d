"""The recipes and groups that come with freezeframe, as far as can be said without their data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pipelines
from extract.encoders.registry import ENCODERS
from models import recommenders
from models.shared.recommender import PairBatch, TrainBatch
from models.shared.representation import TOWERS
from pipelines.data.load import Data, load_data
from pipelines.data.side_features import side_features
from pipelines.ranking.metrics import METRICS
from pipelines.recipe.collections import SHIPPED, load_group
from pipelines.recipe.plan import plan
from pipelines.recipe.recipe import FeatureConfig, Recipe, load_recipe
from pipelines.runs.inputs import build_model, open_features
from pipelines.towers.open_towers import open_towers
from tests.support.small import item_ids, small_dataset, write, write_layers, write_vectors
from tests.support.tower_runs import media, write_activations

FOLDER = Path(pipelines.__file__).parent / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
GROUPS = sorted(SHIPPED.glob("*.yaml"))
TWO_CORES = 512  # the widest item vector that is small
SMALL_ALREADY = ("amazon", "synthetic")  # groups that have no other scale


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small_dataset(tmp_path_factory.mktemp("recipes") / "small")
    tags = "".join(f"{item},title,{'red' if number % 2 else 'blue|red'}\n" for number, item in enumerate(item_ids()))
    write(folder / "items.csv", "item,title,tags\n" + tags)
    write_vectors(folder / "features.h5", "small", item_ids())
    write_layers(folder / "layers.h5", "small", item_ids())
    return folder


def small_scale(path: Path, folder: Path) -> Recipe:
    """Return a recipe at its small scale on the tiny dataset; where it has no small scale, as it stands."""
    scale = ["scale=small"] if "\nsmall:" in path.read_text(encoding="utf-8") else []
    here = [f"data.folder={folder}", "data.min_item_interactions=0"]
    asked = load_recipe(path)
    file = folder / ("layers.h5" if asked.items.reads_layers else "features.h5")
    for number in range(len(asked.features)):
        here += [f"features.{number}.path={file}", f"features.{number}.encoder=null"]
    recipe = load_recipe(path, [*scale, *here])
    if recipe.items.kind != "top":
        return recipe
    assert isinstance(recipe.items.encoder, str)
    assert isinstance(recipe.items.top_blocks, int)
    cut = folder / f"{path.stem}.h5"
    write_activations(cut, recipe.items.encoder, recipe.items.top_blocks)
    return replace(recipe, features=(FeatureConfig(str(cut)),))


def one_batch(data: Data, recipe: Recipe) -> TrainBatch | PairBatch:
    if recommenders()[recipe.model.name].trains_on == "pairs":
        edges = torch.from_numpy(data.split.train_edges[:, :32])
        return PairBatch(edges[0], edges[1])
    train = data.split.train
    return TrainBatch(*(torch.from_numpy(part[:16]) for part in (train.users, train.items, train.mask)))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds_its_model_and_has_a_loss_at_small_scale(path: Path, folder: Path) -> None:
    recipe = small_scale(path, folder)
    assert recipe.items.dim <= TWO_CORES
    data = load_data(recipe.data)
    sides = side_features(recipe.items.side, data.split, data.dataset)
    files = open_features(recipe, data.split)
    model = build_model(recipe, data.split, files, sides, open_towers(recipe, data.split, files, media))
    loss = model(one_batch(data, recipe)).loss.detach()
    assert torch.isfinite(loss)
    assert (float(loss) > 0) == (recipe.model.name not in ("popularity", "itemknn"))


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem.startswith("microlens")], ids=lambda p: p.stem)
def test_a_recipe_of_the_paper_says_where_its_numbers_are_from(path: Path) -> None:
    recipe, head = load_recipe(path), path.read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"# MicroLens-(100K|1M)[:,]", head)
    assert ("1m" in path.stem) == ("MicroLens-1M" in head) == (recipe.data.folder == "data/MicroLens-1M")
    assert (recipe.data.keep_last, recipe.data.max_length, recipe.evaluate.mask) == (13, 10, "hide")
    if recipe.paper is None:
        assert "number" in " ".join(path.read_text(encoding="utf-8").splitlines()[:4])  # says that none is published
        return
    assert re.fullmatch(r"arXiv 2309\.15379, Table \d+(, column (frozen|topT))?", recipe.paper.source)
    assert recipe.paper.source.split(", ")[1] in head
    check_published(recipe.paper.metrics)


def check_published(values: Mapping[str, float]) -> None:
    """Look at numbers that a paper may have: shares, and NDCG between the bounds that HR sets it."""
    for name, value in values.items():
        assert name.partition("@")[0] in METRICS
        assert 0 < value < 1
    assert values.get("NDCG@10", 0) < values["HR@10"] <= values.get("HR@20", 1)
    gained = values.get("HR@20", 0) - values["HR@10"]  # an added hit stands at 11 to 20, so its gain is bounded
    if "HR@20" in values:
        low, high = gained / np.log2(21), gained / np.log2(12)
        assert low - 2e-4 <= values["NDCG@20"] - values["NDCG@10"] <= high + 2e-4


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: path.stem)
def test_every_group_loads_at_both_scales(path: Path) -> None:
    group, number = load_group(path), " ".join(path.stem.split("-")[:2]).capitalize()
    if path.stem.startswith(SMALL_ALREADY):  # and no table of a paper
        full = small = plan([path], ["train.epochs=10"])
    else:
        assert re.fullmatch(rf"arXiv 2309\.15379, {number}(, column frozen)?", group.source)
        full, small = plan([path], []), plan([path], ["scale=small"])
    assert [recipe.name for recipe in full.recipes] == [row.name or Path(row.recipe).stem for row in group.recipes]
    assert all(recipe.items.dim <= TWO_CORES and recipe.train.epochs <= 10 for recipe in small.recipes)
    assert full.baseline in [recipe.name for recipe in full.recipes]


def test_every_recipe_stands_in_the_group_of_its_table() -> None:
    members = {path: [(path.parent / row.recipe).resolve() for row in load_group(path).recipes] for path in GROUPS}
    for path in RECIPES:
        assert any(path.resolve() in names for names in members.values()), path
        paper = load_recipe(path).paper
        if paper:
            table = paper.source.split(", ")[1].lower().replace(" ", "-")
            of_table = [names for group, names in members.items() if f"{group.stem}-".startswith(f"{table}-")]
            assert any(path.resolve() in names for names in of_table), path


def test_synthetic_rows_are_of_one_random_encoder() -> None:
    rows = plan([SHIPPED / "synthetic-fine-tuning.yaml"], []).recipes
    assert [row.items.kind for row in rows] == ["id", "v", "dnn", "dnn", "dnn", "top", "top", "e2e"]
    for row in rows:
        assert row.data.folder == "demo/corpus"
        assert all("synthetic-demo.video" in feature.path for feature in row.features)
        if row.items.kind in TOWERS:
            assert (row.items.encoder, row.items.weights) == ("videomae-tiny", "random")


@pytest.mark.parametrize("path", [path for path in GROUPS if "synthetic" not in path.stem], ids=lambda path: path.stem)
def test_rows_that_train_an_encoder(path: Path) -> None:
    paper = not path.stem.startswith(SMALL_ALREADY)  # whose recipes have no small scale
    for full, small in zip(plan([path], []).recipes, plan([path], ["scale=small"] * paper).recipes, strict=True):
        if full.items.kind not in TOWERS:
            continue
        (encoder,), (tiny,) = ([ENCODERS[name] for name in recipe.items.encoders] for recipe in (full, small))
        assert full.items.encoder_lr == 1e-4
        assert tiny.modality == encoder.modality
        assert (tiny.weights is None) == (small.items.weights == "random") == paper
        for recipe, spec in ((full, encoder), (small, tiny)):
            for feature in recipe.features:
                kept = int(re.findall(r"-top(\d+)\.", feature.path)[0]) if recipe.items.kind == "top" else 0
                assert f"{spec.name}-top{kept}.*" in feature.path if kept else f"/{spec.name}/" in feature.path
                assert not kept or recipe.items.top_blocks == kept or not paper
            assert bool(recipe.features) == (recipe.items.kind == "top" or spec.modality != "title")
        if full.paper is not None:
            check_published(full.paper.metrics)
