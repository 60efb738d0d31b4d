"""The MMRec folder: every rule of MMRec holds after an export, and the checker sees each rule broken."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from ruamel.yaml import YAML

from features.errors import ConfigError, StoreError
from features.provenance import Provenance
from features.store import FeatureFile, FeatureRows, write_features
from pipelines.commands.export import MMRec, mmrec
from pipelines.data.split import EvalPart, Split, TrainWindows
from pipelines.data.vocabulary import Vocabulary
from pipelines.mmrec.export import check_mmrec_folder, export_mmrec

ITEMS = ("007", "a\tb", "dog", "never seen", "zebra", "ö")
USERS = ("u1", "u 2", "u3")
# User by user, oldest first: the last is the test target, the one before the validation target.
SEQUENCES = {0: [5, 0, 1, 2], 1: [1, 1, 5, 4], 2: [2, 0, 4, 0]}


def eval_part(place: int) -> EvalPart:
    nothing = np.zeros((3, 1), np.int64)
    targets = np.array([sequence[place] for sequence in SEQUENCES.values()])
    return EvalPart(np.arange(3), nothing, nothing.astype(bool), targets, np.zeros(0, np.int64), np.zeros(4, np.int64))


@pytest.fixture
def split() -> Split:
    edges = [(user, item) for user, sequence in SEQUENCES.items() for item in sequence[:-2]]
    empty = np.zeros((0, 2), np.int64)
    return Split(
        dataset="toy",
        users=Vocabulary(USERS, "user"),
        items=Vocabulary(ITEMS, "item"),
        train=TrainWindows(np.zeros(0, np.int64), empty, empty.astype(bool)),
        valid=eval_part(-2),
        test=eval_part(-1),
        train_counts=np.zeros(len(ITEMS), np.int64),
        train_edges=np.array(edges).T,
        fingerprint="f" * 64,
        dropped_users=0,
    )


def features(path: Path, vectors: Any, states: list[int] | None = None, dataset: str = "toy") -> FeatureFile:
    """A feature file over all items; its rows are in another order than the vocabulary."""
    vectors = np.asarray(vectors, np.float16)
    order = np.array([3, 1, 5, 0, 4, 2])
    column = np.array(states or [0] * 6, np.uint8)[order]
    empty = [""] * 6
    rows = FeatureRows([ITEMS[n] for n in order], vectors[order], column, empty, empty, empty)
    write_features(path, rows, Provenance(dataset, {"encoder": path.stem, "modality": "cover"}))
    return FeatureFile(path)


@pytest.fixture
def image(tmp_path: Path) -> FeatureFile:
    """Vector of item n is (n + 1, 1); 'dog' failed and 'zebra' is all zero."""
    vectors = np.stack([np.arange(1, 7), np.ones(6)], axis=1)
    vectors[4] = 0
    return features(tmp_path / "clip.h5", vectors, [0, 0, 2, 0, 0, 0])


@pytest.fixture
def text(tmp_path: Path) -> FeatureFile:
    return features(tmp_path / "bert.h5", np.eye(6) + 1)


@pytest.fixture
def folder(tmp_path: Path, split: Split, image: FeatureFile, text: FeatureFile) -> Path:
    return export_mmrec(tmp_path / "out", "toy-v", split, image=image, text=text).folder


def test_ids_are_contiguous_and_rows_belong_to_their_items(folder: Path, split: Split) -> None:
    with (folder / "i_id_mapping.csv").open(newline="", encoding="utf-8") as handle:
        mapping = {int(row["itemID"]): row["asin"] for row in csv.DictReader(handle, delimiter="\t")}
    assert mapping == dict(enumerate(["007", "a\tb", "dog", "zebra", "ö"]))  # 'never seen' is left out
    table = pl.read_csv(folder / "toy-v.inter", separator="\t")
    assert table.columns == ["userID", "itemID", "rating", "timestamp", "x_label"]
    raw = [
        (user, mapping[item], label, place)
        for user, item, _, place, label in sorted(table.rows(), key=lambda row: (row[0], row[3]))
    ]
    labels = [0, 0, 1, 2]
    expected = [
        (user, ITEMS[item], label, place)
        for user, sequence in SEQUENCES.items()
        for place, (item, label) in enumerate(zip(sequence, labels, strict=True))
    ]
    assert raw == expected
    vectors = np.load(folder / "image_feat.npy")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[[0, 1, 4]], [[1, 1], [2, 1], [6, 1]])
    np.testing.assert_array_equal(vectors[[2, 3]], [[3, 1], [3, 1]])  # the mean of those three
    np.testing.assert_array_equal(np.load(folder / "text_feat.npy"), (np.eye(6) + 1)[[0, 1, 2, 4, 5]])


def test_the_report_says_what_a_user_must_know(tmp_path: Path, split, image, text) -> None:
    report = export_mmrec(tmp_path / "out", "toy", split, image=image, text=text)
    assert (report.users, report.items, report.rows, report.left_out_items) == (3, 5, (6, 3, 3), 1)
    assert report.filled == (("image", "dog", "failed"), ("image", "zebra", "all zero"))
    assert report.repeated_pairs == 1  # user 'u 2' met item 'a\tb' twice
    assert report.hidden_targets == 1  # the test target of u3 stands in its training part
    assert "cover clip (clip.h5" in report.slots["image"]
    assert (report.folder / "filled_items.tsv").read_text().splitlines() == [
        "slot\titem\twhy",
        "image\tdog\tfailed",
        "image\tzebra\tall zero",
    ]
    record = json.loads((report.folder / "freezeframe.json").read_text())
    assert record["features"]["text"]["recipe"]["encoder"] == "bert"
    assert record["split"] == "f" * 64


def test_the_settings_are_those_mmrec_reads(folder: Path) -> None:
    path = folder.parents[1] / "configs" / "dataset" / "toy-v.yaml"
    assert YAML(typ="safe").load(path.read_text()) == {
        "USER_ID_FIELD": "userID",
        "ITEM_ID_FIELD": "itemID",
        "TIME_FIELD": "timestamp",
        "filter_out_cod_start_users": True,
        "inter_file_name": "toy-v.inter",
        "vision_feature_file": "image_feat.npy",
        "text_feature_file": "text_feat.npy",
        "user_graph_dict_file": "user_graph_dict.npy",
        "field_separator": "\t",
    }
    assert "# Visual slot: cover clip (clip.h5" in path.read_text()
    assert "*_adj_*.pt" in path.read_text()


def test_one_slot_and_no_timestamps(tmp_path: Path, split, text) -> None:
    report = export_mmrec(tmp_path / "out", "toy", split, text=text, timestamps=False)
    assert not (report.folder / "image_feat.npy").exists()
    assert report.slots["image"] == "empty"
    assert (report.folder / "toy.inter").read_text().startswith("userID\titemID\trating\tx_label\n")
    assert check_mmrec_folder(report.folder) == []


def test_it_also_checks_inside_a_checkout_of_mmrec(tmp_path: Path, folder: Path) -> None:
    checkout = tmp_path / "MMRec"
    (checkout / "data").mkdir(parents=True)
    (checkout / "src").mkdir()
    folder.rename(checkout / "data" / "toy-v")
    (tmp_path / "out" / "configs").rename(checkout / "src" / "configs")
    assert check_mmrec_folder(checkout / "data" / "toy-v") == []


# Each rule broken.

Break = Callable[[Path], object]


def edit(name: str, old: str, new: str) -> Break:
    def change(folder: Path) -> None:
        path = folder / name if (folder / name).exists() else folder.parents[1] / "configs" / "dataset" / name
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new, 1))

    return change


def matrix(change: Callable[[Any], Any], name: str = "image_feat.npy") -> Break:
    return lambda folder: np.save(folder / name, change(np.load(folder / name)))


def only_rows(keep: Callable[[list[str]], bool]) -> Break:
    def change(folder: Path) -> None:
        head, *lines = (folder / "toy-v.inter").read_text().splitlines()
        (folder / "toy-v.inter").write_text("\n".join([head, *(line for line in lines if keep(line.split("\t")))]))

    return change


def put(row: int, value: float) -> Callable[[Any], Any]:
    def change(vectors: Any) -> Any:
        vectors[row] = value
        return vectors

    return change


def old_cache(folder: Path) -> None:
    cache = folder / "mm_adj_freedomdsp_10_1.pt"
    cache.write_bytes(b"")
    os.utime(cache, ns=(0, 0))


@pytest.mark.parametrize(
    ("breaking", "said"),
    [
        (lambda folder: (folder.parents[1] / "configs/dataset/toy-v.yaml").unlink(), "MMRec skips it without a word"),
        (edit("toy-v.yaml", "USER_ID_FIELD: userID", ""), "key USER_ID_FIELD is missing"),
        (edit("toy-v.yaml", "text_feature_file", "#"), "key text_feature_file is missing"),
        (edit("toy-v.yaml", '"\\t"', '"\\\\t"'), "quote a tab"),
        (edit("toy-v.yaml", "users: True", "users: 'True'"), "filter_out_cod_start_users is not True"),
        (edit("toy-v.yaml", "userID", "[userID"), "is no YAML"),
        (edit("toy-v.yaml", "toy-v.inter", "other.inter"), "other.inter cannot be read"),
        (edit("toy-v.inter", "x_label", "label"), "has no column x_label; it has userID"),
        (edit("toy-v.inter", "\n0\t", "\nu1\t"), "userID: every field must be an integer"),
        (edit("toy-v.inter", "\n0\t", "\n-1\t"), "user ids are not 0 to 3: 4 of them, from -1 to 2"),
        (only_rows(lambda row: row[1] != "0"), "item ids are not 0 to 3: 4 of them, from 1 to 4"),
        (only_rows(lambda row: row[1] != "4"), "image_feat.npy has 5 rows for 4 items"),
        (edit("toy-v.inter", "\t2\n", "\t3\n"), "1 rows have x_label 3"),
        (only_rows(lambda row: row[4] != "1"), "no rows for valid"),
        (only_rows(lambda row: row[4] != "2"), "no rows for test"),
        (only_rows(lambda row: row[0] != "1" or row[4] != "0"), "1 users have valid or test rows but none to train on"),
        (only_rows(lambda row: False), "no rows"),
        (matrix(lambda vectors: vectors[:-1]), "image_feat.npy has 4 rows for 5 items"),
        (matrix(lambda vectors: np.vstack([vectors, vectors]), "text_feat.npy"), "text_feat.npy has 10 rows"),
        (matrix(lambda vectors: vectors.astype(np.float64)), "is float64 of shape"),
        (matrix(lambda vectors: vectors[:, 0]), "not float32 of shape (items, width)"),
        (matrix(put(2, np.nan)), "1 rows hold NaN or infinity, first itemID 2"),
        (matrix(put(3, 0)), "1 rows are all zero, first itemID 3"),
        (lambda folder: np.save(folder / "text_feat.npy", np.array([{}])), "cannot be read without pickle"),
        (lambda folder: [path.unlink() for path in folder.glob("*.npy")], "neither image_feat.npy nor text_feat.npy"),
        (old_cache, "mm_adj_freedomdsp_10_1.pt is older than image_feat.npy: delete it"),
        (lambda folder: (folder / "u_id_mapping.csv").unlink(), "u_id_mapping.csv cannot be read"),
        (edit("i_id_mapping.csv", "dog\t2", "dog\t1"), "itemID does not run from 0 to 4"),
        (edit("i_id_mapping.csv", "dog\t", "zebra\t"), "two rows have the same asin"),
        (edit("u_id_mapping.csv", "user_id", "raw"), "u_id_mapping.csv cannot be read"),
    ],
)
def test_each_broken_rule_is_seen(folder: Path, breaking: Break, said: str) -> None:
    assert check_mmrec_folder(folder) == []
    breaking(folder)
    problems = check_mmrec_folder(folder)
    assert any(said in problem for problem in problems), problems


# What is refused, and what an occupied folder does.


def test_splits_that_mmrec_cannot_hold_leave_nothing_behind(tmp_path: Path, split: Split, image) -> None:
    no_train = replace(split, train_edges=split.train_edges[:, split.train_edges[0] != 1])
    with pytest.raises(ConfigError, match="1 users have valid or test rows but none to train on"):
        export_mmrec(tmp_path / "out", "toy", no_train, image=image)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file() or path.name.startswith(".")] == []


def test_features_that_are_refused(tmp_path: Path, split: Split, image) -> None:
    other = tmp_path / "other.h5"
    ids = [f"x{item}" for item in ITEMS]
    rows = FeatureRows(ids, np.eye(6, dtype=np.float16), np.zeros(6, np.uint8), *[[""] * 6] * 3)
    write_features(other, rows, Provenance("elsewhere", {"encoder": "x", "modality": "cover"}))
    cached = features(tmp_path / "cached.h5", np.ones((6, 2, 3)))
    nothing = features(tmp_path / "nothing.h5", np.full((6, 2), np.nan), [1] * 6)
    zero = features(tmp_path / "zero.h5", np.zeros((6, 2)))
    refusals = {
        "was made for dataset 'elsewhere'; it has rows for 0 of the": FeatureFile(other),
        "holds activations or pixels": cached,
    }
    refusals |= {"lacks 5 of 5 items": nothing, "all 5 vectors are zero": zero}
    for said, file in refusals.items():
        with pytest.raises(StoreError, match=said):
            export_mmrec(tmp_path / "out", "toy", split, text=file)
    with pytest.raises(ConfigError, match="image slot, the text slot or both"):
        export_mmrec(tmp_path / "out", "toy", split)
    with pytest.raises(ConfigError, match=r"'\.\./toy' becomes a folder"):
        export_mmrec(tmp_path / "out", "../toy", split, image=image)
    assert not (tmp_path / "out").exists()


def test_an_export_of_the_same_dataset_is_replaced(tmp_path: Path, folder: Path, split, text) -> None:
    export_mmrec(tmp_path / "out", "toy-v", split, text=text)
    assert not (folder / "image_feat.npy").exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["toy-v"]


def test_folders_of_other_datasets_are_kept(tmp_path: Path, folder: Path, split, text) -> None:
    before = (folder / "toy-v.inter").read_bytes()
    for change in (lambda: None, (folder / "freezeframe.json").unlink):
        change()
        with pytest.raises(StoreError, match="not 'new'; choose another name, or `--overwrite`"):
            export_mmrec(tmp_path / "out", "toy-v", replace(split, dataset="new"), text=replaced(tmp_path, "new"))
    assert (folder / "toy-v.inter").read_bytes() == before
    export_mmrec(
        tmp_path / "out", "toy-v", replace(split, dataset="new"), text=replaced(tmp_path, "new"), overwrite=True
    )
    assert json.loads((folder / "freezeframe.json").read_text())["dataset"] == "new"


def replaced(tmp_path: Path, dataset: str) -> FeatureFile:
    return features(tmp_path / "new.h5", np.eye(6) + 2, dataset=dataset)


def test_caches_of_an_earlier_export_are_not_mixed_with_new_features(tmp_path: Path, folder: Path, split, text) -> None:
    (folder / "text_adj_10_True.pt").write_bytes(b"graph")
    with pytest.raises(StoreError, match=r"also holds text_adj_10_True\.pt, made from the earlier export"):
        export_mmrec(tmp_path / "out", "toy-v", split, text=text)
    assert (folder / "text_adj_10_True.pt").exists()
    export_mmrec(tmp_path / "out", "toy-v", split, text=text, overwrite=True)
    assert not (folder / "text_adj_10_True.pt").exists()


def test_a_full_disk_keeps_the_earlier_export(tmp_path: Path, folder: Path, split, text, monkeypatch) -> None:
    before = (folder / "freezeframe.json").read_bytes()

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StoreError, match="No space left on device"):
        export_mmrec(tmp_path / "out", "toy-v", split, text=text)
    assert (folder / "freezeframe.json").read_bytes() == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["toy-v"]


def test_the_command_line_exports_a_dataset_folder(tmp_path: Path, capsys) -> None:
    data = tmp_path / "plain"
    data.mkdir()
    rows = [f"u{user}\t{ITEMS[item]}\t{time}" for user, items in SEQUENCES.items() for time, item in enumerate(items)]
    (data / "interactions.tsv").write_text("\n".join(["user\titem\ttimestamp", *rows]).replace("a\tb", "ab") + "\n")
    (data / "items.tsv").write_text("item\ttitle\n" + "".join(f"{item}\tt\n" for item in ITEMS if "\t" not in item))
    covers = features(tmp_path / "covers.h5", np.eye(6) + 1, dataset="plain")
    mmrec(MMRec(data, "toy", tmp_path / "out", image=covers.path))
    said = capsys.readouterr().out
    assert "3 users, 5 items, train / valid / test rows (6, 3, 3)" in said
    assert "1 vectors are the mean of the others" in said  # 'ab' stands in no feature file
    assert check_mmrec_folder(tmp_path / "out" / "data" / "toy") == []
