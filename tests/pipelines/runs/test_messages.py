"""Small things a user met: what a message blames, advises and names, and what it must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import run_pipeline
from features.errors import ConfigError, StoreError
from features.store import FeatureFile
from models.itemknn import Config, ItemKNN
from models.shared.recommender import TrainingFacts, UserBatch
from pipelines.comparing.compare import compare, run_tests
from pipelines.data.load import load_data
from pipelines.recipe.plan import plan
from pipelines.recipe.recipe import build_recipe, load_recipe
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.runs.experiment import run_recipe
from tests.support.small import item_ids, plain_recipe, recipe, small_dataset, write, write_interactions, write_vectors
from tests.support.tower_runs import changes, data, write_activations

__all__ = ["data"]  # a fixture

Capture = pytest.CaptureFixture[str]


def test_a_missing_recipe_is_all_that_is_asked_for(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        run_pipeline.main(["train"])
    assert "the following arguments are required: recipe\n" in capsys.readouterr().err


def test_users_are_named_by_their_ids(tmp_path: Path) -> None:
    rows = [("all-of-it", item, item) for item in range(5)] + [("some", item, item) for item in range(4)]
    write_interactions(tmp_path / "d", rows)
    model = {"name": "bprmf", "cold_negatives": False}
    with pytest.raises(ConfigError, match=r"recipe 'small': user 'all-of-it' has met all 3 items in training"):
        run_recipe(recipe(tmp_path / "d", {"model": model}), tmp_path / "run")


@pytest.mark.parametrize("policy", ["mean", "error", "zero"])
def test_no_id_in_common_is_no_matter_of_policy(tmp_path: Path, policy: Any) -> None:
    file = FeatureFile(write_vectors(tmp_path / "f.h5", "small", item_ids()))
    if policy == "zero":
        assert not file.read(["x"], absent=policy).any()
        return
    with pytest.raises(StoreError, match=r"rows of none of the 2 items: its ids look like '000', theirs like 'x'"):
        file.read(["x", "y"], absent=policy)


def test_the_mean_of_nothing_is_not_advised(tmp_path: Path) -> None:
    file = FeatureFile(write_vectors(tmp_path / "f.h5", "small", item_ids(), missing=["003"]))
    with pytest.raises(StoreError, match=r"lacks 1 of 1 items.*with `absent: zero`: nothing has a vector to average"):
        file.read(["003"], absent="mean")


def test_axes_make_no_rows_that_are_equal(tmp_path: Path) -> None:
    folder = small_dataset(tmp_path / "small")
    for name in "ab":
        write_vectors(tmp_path / f"{name}.h5", "small", item_ids())
    plain = plain_recipe(folder, {"items": {"kind": "v", "dim": 8}, "features": [{"path": str(tmp_path / "a.h5")}]})
    path = write(tmp_path / "r.yaml", dump_yaml(plain))
    files = ",".join(str(tmp_path / f"{name}.h5") for name in "ab")
    axes = ["items.kind=id,v", f"features.0.path={files}", "items.normalise=l2,none"]
    names = [made.name for made in plan([path], [], axes).recipes]
    assert names[0] == "small[kind=id]"
    assert len(names) == len(set(names)) == 5
    with pytest.raises(ConfigError, match=r"--axis features\.0\.path: .* add items\.kind=v"):
        plan([path], ["items.kind=id"], [f"features.0.path={files}"])


def test_tests_cover_the_metric_that_chose_the_epoch(tmp_path: Path) -> None:
    folder = small_dataset(tmp_path / "small")
    plain = plain_recipe(folder) | {"train": {"epochs": 1, "monitor": "NDCG@20"}, "evaluate": {"at": [5]}}
    rows = compare([build_recipe(plain | {"name": name}) for name in ("a", "b")], 1, tmp_path / "runs")
    tests = run_tests(rows)
    assert tests is not None
    assert [one.metric for one in tests.compared[0]] == ["HR@5", "NDCG@5", "NDCG@20"]


def test_items_in_training_are_told_from_items_in_targets(tmp_path: Path) -> None:
    rows = [("u", item, time) for time, item in enumerate("abcd")] + [
        ("v", item, time) for time, item in enumerate("abef")
    ]
    write_interactions(tmp_path, rows)
    sizes = load_data(recipe(tmp_path).data).split.sizes()
    assert (sizes["items"], sizes["trained_items"]) == (6, 2)


@pytest.mark.parametrize("model", ["vbpr", "grcn", "mmgcn"])
def test_a_width_that_cannot_be_shared_names_those_that_can(tmp_path: Path, model: str) -> None:
    folder = small_dataset(tmp_path / "small")
    files = [{"path": str(write_vectors(tmp_path / f"{name}.h5", "small", item_ids()))} for name in "ab"]

    def made(dim: int) -> Any:
        items = {"kind": "id+v", "dim": dim, "fuse": "concat"}
        return recipe(folder, {"model": {"name": model}, "items": items, "features": files, "train": {"epochs": 1}})

    with pytest.raises(ConfigError, match=r"items\.dim is 128; .* evenly among 3 parts: use 126 or 129"):
        run_recipe(made(128), tmp_path / "run")
    assert run_recipe(made(126), tmp_path / "run")["test"]


def test_item_knn_takes_long_histories(tmp_path: Path) -> None:
    """The sum over different items, held against a loop; pairs of a history's slots would take 10 GB here."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.stack(
        [torch.randint(30, (400,), generator=generator), torch.randint(50, (400,), generator=generator)]
    )
    facts = TrainingFacts(30, 50, torch.bincount(edges[1], minlength=50), edges)
    model = ItemKNN(Config(neighbours=9), None, facts)
    items, mask = torch.randint(50, (6, 40_000), generator=generator), torch.rand(6, 40_000, generator=generator) < 1e-3
    scores = model.scores(UserBatch(torch.arange(6), items, mask))
    for user in range(6):
        wanted = np.zeros(50)
        for item in set(items[user][mask[user]].tolist()):
            places = slice(int(model.offsets[item]), int(model.offsets[item + 1]))
            wanted[model.neighbours[places]] += model.weights[places].numpy()
        np.testing.assert_allclose(scores[user], wanted, rtol=1e-5, atol=1e-6)


def test_everything_that_is_missing_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    folder = small_dataset(tmp_path / "small")
    plain = plain_recipe(folder)
    gone = {"items": {"kind": "v", "dim": 8}, "features": [{"path": str(tmp_path / "gone-*.h5")}]}
    empty = {"data": {"folder": str(folder), "min_item_interactions": 10_000}}
    made = [build_recipe(plain | {"name": name} | more) for name, more in (("fine", {}), ("v", gone), ("none", empty))]
    with pytest.raises(
        ConfigError, match=r"^2 things are in the way: no feature file matches .*; no item is left with"
    ):
        compare(made, 1, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("key", ["note", "source"])
def test_a_text_that_yaml_cuts_is_refused(tmp_path: Path, key: str) -> None:
    text = dump_yaml(plain_recipe(Path("d")))
    paper = {"source": "s", "note": "n"} | {key: "tags are the #words of titles"}
    lines = "".join(f"  {name}: {value}\n" for name, value in paper.items())
    path = write(tmp_path / "r.yaml", f"{text}paper:\n{lines}  metrics: {{HR@10: 0.1}}   # a comment may stand here\n")
    with pytest.raises(ConfigError, match=rf"{key} ends at ' #', where YAML begins a comment"):
        load_recipe(path)
    for quote in "'\"":
        path.write_text(path.read_text().replace("tags are the #words of titles", f"{quote}tags are the #words{quote}"))
        paper_read = load_recipe(path).paper
        assert paper_read is not None
        assert getattr(paper_read, key) == "tags are the #words"
        path.write_text(path.read_text().replace(f"{quote}tags are the #words{quote}", "tags are the #words of titles"))


def test_the_rate_that_is_to_blame_is_named(data: Path, tmp_path: Path) -> None:
    cut = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    made = recipe(data, changes("top", "bert-tiny", files=(cut,), encoder_lr=1e30))
    with pytest.raises(ConfigError, match=r"the usual cause is items\.encoder_lr \(1e\+30\): lower it"):
        run_recipe(made, tmp_path / "run")


def test_more_blocks_than_there_are_is_not_answered_with_advice_that_fails(data: Path, tmp_path: Path) -> None:
    cut = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    with pytest.raises(
        ConfigError, match=r"top_blocks is 3, .* of the 2 blocks of 'bert-tiny'; use at most 1, or kind"
    ):
        run_recipe(recipe(data, changes("top", "bert-tiny", 3, (cut,))), tmp_path / "run")


@pytest.mark.parametrize(
    ("loss", "mask_own", "fine"), [("in-batch", True, False), ("in-batch", False, True), ("full", True, True)]
)
def test_a_batch_of_one_has_no_negatives(tmp_path: Path, loss: str, mask_own: bool, fine: bool) -> None:
    plain = plain_recipe(tmp_path) | {"train": {"batch_size": 1}}
    plain["model"] = {"name": "sasrec", "loss": loss, "mask_own": mask_own}
    if fine:
        build_recipe(plain)
        return
    with pytest.raises(ConfigError, match=r"train\.batch_size is 1, but model\.loss is 'in-batch'.*at least 2"):
        build_recipe(plain)
