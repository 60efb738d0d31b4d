"""MMRec folders with their own split: read as they are, and evaluated as MMRec's rules say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import ConfigError
from features.store import FeatureFile
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset
from pipelines.data.detection import read_dataset
from pipelines.data.load import make_split
from pipelines.data.split import ManyTargets, Split
from pipelines.mmrec.export import export_mmrec
from pipelines.ranking.full_ranking import evaluate
from pipelines.retrieval.retrieve import recommend
from pipelines.runs.experiment import run_recipe
from pipelines.runs.run import open_run
from tests.pipelines.ranking.test_evaluate import Fixed
from tests.support.small import item_ids, recipe, small_dataset, write, write_interactions, write_vectors

Rows = Sequence[tuple[int, int, int]]  # user, item, label
HEADER = "userID\titemID\trating\ttimestamp\tx_label"


def write_inter(folder: Path, rows: Rows, header: str = HEADER) -> Path:
    """Write NAME/NAME.inter with times that run against the order of the file."""
    lines = [f"{u}\t{i}\t1.0\t{1000 - n}\t{label}" for n, (u, i, label) in enumerate(rows)]
    write(folder / f"{folder.name}.inter", "\n".join([header, *lines]) + "\n")
    return folder


def split_of(folder: Path, **options: Any) -> Split:
    return make_split(read_dataset(folder), DataConfig(str(folder), **options))


@st.composite
def corpora(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Draw rows without repeated pairs within a part; some pairs recur in another part, some users lack parts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_users, n_items = draw(st.integers(2, 8)), draw(st.integers(4, 25))
    rows = [
        (user, int(item), label)
        for label, most in ((0, 6), (1, 3), (2, 4))
        for user in range(n_users)
        for item in rng.choice(n_items, size=min(int(rng.integers(0, most + 1)), n_items), replace=False)
    ]
    rows += [(0, 0, 0), (0, 1, 1), (0, 2, 2)]  # no part is empty
    unique = list(dict.fromkeys(rows))
    return [unique[place] for place in rng.permutation(len(unique))]


def by_the_rules(rows: Rows, scores: np.ndarray, label: int, k: int) -> dict[str, float]:
    """Rank as MMRec does, user by user: mask training items, take the K best, compare with the part's items."""
    totals = {"Recall": 0.0, "NDCG": 0.0, "Precision": 0.0, "MAP": 0.0}
    users = 0
    for user in range(len(scores)):
        train = {item for u, item, part in rows if (u, part) == (user, 0)}
        wanted = {item for u, item, part in rows if (u, part) == (user, label)}
        if not train or not wanted:
            continue
        users += 1
        masked = [-1e10 if item in train else scores[user, item] for item in range(scores.shape[1])]
        listed = sorted(range(len(masked)), key=lambda item: -masked[item])[:k]
        hits = [1 if item in wanted and item not in train else 0 for item in listed]
        dcg = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
        totals["Recall"] += sum(hits) / len(wanted)
        totals["Precision"] += sum(hits) / k
        totals["NDCG"] += dcg / ideal
        precisions = [hit * sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits)]
        totals["MAP"] += sum(precisions) / min(k, len(wanted))
    return {f"{name}@{k}": total / users for name, total in totals.items()}


@settings(max_examples=60, deadline=None)
@given(rows=corpora(), k=st.integers(1, 8), batch_size=st.integers(1, 5))
def test_numbers_equal_mmrecs_rules(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, k: int, batch_size: int
) -> None:
    split = split_of(write_inter(tmp_path_factory.mktemp("rules") / "toy", rows))
    n_users, n_items = max(u for u, _, _ in rows) + 1, max(i for _, i, _ in rows) + 1
    assert split.items.ids == tuple(str(item) for item in range(n_items))
    scores = np.stack([np.random.default_rng(user).permutation(n_items) for user in range(n_users)])
    rows_of_ours = scores[[int(user) for user in split.users.ids]].astype(np.float32)
    model = Fixed(torch.from_numpy(rows_of_ours), torch.eye(n_items))
    for label, part in ((1, split.valid), (2, split.test)):
        metrics = ("Recall", "NDCG", "Precision", "MAP")
        found = evaluate(
            model, part, split.train_counts, mask="strict", at=(k,), metrics=metrics, batch_size=batch_size
        )
        assert found.metrics == pytest.approx(by_the_rules(rows, scores, label, k))


ROWS = [(0, 3, 0), (0, 1, 0), (0, 2, 1), (0, 4, 2), (0, 0, 2), (2, 1, 0), (2, 6, 1), (2, 3, 2), (3, 1, 2), (3, 0, 1)]


def test_the_split_is_taken_as_it_stands(tmp_path: Path) -> None:
    dataset = read_dataset(write_inter(tmp_path / "toy", ROWS))
    assert dataset.layout == "MMRec folder: toy.inter with its split"
    assert dataset.name == "toy"
    split = make_split(dataset, DataConfig("toy", max_length=1))
    assert split.protocol == "given"
    assert (split.users.ids, split.dropped_users) == (("0", "2"), 1)  # user 3 never trains
    assert len(split.items) == 7  # item 5 occurs nowhere and is ranked
    assert split.train_edges.tolist() == [[0, 0, 1], [1, 3, 1]]  # by time, which runs against the file here
    assert split.train_counts.tolist() == [0, 2, 0, 1, 0, 0, 0]
    assert isinstance(split.test, ManyTargets)
    assert split.test.pairs.tolist() == [[0, 0, 1], [0, 4, 3]]
    assert split.test.items.tolist() == [[3], [1]]
    assert split.test.seen.tolist() == split.valid.seen.tolist() == [1, 3, 1]
    trained = len(set(split.train_edges[1].tolist()))
    assert split.sizes() == {"users": 2, "items": 6, "trained_items": trained, "candidates": 7, "interactions": 8}


def test_leave_one_out_of_the_same_file(tmp_path: Path) -> None:
    folder = write_inter(tmp_path / "toy", ROWS)
    split = split_of(folder, split="leave-one-out")
    assert split.protocol == "leave-one-out"
    assert split.items.ids[split.test.targets[0]] == "3"  # the earliest row has the latest time
    assert split.fingerprint != split_of(folder).fingerprint
    write(folder / "toy.inter", "userID\titemID\tx_label\n0\t1\t0\n0\t2\t1\n0\t0\t2\n")
    with pytest.raises(ConfigError, match=r"has no timestamps \(MMRec folder: toy\.inter .*set data\.split=given"):
        split_of(folder, split="leave-one-out")
    assert split_of(folder).train_edges.tolist() == [[0], [1]]


def test_leave_one_out_keeps_users_and_their_items_together(tmp_path: Path) -> None:
    """User u has items 3u, 3u + 1 and 3u + 2; numbers sort as 9, 10, ids as '10', '9'."""
    rows = [(user, 3 * user + number, 0) for user in range(12) for number in range(3)]
    folder = write_inter(tmp_path / "toy", [*rows, (0, 1, 1), (0, 2, 2)])
    split = split_of(folder, split="leave-one-out")
    assert len(split.users) == 12
    for row, target in zip(split.test.users, split.test.targets, strict=True):
        assert int(split.items.ids[target]) // 3 == int(split.users.ids[row])
    assert all(int(split.items.ids[i]) // 3 == int(split.users.ids[u]) for u, i in split.train_edges.T)


def test_the_order_of_users_in_the_table_does_not_matter(tmp_path: Path) -> None:
    dataset = read_dataset(write_inter(tmp_path / "toy", [*ROWS, (10, 2, 0), (10, 1, 1), (10, 3, 2)]))
    turned = replace(dataset, interactions=dataset.interactions.sort("user", descending=True, maintain_order=True))
    given, again = (make_split(found, DataConfig("toy")) for found in (dataset, turned))
    assert given.users.ids == ("0", "10", "2")
    assert again.fingerprint == given.fingerprint


def test_a_pair_that_stands_twice_in_a_part_counts_once(tmp_path: Path) -> None:
    split = split_of(write_inter(tmp_path / "toy", [*ROWS, (0, 4, 2), (0, 3, 0)]))
    assert split.test.pairs.tolist() == [[0, 0, 1], [4, 0, 3]]
    assert split.train_counts[3] == 2


BAD: dict[str, tuple[str, str]] = {
    "no validation": ("0\t1\t0\n0\t2\t2\n", "the validation part of 'toy' is empty: no row has x_label 1"),
    "no training": ("0\t1\t1\n0\t2\t2\n", "the training part of 'toy' is empty: no row has x_label 0"),
    "strangers": ("0\t1\t0\n1\t2\t1\n0\t2\t2\n", "validation part of 'toy' is empty: none of its users has a training"),
    "label": ("0\t1\t0\n0\t2\t3\n", "toy.inter has 1 rows whose x_label is not 0, 1 or 2, first 3 in line 3"),
    "text": ("a\t1\t0\n", "toy.inter has 1 rows whose userID, itemID, x_label or timestamp is not a number"),
    "negative": ("0\t-1\t0\n", "or whose id is below 0, first in line 2"),
    "stray": ("0\t1\t0\n0\t999999999\t0\n0\t2\t2\n", "itemID 999999999 in line 3 but only 3 different items"),
    "nothing": ("", "toy.inter holds no interactions"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_one_clear_line(tmp_path: Path, what: str) -> None:
    text, message = BAD[what]
    write(tmp_path / "toy" / "toy.inter", "userID\titemID\tx_label\n" + text)
    with pytest.raises(ConfigError) as raised:
        split_of(tmp_path / "toy")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_cannot_be_told_apart_or_is_not_there(tmp_path: Path) -> None:
    folder = write_inter(tmp_path / "toy", ROWS)
    write_interactions(folder, [("a", "b", 1)])
    with pytest.raises(ConfigError, match=r"MMRec \(toy\.inter with x_label\) or plain \(interactions\.tsv\); move"):
        read_dataset(folder)
    (folder / "interactions.tsv").unlink()
    write(folder / "other.inter", HEADER + "\n")
    with pytest.raises(ConfigError, match=r"holds other\.inter and toy\.inter; keep one dataset per folder"):
        read_dataset(folder)
    write(tmp_path / "atomic" / "x.inter", "user_id:token\titem_id:token\n1\t2\n")
    with pytest.raises(ConfigError, match=r"x\.inter has no column 'timestamp'.*; if there are no times .* time=none"):
        read_dataset(tmp_path / "atomic")
    write(tmp_path / "bare" / "x.inter", "a\tb\n1\t2\n")
    with pytest.raises(ConfigError, match=r"nor MMRec's 'NAME\.inter' with x_label"):
        read_dataset(tmp_path / "bare")
    write(tmp_path / "half" / "x.inter", "user\titemID\tx_label\n1\t2\t0\n")
    with pytest.raises(ConfigError, match=r"x\.inter has no column 'userID'"):
        read_dataset(tmp_path / "half")


def test_options_that_contradict_a_given_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"min_item_interactions is 5, but .*toy comes with a split"):
        split_of(write_inter(tmp_path / "toy", ROWS), min_item_interactions=5)
    with pytest.raises(ConfigError, match=r"data\.split is 'given', but .*small .* has none; use leave-one-out"):
        split_of(small_dataset(tmp_path / "small"), split="given")


def exported(folder: Path) -> tuple[Dataset, Split]:
    """Export a leave-one-out split and read it again."""
    split = split_of(small_dataset(folder / "small"))
    vectors = FeatureFile(write_vectors(folder / "f.h5", "small", item_ids()))
    report = export_mmrec(folder / "mmrec", "toy", split, image=vectors)
    return read_dataset(report.folder), split


def test_our_export_reads_back_as_the_split_it_was(tmp_path: Path) -> None:
    dataset, split = exported(tmp_path)
    again = make_split(dataset, DataConfig("toy", split="given"))
    number = {raw: str(row) for row, raw in enumerate(sorted({*split.items.ids}))}
    for name in ("train_edges", "valid", "test"):
        was, now = getattr(split, name), getattr(again, name)
        pairs = [part if name == "train_edges" else part.pairs for part in (was, now)]
        ours = sorted((split.users.ids[u], number[split.items.ids[i]]) for u, i in pairs[0].T)
        theirs = sorted((split.users.ids[int(again.users.ids[u])], again.items.ids[i]) for u, i in pairs[1].T)
        assert ours == theirs, name


def test_from_an_mmrec_folder_to_recommendations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = [0] * 6 + [1, 2, 2]
    rows = [(u, int(i), part) for u in range(20) for i, part in zip(rng.permutation(15)[:9], labels, strict=True)]
    folder = write_inter(tmp_path / "toy", rows)
    asked = {"mask": "strict", "at": [5, 10], "metrics": ["Recall", "MAP"]}
    made = recipe(folder, {"evaluate": asked, "train": {"epochs": 2, "monitor": "Recall@20"}})
    metrics = run_recipe(made, tmp_path / "run")
    assert metrics["valid"]["Recall@20"] > 0
    assert set(metrics["test"]["all"]) == {"Recall@5", "MAP@5", "Recall@10", "MAP@10"}
    opened = open_run(tmp_path / "run")
    saved = np.load(tmp_path / "run" / "ranks.npy")
    assert len(saved) == 40
    assert np.load(tmp_path / "run" / "rank_offsets.npy").tolist() == list(range(0, 41, 2))
    had = {item for user, item, _ in rows if user == 3}
    assert not had & {int(hit.item) for hit in recommend(opened, "3", 6)}
    short = replace(opened.recipe, data=replace(opened.recipe.data, keep_last=3))  # which means nothing here
    assert recommend(replace(opened, recipe=short), "3", 6) == recommend(opened, "3", 6)
