"""Published arrays in and out, the numbers of a feature file, and the documented way to read one with h5py alone."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features import convert, layout, published
from features.convert import import_features
from features.errors import ConfigError, StoreError
from features.provenance import Provenance, file_sha256
from features.store import FeatureFile, FeatureRows, write_features

VECTORS = np.arange(12, dtype=np.float64).reshape(4, 3)


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    np.save(tmp_path / "published.npy", VECTORS)
    return tmp_path / "published.npy"


def bring(npy: Path, target: Path, ids: Any = "row+1", dtype: str = "float16", name: str = "clip") -> FeatureFile:
    return import_features(npy, target, dataset="micro", ids=ids, name=name, dtype=dtype)


def feature_file(
    path: Path, vectors: Any, states: Sequence[int] = (), ids: Sequence[str] = (), dtype: str | None = None
) -> FeatureFile:
    vectors = np.asarray(vectors, np.float32)
    empty = [""] * len(vectors)
    column = np.array(states or [0] * len(vectors), np.uint8)
    rows = FeatureRows(ids or [f"i{n}" for n in range(len(vectors))], vectors, column, empty, empty, empty)
    write_features(path, rows, Provenance("micro", {"encoder": "tiny"}, command="extract"), dtype=dtype)
    return FeatureFile(path)


# In.


def test_microlens_counts_items_from_one(npy: Path, tmp_path: Path) -> None:
    file = bring(npy, tmp_path / "out")
    assert file.path == tmp_path / "out" / f"clip-{file.provenance.fingerprint[:16]}.h5"
    assert file.columns.ids == ("1", "2", "3", "4")
    np.testing.assert_array_equal(file.read(["4", "1"]), VECTORS[[3, 0]])
    assert (file.dtype, file.provenance.dataset, file.counts()["done"]) == (np.float16, "micro", 4)
    assert dict(file.provenance.recipe) == {
        "name": "clip",
        "source": "published.npy",
        "sha256": file_sha256(npy),
        "ids": "row r is item r+1",
        "dtype": "float16",
    }
    file.verify()


def test_mmrec_counts_items_from_zero(npy: Path, tmp_path: Path) -> None:
    file = bring(npy, tmp_path / "out", ids="row")
    assert file.columns.ids == ("0", "1", "2", "3")
    assert file.provenance.recipe["ids"] == "row r is item r"
    assert file.provenance.fingerprint != bring(npy, tmp_path / "out").provenance.fingerprint


def test_ids_from_a_text_file(npy: Path, tmp_path: Path) -> None:
    for content in ("d\nc\n00b\n\u2028a\n", "\ufeffd\r\nc\r\n00b\r\n\u2028a"):
        (tmp_path / "ids.txt").write_text(content, encoding="utf-8", newline="")
        file = bring(npy, tmp_path / "out.h5", ids=str(tmp_path / "ids.txt"))
        assert file.columns.ids == ("d", "c", "00b", "\u2028a")
    assert re.fullmatch(r"ids.txt, sha256 [0-9a-f]{64}", file.provenance.recipe["ids"])


def test_ids_from_mmrec_in_any_order(npy: Path, tmp_path: Path) -> None:
    with (tmp_path / "i_id_mapping.csv").open("w", newline="") as handle:
        csv.writer(handle, delimiter="\t").writerows([["itemID", "asin"], [2, "c"], [0, "a\tx"], [3, "d"], [1, "b"]])
    file = bring(npy, tmp_path / "out.h5", ids=tmp_path / "i_id_mapping.csv", dtype="float32")
    assert file.columns.ids == ("a\tx", "b", "c", "d")
    assert file.dtype == np.float32


def test_other_ids_are_another_recipe(npy: Path, tmp_path: Path) -> None:
    one, two = (bring(npy, tmp_path / "out", ids=list(ids)) for ids in ("abcd", "dcba"))
    assert one.path != two.path
    with pytest.raises(StoreError, match="holds features of another source or recipe; choose another name"):
        bring(npy, one.path, ids=list("dcba"))
    bring(npy, one.path, ids=list("abcd"))  # the same again is no matter


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((5, 3)), r"has 5 rows but there are 4 ids \(list, sha256 .*\); they must agree"),
        (np.array([[1.0], [np.nan], [np.inf], [1]]), r"2 of 4 rows hold NaN or infinity; .*'b', row 1"),
        (np.array([[1.0], [2], [1e5], [1]]), r"1 of 4 rows hold values too large for float16; import as float32 .*'c'"),
        (np.ones((4, 3), np.int64), "int64 of shape .* features are a 2-d array of floats"),
        (np.ones((4, 3, 2)), "features are a 2-d array of floats"),
        (np.ones((0, 3)), "features are a 2-d array of floats"),
        (np.array([[{}], [1], [2], [3]], dtype=object), "no plain .npy array"),
    ],
)
def test_arrays_that_are_refused(tmp_path: Path, array: Any, said: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(StoreError, match=said):
        bring(tmp_path / "a.npy", tmp_path / "out", ids=list("abcd"))
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_arrays(tmp_path: Path, npy: Path) -> None:
    np.savez(tmp_path / "a.npz", a=VECTORS)
    (tmp_path / "text.npy").write_text("vectors")
    (tmp_path / "cut.npy").write_bytes(npy.read_bytes()[:-8])
    for name, said in {
        "gone.npy": "does not exist",
        "a.npz": "archive",
        "text.npy": "no plain",
        "cut.npy": "no plain",
    }.items():
        with pytest.raises(StoreError, match=said):
            bring(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ids.txt", "a\nb\na\nc\n", "'a' occurs twice"),
        ("ids.txt", "a\n\nb\nc\n", "item id '' .str. cannot be stored"),
        ("ids.txt", "a\nb\n", "has 4 rows but there are 2 ids"),
        ("map.csv", "asin,itemID\na,0\n", "TAB-separated columns asin and itemID"),
        ("map.csv", "asin\titemID\na\t0\nb\t2\n", "each itemID from 0 to 1 once"),
        ("map.csv", "asin\titemID\na\t0\nb\t0\n", "each itemID from 0 to 1 once"),
        ("map.csv", "asin\titemID\na\tx\n", "no MMRec item mapping"),
        (None, "", "ids cannot be read from .*gone.txt"),
    ],
)
def test_ids_that_are_refused(npy: Path, tmp_path: Path, name: str | None, content: str, said: str) -> None:
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(StoreError, match=said):
        bring(npy, tmp_path / "out", ids=tmp_path / (name or "gone.txt"))


def test_names_and_types_that_are_refused(npy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'int4' cannot be stored; choose float16, float32 or int8"):
        bring(npy, tmp_path, dtype="int4")
    with pytest.raises(ConfigError, match="'a/b' becomes a file name"):
        bring(npy, tmp_path, name="a/b")


def test_arrays_are_read_in_blocks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(published, "BLOCK_BYTES", 48)  # two rows
    vectors = np.asfortranarray(np.random.default_rng(0).standard_normal((7, 3)))
    np.save(tmp_path / "a.npy", vectors)
    file = bring(tmp_path / "a.npy", tmp_path / "out", dtype="float32")
    np.testing.assert_array_equal(file.read(file.columns.ids), vectors.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_source_that_changes_meanwhile_is_not_imported(npy: Path, tmp_path: Path, monkeypatch, dtype: str) -> None:
    """Scales would be of the old numbers, vectors of the new ones, and the recipe would name neither."""
    real = convert._refuse

    def overwritten(*given: Any) -> None:
        real(*given)
        content = npy.read_bytes()
        npy.write_bytes(content[:-8] + np.float64(100).tobytes())

    monkeypatch.setattr(convert, "_refuse", overwritten)
    with pytest.raises(StoreError, match=r"published\.npy changed while it was read; import it again"):
        bring(npy, tmp_path / "out", dtype=dtype)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_does_not_read_back_is_not_kept(npy: Path, tmp_path: Path, monkeypatch) -> None:
    """A disk that gives back other numbers than it was given."""
    real = layout.fsync_file

    def damaged(path: Path) -> None:
        real(path)
        content = path.read_bytes()
        assert content.count(np.float32(11).tobytes()) == 1
        path.write_bytes(content.replace(np.float32(11).tobytes(), np.float32(12).tobytes()))

    monkeypatch.setattr(layout, "fsync_file", damaged)
    with pytest.raises(StoreError, match=r"the imported file does not read back as it was written .*; import it again"):
        bring(npy, tmp_path / "out", dtype="float32")
    assert list((tmp_path / "out").iterdir()) == []


# The documentation.


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3)])
def test_the_documented_way_works_with_h5py_alone(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """Run the code block of docs/feature-files.md away from this repository, on a file with all three states."""
    page = Path(__file__).parents[2] / "docs" / "feature-files.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "freezeframe" not in block.replace('"freezeframe-features"', "")
    rows = np.random.default_rng(0).standard_normal(shape)
    file = feature_file(tmp_path / "features.h5", rows, [0, 1, 2, 0], ["1042", "b", "c", "ü"], dtype)
    told = "[len(row_of), 'features' in __import__('sys').modules, vector.tolist(), vectors.tolist(), done.tolist()]"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{block}\nprint(__import__('json').dumps({told}))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, ours, vector, vectors, flags = json.loads(done.stdout.splitlines()[-1])
    assert (count, ours, flags) == (4, False, [True, False, False, True])
    expected = file.read(["1042", "ü"])
    np.testing.assert_array_equal(np.float32(vectors), expected)
    np.testing.assert_array_equal(np.float32(vector), expected[0])
