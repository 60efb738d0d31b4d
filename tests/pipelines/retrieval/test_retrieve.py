"""Retrieval agrees with brute force, for every user and item of a small corpus."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
import pytest
import torch

from features.errors import ConfigError, StoreError
from features.provenance import file_sha256
from features.store import FeatureFile
from models.shared.recommender import UserBatch
from pipelines.retrieval import retrieve
from pipelines.retrieval.histories import histories_of
from pipelines.retrieval.retrieve import build_index, recommend, search, show_recommended, similar
from pipelines.retrieval.searchable import searchable_vectors
from pipelines.runs.experiment import run_recipe
from pipelines.runs.kept.kept_data import by_user
from pipelines.runs.run import Run, open_run
from tests.support.small import ITEMS, item_ids, recipe, small_dataset, write_vectors

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that keeps 4 interactions per user, so that some users have had items that the split does not know of."""
    folder = tmp_path_factory.mktemp("retrieve")
    data = small_dataset(folder / "small")
    changes = {"data": {"folder": str(data), "keep_last": 4, "max_length": 6}}
    run_recipe(recipe(data, changes), folder / "run")
    return open_run(folder / "run")


def brute_force(run: Run, user: str) -> tuple[list[str], list[float]]:
    """Return all items this user has not had, best first, and their scores."""
    split, table = run.data.split, run.data.dataset.interactions
    had = table.filter(pl.col("user") == user)["item"].to_list()
    newest = torch.tensor([[split.items.ids.index(item) for item in had[-4:]]])
    batch = UserBatch(torch.tensor([split.users.ids.index(user)]), newest, torch.ones(1, 4, dtype=torch.bool))
    with torch.no_grad():
        scores = (run.model.user_vectors(batch) @ run.model.item_vectors().T)[0].numpy()
    order = [row for row in np.argsort(-scores, kind="stable") if split.items.ids[row] not in had]
    return [split.items.ids[row] for row in order], [float(scores[row]) for row in order]


def test_every_user_gets_the_best_items_not_had(run: Run) -> None:
    for user in run.data.split.users.ids:
        items, scores = brute_force(run, user)
        hits = recommend(run, user, 7)
        assert [hit.item for hit in hits] == items[:7]
        assert [hit.score for hit in hits] == pytest.approx(scores[:7], abs=1e-5)


def test_more_than_there_is_gives_all_there_is(run: Run) -> None:
    user = run.data.split.users.ids[0]
    assert [hit.item for hit in recommend(run, user, ITEMS)] == brute_force(run, user)[0]


def test_the_index_of_a_run_is_written_once_and_used_again(run: Run) -> None:
    first = recommend(run, "u01", 5)
    path = run.folder / "index.faiss"
    stamp = path.stat().st_mtime_ns
    assert recommend(run, "u01", 5) == first
    assert path.stat().st_mtime_ns == stamp
    assert not list(run.folder.glob("*.tmp"))


def test_item_ids_stand_beside_the_index_and_are_made_again_with_it(run: Run, capsys: Capture) -> None:
    expected = recommend(run, "u01", 5)
    path, ids = run.folder / "index.faiss", run.folder / "items.txt"
    assert ids.read_text().split("\n") == [*run.data.split.items.ids, ""]
    assert json.loads((run.folder / "metrics.json").read_text())["files"]["items.txt"] == file_sha256(ids)
    row = faiss.read_index(str(path)).reconstruct(3)
    assert np.array_equal(
        row, searchable_vectors(run.model)[run.data.split.items.index(ids.read_text().split("\n")[3])]
    )
    kept = ids.read_bytes()
    for spoil in (lambda: ids.write_bytes(kept[4:]), ids.unlink):
        spoil()
        assert recommend(run, "u01", 5) == expected
        assert "does not fit the run's present weights and item ids" in " ".join(capsys.readouterr().err.split())
        assert ids.read_bytes() == kept
    assert recommend(run, "u01", 5) == expected
    assert not capsys.readouterr().err


def test_without_faiss_the_same_is_found(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = FeatureFile(write_vectors(tmp_path / "f.h5", "small", item_ids()))
    path = run.folder / "index.faiss"
    searches = (lambda: recommend(run, "u01", 5), lambda: similar(file, "003", 7))
    expected = [ask() for ask in searches]
    stamp = path.stat().st_mtime_ns
    monkeypatch.setattr(retrieve, "USES_FAISS", False)  # as on macOS
    monkeypatch.delattr(retrieve, "faiss")
    for ask, wanted in zip(searches, expected, strict=True):
        found = ask()
        assert [hit.item for hit in found] == [hit.item for hit in wanted]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted], abs=1e-5)
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("wrong", ["width", "items", "bytes"])
def test_an_index_of_another_run_is_refused(run: Run, wrong: str) -> None:
    recommend(run, "u01", 5)
    path = run.folder / "index.faiss"
    kept, items = path.read_bytes(), searchable_vectors(run.model)
    try:
        if wrong == "bytes":
            path.write_bytes(kept[:40])
        else:
            other = items[:, :-1] if wrong == "width" else items[:-1]
            faiss.write_index(build_index(other), str(path))
        with pytest.raises(ConfigError, match=r"index.faiss (is no FAISS index|has \d+ vectors of width).*delete"):
            recommend(run, "u01", 5)
    finally:
        path.write_bytes(kept)
    assert len(recommend(run, "u01", 5)) == 5


def test_an_index_of_other_weights_is_made_again(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "small")
    same = {"data": {"folder": str(data), "keep_last": 4, "max_length": 6}}
    run_recipe(recipe(data, same), tmp_path / "run")
    recommend(open_run(tmp_path / "run"), "u01", 5)
    stale = (tmp_path / "run" / "index.faiss").read_bytes()
    for name in ("checkpoint.pt", "metrics.json"):
        (tmp_path / "run" / name).unlink()
    changed = recipe(data, same | {"seed": 5, "train": {"epochs": 2, "batch_size": 8, "lr": 1e-2, "eval_every": 1}})
    run_recipe(changed, tmp_path / "run")
    assert not (tmp_path / "run" / "index.faiss").exists()
    again = open_run(tmp_path / "run")
    items, scores = brute_force(again, "u01")
    for kept in (None, stale):  # an index without a word of what it was made from, as runs had it, is no better
        if kept is not None:
            (tmp_path / "run" / "index.faiss").write_bytes(kept)
            (tmp_path / "run" / "index.json").unlink()
        hits = recommend(again, "u01", 5)
        assert [hit.item for hit in hits] == items[:5]
        assert [hit.score for hit in hits] == pytest.approx(scores[:5], abs=1e-5)


def test_an_index_one_may_not_read_is_not_to_be_deleted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    recommend(run, "u01", 5)
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(ConfigError, match=r"^cannot read .*index\.json \(permission denied\); check its permissions$"):
        recommend(run, "u01", 5)


def half_written(index: Any, writer: Any) -> None:  # the file is open by now
    raise RuntimeError("Error in faiss: could not write")


@pytest.mark.parametrize("step", ["faiss.write_index", "pathlib.Path.replace"])
def test_a_run_that_can_only_be_read_is_searched_in_memory(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    expected = recommend(run, "u01", 5)
    (run.folder / "index.faiss").unlink()
    (run.folder / "index.json").unlink()
    before = sorted(run.folder.iterdir())
    monkeypatch.setattr(step, half_written if step.startswith("faiss") else forbidden)
    show_recommended(open_run(run.folder, new_interactions=True), "u01", 5, json=True)
    printed = capsys.readouterr()
    assert [hit["item"] for hit in json.loads(printed.out)] == [hit.item for hit in expected]
    assert "index.faiss cannot be written; the index is used from memory" in printed.err
    assert sorted(run.folder.iterdir()) == before


def test_titles_stand_beside_items(run: Run) -> None:
    titles = {hit.item: hit.title for hit in recommend(run, "u02", ITEMS)}
    assert all(title == ("" if item == f"{ITEMS - 1:03}" else f"title, {int(item)}") for item, title in titles.items())


def test_search_hides_rows_without_shortening_lists() -> None:
    vectors = np.eye(6, dtype=np.float32) + np.linspace(0, 0.5, 6, dtype=np.float32)
    queries = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    hidden = [[], [0, 1, 2, 2], list(range(6))]
    scores = queries @ vectors.T
    for line, found in enumerate(search(build_index(vectors), queries, hidden, 3)):
        expected = [row for row in np.argsort(-scores[line]) if row not in hidden[line]][:3]
        assert [row for row, _ in found] == expected
        assert [score for _, score in found] == pytest.approx(scores[line][expected], abs=1e-6)


def test_item_vectors_are_those_of_the_model(run: Run) -> None:
    vectors = searchable_vectors(run.model)
    assert vectors.shape == (len(run.data.split.items), 8)
    assert vectors.dtype == np.float32


def test_unknown_users_and_lengths(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"unknown user 'u0' among 40; did you mean 'u\d\d'\? ids look like 'u00'"):
        recommend(run, "u0", 5)
    for top in (0, -1):
        with pytest.raises(ConfigError, match=rf"--top is {top}; ask for at least 1"):
            recommend(run, "u01", top)


# Similar items.


@pytest.fixture
def features(tmp_path: Path) -> FeatureFile:
    return FeatureFile(write_vectors(tmp_path / "f.h5", "small", item_ids(), missing=["004", "010"]))


def test_similar_items_are_those_of_highest_cosine(features: FeatureFile) -> None:
    ids = [item for item in item_ids() if item not in ("004", "010")]
    vectors = features.read(ids)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, item in enumerate(ids):
        cosine = unit @ unit[row]
        expected = [ids[other] for other in np.argsort(-cosine) if other != row][:6]
        hits = similar(features, item, 6)
        assert [hit.item for hit in hits] == expected
        assert [hit.score for hit in hits] == pytest.approx([cosine[ids.index(i)] for i in expected], abs=1e-5)


def test_items_without_vector_and_lengths(features: FeatureFile) -> None:
    with pytest.raises(StoreError, match=r"f\.h5 has no vector of item '004' \(missing: no cover\); ask for another"):
        similar(features, "004", 3)
    with pytest.raises(
        StoreError, match=r"f\.h5 has no vector of item '0077'; did you mean '007'\? ids look like '000'"
    ):
        similar(features, "0077", 3)
    with pytest.raises(StoreError, match=r"has no vector of item 'clip'; ids look like '000'"):
        similar(features, "clip", 3)
    with pytest.raises(ConfigError, match="--top is 0"):
        similar(features, "001", 0)


@pytest.mark.parametrize("keep_last", [None, 4])
@pytest.mark.parametrize("repeats", ["keep", "first", "last"])
def test_a_history_is_what_the_split_made_of_it(repeats: str, keep_last: int | None, tmp_path: Path) -> None:
    """The users of this dataset meet items more than once."""
    data = small_dataset(tmp_path / "small")
    settings = {"folder": str(data), "repeats": repeats, "keep_last": keep_last, "max_length": 20}
    run_recipe(recipe(data, {"data": settings, "model": {"name": "popularity"}}), tmp_path / "run")
    opened = open_run(tmp_path / "run")
    test = opened.data.split.test
    for row, user in enumerate(opened.data.split.users.ids):
        expected = [*test.items[row][test.mask[row]], test.targets[row]]
        assert retrieve._history(opened, user).read.flat.tolist() == expected
    everybody = histories_of(opened, by_user(opened.data.dataset.interactions))
    assert everybody.users == list(opened.data.split.users.ids)
    for row in range(len(everybody.users)):
        expected = [*test.items[row][test.mask[row]], test.targets[row]]
        assert everybody.read.flat[slice(*everybody.read.offsets[row : row + 2])].tolist() == expected
