"""Items that occur in no training row must not take the top over: a planted graph, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import run_pipeline
from features.provenance import Provenance
from features.store import FeatureRows, State, write_features
from models import recommenders
from pipelines.ranking.full_ranking import NeverMet
from pipelines.recipe.recipe import build_recipe
from pipelines.runs.experiment import run_recipe
from pipelines.runs.results import never_met_doubt, never_met_in_words
from tests.support.small import plain_recipe, write, write_interactions

USERS, ITEMS, EXTRA, CLUSTERS, WIDTH = 240, 200, 40, 6, 12


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who like two of six clusters; content shows the cluster; a sixth of the catalogue is in no interaction."""
    folder, rng = tmp_path_factory.mktemp("planted") / "planted", np.random.default_rng(0)
    cluster = rng.integers(0, CLUSTERS, ITEMS + EXTRA)
    centres = rng.normal(size=(CLUSTERS, WIDTH))
    vectors = (0.7 * centres[cluster] + rng.normal(size=(ITEMS + EXTRA, WIDTH))).astype(np.float32)
    rows = []
    for user in range(USERS):
        liked = np.where(np.isin(cluster[:ITEMS], rng.choice(CLUSTERS, 2, replace=False)), 12.0, 1.0)
        chosen = rng.choice(ITEMS, 10, replace=False, p=liked / liked.sum())
        rows += [(f"u{user}", f"i{item}", time) for time, item in enumerate(chosen)]
    write_interactions(folder, rows)
    ids = [f"i{item}" for item in range(ITEMS + EXTRA)]
    write(folder / "items.csv", "item,title\n" + "".join(f"{item},t\n" for item in ids))
    empty = [""] * len(ids)
    states = np.full(len(ids), State.DONE, np.uint8)
    write_features(
        folder / "f.h5", FeatureRows(ids, vectors, states, empty, empty, empty), Provenance("planted", {"encoder": "p"})
    )
    return folder


def trained(planted: Path, out: Path, **model: Any) -> dict[str, Any]:
    items = {"kind": "id+v", "dim": 32, "fuse": "concat"}
    data = {"folder": str(planted), "candidates": "catalog", "keep_last": None}
    train = {"epochs": 12, "batch_size": 256, "patience": 12}
    changes = {
        "items": items,
        "data": data,
        "train": train,
        "model": model,
        "features": [{"path": str(planted / "f.h5")}],
    }
    return run_recipe(build_recipe(plain_recipe(planted, changes)), out)


def test_a_model_of_graphs_does_not_fill_its_lists_with_them(planted: Path, tmp_path: Path) -> None:
    spared = trained(planted, tmp_path / "spared", name="mmgcn", loss="bpr", cold_negatives=False)["test"]
    drawn = trained(planted, tmp_path / "drawn", name="mmgcn", loss="bpr")["test"]
    assert spared["never_met"]["candidates"] == drawn["never_met"]["candidates"] > 0.15
    assert spared["never_met"]["offered"] > 5 * spared["never_met"]["targets"]
    assert drawn["never_met"]["offered"] < 0.02
    assert drawn["all"]["HR@20"] > spared["all"]["HR@20"]


@pytest.mark.parametrize("name", ["mmgcn", "lightgcn"])
def test_they_are_drawn_as_negatives_by_default(name: str) -> None:
    config = recommenders()[name].config_class()
    assert config.loss == "bpr"
    assert config.cold_negatives


def test_the_share_is_printed_and_doubted(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:

    trained(planted, tmp_path / "run", name="mmgcn", loss="bpr", cold_negatives=False)
    capsys.readouterr()
    assert run_pipeline.main(["evaluate", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    assert "items in no training row: " in printed.out
    assert "of the places in lists of 20" in printed.out
    assert "nothing in training holds their scores down; set model.cold_negatives=true" in " ".join(printed.err.split())
    assert run_pipeline.main(["compare", str(tmp_path / "run")]) == 0
    assert "small: items in no training row are" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("offered", "targets", "kind", "said"),
    [
        (0.3, 0.05, "id+v", "are 30.0% of what is offered, but 5.0% of the targets"),
        (0.2, 0.05, "id+v", ""),
        (0.3, 0.0, "id", "are 30.0%"),
        (0.04, 0.0, "id+v", ""),
        (0.0, 0.05, "id+v", "content does not raise their scores"),
        (0.0, 0.05, "id", ""),
        (0.0, 0.005, "id+v", ""),
    ],
)
def test_what_is_too_much_and_too_little(offered: float, targets: float, kind: str, said: str) -> None:
    recipe = build_recipe(plain_recipe(Path("d"), {"items": {"kind": kind}}))
    found = vars(NeverMet(20, offered, targets, 0.1))
    assert said in never_met_doubt(recipe, found)
    assert bool(said) == bool(never_met_doubt(recipe, found))
    assert never_met_in_words(found).startswith(f"items in no training row: {offered:.1%} of the places")
