"""Side features: levels and tags reach the items they belong to, and a run is tied to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.errors import ConfigError
from pipelines.data.data_config import DataConfig
from pipelines.data.detection import read_dataset
from pipelines.data.load import load_data, make_split
from pipelines.data.readers.microlens import hashtags
from pipelines.data.side_features import popularity_levels, side_features, tags
from pipelines.recipe.recipe import load_recipe
from pipelines.runs.experiment import run_recipe
from pipelines.runs.run import open_run
from tests.support.checkerboard import checkerboard
from tests.support.small import write_interactions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_interactions(tmp_path, [(f"u{u}", f"i{(u + step) % 9}", step) for u in range(12) for step in range(5)])
    (tmp_path / "items.csv").write_text(
        "item,title,tags\ni0,a,red| blue |red\ni1,b,\ni2,c,blue|\ni8,d,green\nx,e,unseen\n"
    )
    return tmp_path


def test_levels_hold_equally_many_items_most_popular_first() -> None:
    counts = np.array([0, 5, 5, 90, 1, 7, 3, 2, 8, 4, 6, 5, 0, 0, 1, 2, 3, 4, 5, 6])
    split = replace(checkerboard(), train_counts=np.concatenate([counts, counts]))
    levels = popularity_levels(split).codes.numpy()
    assert np.bincount(levels).tolist() == [4] * 10
    order = np.argsort(levels, kind="stable")
    assert (np.diff(split.train_counts[order].reshape(10, 4).min(1)) <= 0).all()
    assert set(split.train_counts[levels == 0]) == {90, 8}


def test_tags_are_read_joined_by_id_and_counted_once(folder: Path) -> None:
    dataset = read_dataset(folder)
    assert dataset.tags == {"i0": ("red", "blue"), "i2": ("blue",), "i8": ("green",), "x": ("unseen",)}
    split = make_split(dataset, DataConfig(str(folder)))
    found = tags(split, dataset)
    names = ["blue", "green", "red"]  # of candidates only
    per_item = {
        item: [names[code] for code in found.codes[found.offsets[n] : found.offsets[n + 1]]]
        for n, item in enumerate(split.items.ids)
    }
    assert found.size == 3
    assert per_item["i0"] == ["red", "blue"]
    assert (per_item["i1"], per_item["i2"], per_item["i3"], per_item["i8"]) == ([], ["blue"], [], ["green"])


def test_tags_may_be_lists_in_parquet(tmp_path: Path) -> None:
    table = pl.DataFrame({"item": ["a", "b", "c"], "title": ["x"] * 3, "tags": [["p", "q|r"], [], None]})
    table.write_parquet(tmp_path / "items.parquet")
    assert read_dataset(tmp_path).tags == {"a": ("p", "q|r")}


def test_hashtags_of_titles() -> None:
    assert hashtags("no tag") == ()
    assert hashtags("#one two #three#four #one #") == ("one", "three", "four")


def test_a_recipe_with_side_features_trains_and_is_tied_to_its_tags(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: sides\ndata: {{folder: {folder}}}\nitems: {{kind: id, dim: 8, side: [popularity, tags], fuse: mean}}\n"
        "model: {name: sasrec, layers: 1, heads: 1}\ntrain: {epochs: 1, batch_size: 8}\n"
    )
    run_recipe(load_recipe(recipe), tmp_path / "run")
    opened = open_run(tmp_path / "run")
    assert len(opened.model.items.parts) == 3
    items = folder / "items.csv"
    items.write_text(items.read_text().replace("green", "grey"))
    open_run(tmp_path / "run")  # another name for a tag is the same category
    items.write_text(items.read_text().replace("i1,b,", "i1,b,red"))
    with pytest.raises(ConfigError, match=r"tags of .* changed since"):
        open_run(tmp_path / "run")


def test_tags_that_are_not_there_are_named(tmp_path: Path) -> None:
    write_interactions(tmp_path, [("u", f"i{n}", n) for n in range(5)])
    data = load_data(DataConfig(str(tmp_path)))
    with pytest.raises(ConfigError, match=r"items\.side names 'tags', but dataset .* has none"):
        side_features(["tags"], data.split, data.dataset)
