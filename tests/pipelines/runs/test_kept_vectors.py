"""A finished run ranks from the vectors that it keeps exactly as its model does, whatever is gone by then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from features.errors import ConfigError
from models import recommenders
from models.items.towers import TowerItems
from models.shared.kept import KeptVectors
from models.shared.recommender import UserBatch
from pipelines.recipe.recipe import Recipe
from pipelines.retrieval.retrieve import recommend
from pipelines.runs.experiment import run_recipe
from pipelines.runs.run import Run, open_run, open_to_serve
from tests.support.small import item_ids, recipe, small_dataset, write, write_vectors
from tests.support.tower_runs import TITLES, changes, write_activations

SEARCHABLE = [name for name, kind in recommenders().items() if kind.inner_product]
Capture = pytest.CaptureFixture[str]


def with_content(folder: Path, model: str) -> Recipe:
    """Return a recipe of a model on ids and vectors where it takes both, on vectors alone where not."""
    data = small_dataset(folder / "small")
    kind = recommenders()[model]
    items = next((kind_ for kind_ in ("id+v", "v") if kind_ in kind.takes), "id") if kind.uses_items else "id"
    file = write_vectors(folder / "noise.h5", "small", item_ids())
    content = {"items": {"kind": items, "dim": 8}, "features": [{"path": str(file)}]} if items != "id" else {}
    return recipe(data, {"model": {"name": model}, **content, "train": {"epochs": 1, "batch_size": 16, "patience": 9}})


def all_scores(run: Run) -> torch.Tensor:
    """Return the scores (U, I) of all users after the history that the test gives them."""
    test = run.data.split.test
    order = np.argsort(test.users)
    batch = UserBatch(*(torch.from_numpy(array[order]) for array in (test.users, test.items, test.mask)))
    with torch.no_grad():
        return run.model.scores(batch)


@pytest.mark.parametrize("model", SEARCHABLE)
def test_kept_vectors_score_as_the_model_does_without_features_and_data(tmp_path: Path, model: str) -> None:
    run_recipe(with_content(tmp_path, model), tmp_path / "run", device="cpu")
    whole = open_run(tmp_path / "run")
    expected = {user: recommend(whole, user, 30) for user in ("u00", "u17")}
    scores = all_scores(whole)
    (tmp_path / "noise.h5").unlink()
    shutil.rmtree(tmp_path / "small")
    for user, hits in expected.items():
        found = recommend(open_to_serve(tmp_path / "run", only_user=user), user, 30)
        assert [hit.item for hit in found] == [hit.item for hit in hits]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)
        assert [hit.title for hit in found] == [hit.title for hit in hits]
    served = open_to_serve(tmp_path / "run", only_user="u00")
    assert isinstance(served.model, KeptVectors) == (not whole.model.reads_history)
    kept = Run(served.folder, served.recipe, whole.data, served.model)
    assert torch.allclose(all_scores(kept), scores, atol=1e-5)


def test_what_is_kept_has_one_row_per_id(tmp_path: Path) -> None:
    run_recipe(with_content(tmp_path, "bprmf"), tmp_path / "run", device="cpu")
    users, items = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("users", "items"))
    width = len(open_run(tmp_path / "run").model.item_vectors()[0])
    assert np.load(tmp_path / "run" / "user_vectors.npy").shape == (len(users), width)
    vectors = np.load(tmp_path / "run" / "item_vectors.npy")
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(items), width)
    run_recipe(with_content(tmp_path / "b", "sasrec"), tmp_path / "other", device="cpu")
    assert not (tmp_path / "other" / "user_vectors.npy").exists()
    run_recipe(with_content(tmp_path / "c", "itemknn"), tmp_path / "neighbours", device="cpu")
    assert not list((tmp_path / "neighbours").glob("*vectors*"))


@pytest.mark.parametrize("spoilt", ["item_vectors.npy", "user_vectors.npy", "checkpoint.pt", "vectors.json"])
def test_vectors_that_changed_do_not_count(tmp_path: Path, spoilt: str) -> None:
    """The run is then opened as a whole, from its checkpoint and its feature files."""
    run_recipe(with_content(tmp_path, "bprmf"), tmp_path / "run", device="cpu")
    expected = recommend(open_run(tmp_path / "run"), "u03", 5)
    path = tmp_path / "run" / spoilt
    if spoilt == "checkpoint.pt":
        content = torch.load(path, weights_only=True)
        content["best_weights"]["users.weight"].neg_()
        torch.save(content, path)
        expected = recommend(open_run(tmp_path / "run"), "u03", 5)
    else:
        path.write_bytes(path.read_bytes()[:-4] + b"    ")
    served = open_to_serve(tmp_path / "run", only_user="u03")
    assert not isinstance(served.model, KeptVectors)
    assert [hit.item for hit in recommend(served, "u03", 5)] == [hit.item for hit in expected]


def test_vectors_with_another_date_count(tmp_path: Path) -> None:
    run_recipe(with_content(tmp_path, "bprmf"), tmp_path / "run", device="cpu")
    shutil.copytree(tmp_path / "run", tmp_path / "copy", copy_function=shutil.copyfile)
    assert isinstance(open_to_serve(tmp_path / "copy", only_user="u03").model, KeptVectors)


def test_a_run_that_goes_on_keeps_its_new_vectors(tmp_path: Path) -> None:
    made = with_content(tmp_path, "bprmf")
    run_recipe(made, tmp_path / "run", device="cpu")
    before = np.load(tmp_path / "run" / "item_vectors.npy")
    longer = recipe(
        tmp_path / "small",
        {
            "model": {"name": "bprmf"},
            "items": {"kind": "id+v", "dim": 8},
            "features": [{"path": str(tmp_path / "noise.h5")}],
            "train": {"epochs": 4, "batch_size": 16, "patience": 9},
        },
    )
    run_recipe(longer, tmp_path / "run", device="cpu")
    assert not np.array_equal(np.load(tmp_path / "run" / "item_vectors.npy"), before)
    assert isinstance(open_to_serve(tmp_path / "run", only_user="u03").model, KeptVectors)


def test_a_user_of_a_dataset_that_is_gone_has_the_history_that_the_run_keeps(tmp_path: Path, capsys: Capture) -> None:
    run_recipe(with_content(tmp_path, "sasrec"), tmp_path / "run", device="cpu")
    shutil.rmtree(tmp_path / "small")
    served = open_to_serve(tmp_path / "run", only_user="u03")
    assert served.data.dataset.interactions["user"].unique().to_list() == ["u03"]
    assert "does not exist any more; the interactions that" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "run" / "interactions.parquet").unlink()
    with pytest.raises(ConfigError, match="small does not exist"):
        open_to_serve(tmp_path / "run", only_user="u03")


def test_rows_of_a_user_stand_together_in_what_a_run_keeps(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "small")
    table = pl.read_csv(data / "interactions.tsv", separator="\t").sample(fraction=1, shuffle=True, seed=0)
    table.write_csv(data / "interactions.tsv", separator="\t")
    run_recipe(recipe(data), tmp_path / "run", device="cpu")
    users = pl.read_parquet(tmp_path / "run" / "interactions.parquet")["user"]
    assert len(users.rle()) == users.n_unique() == 40


def test_a_run_of_an_encoder_recommends_after_its_activations_are_gone(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "small")
    write(data / "items.csv", "item,title\n" + "".join(f"{i:03},{title}\n" for i, title in enumerate(TITLES)))
    file = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    made = recipe(data, changes("top", "bert-tiny", files=(file,)))
    run_recipe(made, tmp_path / "run", device="cpu")
    expected = recommend(open_run(tmp_path / "run"), "u03", 5)
    file.unlink()
    found = recommend(open_to_serve(tmp_path / "run", only_user="u03"), "u03", 5)
    assert [hit.item for hit in found] == [hit.item for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_an_encoder_runs_once_for_the_test_and_for_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_dataset(tmp_path / "small")
    write(data / "items.csv", "item,title\n" + "".join(f"{i:03},{title}\n" for i, title in enumerate(TITLES)))
    made = recipe(data, changes("e2e", "bert-tiny"))
    after_training: list[int] = []
    encode = TowerItems._encode_all

    def counted(self: TowerItems, distinct: torch.Tensor) -> torch.Tensor:
        if not self.training and len(distinct) == self.n_items:
            after_training.append(len(distinct))
        return encode(self, distinct)

    monkeypatch.setattr(TowerItems, "_encode_all", counted)
    run_recipe(made, tmp_path / "run", device="cpu")
    assert len(after_training) == made.train.epochs + 1  # a validation per epoch, and the end
