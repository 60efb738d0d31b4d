"""Parts of a report: neighbours, samples of a test part, the spread of offers, charts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.inspect import effective_rank, look
from features.store import FeatureFile
from pipelines.data.load import Data, load_data
from pipelines.data.split import ManyTargets
from pipelines.ranking.full_ranking import evaluate
from pipelines.reporting.neighbours import nearest_items
from pipelines.reporting.offers import Offers, RowOffers, some_users
from pipelines.reporting.people import STRIP, Shown, concentration, people
from pipelines.reporting.svg import chart, line_style, name_lines
from pipelines.retrieval.retrieve import similar
from pipelines.runs.experiment import run_recipe
from pipelines.runs.run import open_run
from tests.support.small import item_ids, recipe, small_dataset, write_vectors
from tests.support.stores import write


def test_neighbours_are_those_of_similar(tmp_path: Path) -> None:
    file = FeatureFile(write_vectors(tmp_path / "f.h5", "d", item_ids(), missing=["004"]))
    found = nearest_items(file, [*item_ids(), "unknown"], 5)
    assert list(found) == [item for item in item_ids() if item != "004"]
    for item, near in found.items():
        hits = similar(file, item, 5)
        assert [other for other, _ in near] == [hit.item for hit in hits]
        assert [cosine for _, cosine in near] == pytest.approx([hit.score for hit in hits], abs=1e-6)


def test_equal_cosines_keep_the_files_order_and_no_item_is_its_own_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.ones((6, 3), dtype=np.float32)
    file = write(tmp_path / "f.h5", list("fedcba"), vectors, [0, 0, 0, 1, 0, 0])
    blocks = [(0, vectors[:2]), (2, vectors[2:5]), (5, vectors[5:])]
    monkeypatch.setattr(FeatureFile, "blocks", lambda _: iter(blocks))
    assert [item for item, _ in nearest_items(file, ["e"], 3)["e"]] == ["f", "d", "b"]
    assert len(nearest_items(file, ["a"], 9)["a"]) == 4


@pytest.mark.parametrize("split", ["leave-one-out", "ratio"])
def test_a_sample_of_users_is_ranked_as_in_the_whole_part(tmp_path: Path, split: str) -> None:
    data = small_dataset(tmp_path / "data")
    made = recipe(data, {"data": {"folder": str(data), **({} if split == "leave-one-out" else {"split": split})}})
    run_recipe(made, tmp_path / "run", device="cpu")
    run, part = open_run(tmp_path / "run"), load_data(made.data).split.test
    assert isinstance(part, ManyTargets) == (split == "ratio")
    options = {"train_counts": run.data.split.train_counts, "mask": "hide", "at": (5,), "lists": True}
    rows = np.array([7, 0, 3, len(part.users) - 1])
    every, some = evaluate(run.model, part, **options), evaluate(run.model, some_users(part, rows), **options)
    np.testing.assert_array_equal(some.lists, every.lists[rows])
    for place, user in enumerate(rows):
        bounds = every.ranked.offsets[user : user + 2]
        own = some.ranked.offsets[place : place + 2]
        np.testing.assert_array_equal(some.ranks[slice(*own)], every.ranks[slice(*bounds)])


def test_the_spread_of_offers_by_hand(tmp_path: Path) -> None:
    data = load_data(recipe(small_dataset(tmp_path / "data")).data)
    items = len(data.split.items)
    lists = np.full((10, 2), 3, dtype=np.int32)
    lists[:, 1] = np.arange(10) + 4
    lists[9, 1] = -1  # a user without more items
    row = type("Row", (), {"name": "r"})()
    (found,) = concentration(Offers(data, np.arange(10), [RowOffers(row, lists, []), RowOffers(row, None, [])]))
    assert found.coverage == pytest.approx(10 / items)
    assert found.top_share == pytest.approx(10 / 19)
    assert found.curve[0] == 0
    assert found.curve[-1] == pytest.approx(1)
    assert found.cold_share == pytest.approx(float((data.split.train_counts[lists[lists >= 0]] == 0).mean()))


def test_a_person_has_the_newest_history_the_targets_and_marks_of_hits_and_cold_items(tmp_path: Path) -> None:
    folder = small_dataset(tmp_path / "data")
    long = {"folder": str(folder), "keep_last": None, "max_length": 20}
    data = load_data(recipe(folder, {"data": long}).data)
    part, ids = data.split.test, data.split.items.ids
    user = int(np.argmax(np.diff(part.seen_offsets)))
    target, others = int(part.targets[user]), [item for item in range(len(ids)) if item != part.targets[user]][:2]
    counts = data.split.train_counts.copy()
    counts[[target, others[1]]] = 0
    lists = np.array([[others[0], target, others[1], -1]], dtype=np.int32)
    row = type("Row", (), {"name": "r"})()
    split = replace(data.split, train_counts=counts)
    found = Offers(Data(data.dataset, split), np.array([user]), [RowOffers(row, lists, [[2.0]])])
    (person,) = people(found, 5)
    assert person.user == split.users.ids[part.users[user]]
    seen = part.seen[part.seen_offsets[user] : part.seen_offsets[user + 1]].tolist()
    assert person.seen == len(seen) > STRIP
    assert [shown.item for shown in person.history] == [ids[item] for item in seen[-STRIP:]]
    assert person.targets == [Shown(ids[target], cold=True)]
    assert person.columns[0].place == "place 2"
    assert person.columns[0].items == [
        Shown(ids[others[0]], cold=bool(counts[others[0]] == 0)),
        Shown(ids[target], hit=True, cold=True),
        Shown(ids[others[1]], cold=True),
    ]


def test_a_chart_is_the_same_twice_and_brings_no_colours_and_no_ids_of_its_own() -> None:
    def draw(figure: object) -> None:
        axes = figure.add_subplot()
        axes.plot([1, 2], [3, 4], **line_style(0, 2))
        axes.plot([1, 2], [4, 3], **line_style(1, 2))
        name_lines(axes, ["_<b>", "$\\bad{"])

    one = chart("x", 'about "this" <b>', draw)
    assert one == chart("x", 'about "this" <b>', draw)
    assert 'aria-label="about &quot;this&quot; &lt;b&gt;"' in one
    assert "_&lt;b&gt;" in one
    assert "$\\bad{" in one
    assert "currentColor" in one
    assert "var(--c0)" in one
    assert "#0102" not in one
    assert "http" not in one
    assert '<g id="' not in one
    assert chart("empty", "nothing", lambda figure: None) == ""


def test_a_look_at_a_file_holds_what_its_figures_are_made_of(tmp_path: Path) -> None:
    file = FeatureFile(write_vectors(tmp_path / "f.h5", "d", item_ids(), missing=["004"]))
    found = look(file)
    vectors = file.read([item for item in item_ids() if item != "004"])
    np.testing.assert_allclose(found.norms, np.linalg.norm(vectors, axis=1), rtol=1e-6)
    singular = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(found.spectrum, singular / singular.sum(), rtol=1e-5)
    assert found.facts["effective_rank"] == effective_rank(vectors)
