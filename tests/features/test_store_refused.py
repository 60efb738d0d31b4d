"""Feature files that are damaged, edited, foreign or do not fit: refused with a line that helps."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import StoreError
from features.merge import merge
from features.provenance import Provenance
from features.store import MAX_ID_BYTES, FeatureFile, FeatureRows, check_ids, write_features
from tests.support.stores import RECIPE, make_rows, write

# Rows that may not enter.


@pytest.mark.parametrize("bad", ["", "a\0b", "x" * (MAX_ID_BYTES + 1), "\udcff", 17, None])
def test_ids_that_cannot_be_stored(bad: Any) -> None:
    with pytest.raises(StoreError, match=r"item id .* cannot be stored; it must be"):
        check_ids(["fine", bad])
    check_ids(["fine", "x" * MAX_ID_BYTES, "../../etc/passwd", " ", "a\tb\nc", "Ω"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": ["a", "a"]}, "'a' occurs twice"),
        ({"ids": ["a"]}, "1 ids but 2 vectors"),
        ({"reasons": [""]}, "2 ids but 1 reasons"),
        ({"stamps": ["x" * 5000, ""]}, "stamp .* cannot be stored"),
        ({"digests": ["a\0", ""]}, "digest .* cannot be stored"),
        ({"states": np.array([0, 7], np.uint8)}, "0 done, 1 missing, 2 failed"),
        ({"vectors": np.ones((2, 3))}, "float64 of shape .* give float16 or float32"),
        ({"vectors": np.ones(2, np.float16)}, "give float16 or float32 of shape"),
        ({"vectors": np.ones((2, 0), np.float16)}, "F and S >= 1"),
        ({"vectors": np.array([[1.0], [np.nan]], np.float32)}, "1 of 2 rows .* first item 'b'"),
        ({"vectors": np.array([[np.inf], [1]], np.float16)}, "float16 overflows above 65504"),
    ],
)
def test_rows_that_are_refused(change: dict[str, Any], said: str) -> None:
    fine = {"ids": ["a", "b"], "vectors": np.ones((2, 3), np.float16), "states": np.zeros(2, np.uint8)}
    fine |= {name: ["", ""] for name in ("reasons", "stamps", "digests")}
    FeatureRows(**fine)
    with pytest.raises(StoreError, match=said):
        FeatureRows(**{**fine, **change})


# Files that are refused.


def test_absent_foreign_and_other_datasets_files(tmp_path: Path, five: FeatureFile) -> None:
    with pytest.raises(StoreError, match="does not exist; make it with `extract`"):
        FeatureFile(tmp_path / "nowhere.h5")
    with pytest.raises(StoreError, match="is a folder; name a file"):
        FeatureFile(tmp_path)
    with pytest.raises(StoreError, match="belongs to dataset 'micro', not 'other'"):
        FeatureFile(five.path, dataset="other")
    for content in ("no HDF5 at all", ""):
        (tmp_path / "text.h5").write_text(content)
        with pytest.raises(StoreError, match=r"text\.h5 is no HDF5 file; name a feature file, .*`features import`$"):
            FeatureFile(tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as handle:
        handle["vectors"] = np.ones((2, 2))
    with pytest.raises(StoreError, match="import it with `features import`"):
        FeatureFile(tmp_path / "foreign.h5")


def test_a_file_one_may_not_read_is_not_called_damaged(five: FeatureFile, monkeypatch) -> None:
    def forbidden(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("h5py.File", forbidden)
    with pytest.raises(StoreError, match=r"^cannot read .*five\.h5 \(permission denied\); check its permissions$"):
        FeatureFile(five.path)


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, share: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    file = write(folder / "f.h5", [str(n) for n in range(50)], np.ones((50, 8), np.float16))
    content = file.path.read_bytes()
    left = int(share * len(content))
    file.path.write_bytes(content[:left])
    said = "damaged, truncated or no freezeframe feature file .*; delete it" if left >= 8 else "is no HDF5 file"
    with pytest.raises(StoreError, match=said):
        FeatureFile(file.path).verify()


@settings(max_examples=100, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), dtype=st.sampled_from(["float32", "int8"]))
def test_a_flipped_bit_is_refused_or_harmless(tmp_path_factory, place: float, bit: int, dtype: str) -> None:
    folder = tmp_path_factory.mktemp("flip")
    ids = [f"item {n}" for n in range(60)]
    vectors = np.random.default_rng(2).standard_normal((60, 8)).astype(np.float32)
    states = [0] * 58 + [1, 2]
    file = write(folder / "f.h5", ids, vectors, states, dtype)
    expected = file.read(ids[:58])
    content = bytearray(file.path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.path.write_bytes(content)
    try:
        changed = FeatureFile(file.path)
        changed.verify()
    except StoreError:
        return
    # The rest of a file is padding and the addresses HDF5 does not need: what is read must be what was written.
    np.testing.assert_array_equal(changed.read(ids[:58]), expected)
    np.testing.assert_array_equal(changed.columns.errors, file.columns.errors)
    assert changed.columns.ids == file.columns.ids
    assert changed.columns.reasons == file.columns.reasons


def test_a_flipped_bit_of_a_vector_fails_verify(five: FeatureFile) -> None:
    with h5py.File(five.path) as handle:
        offset = handle["vectors"].id.get_offset()
    with five.path.open("rb+") as raw:
        raw.seek(offset + 1)
        raw.write(b"\x01")
    with pytest.raises(StoreError, match=r"five.h5 changed since it was written \(sha256"):
        FeatureFile(five.path).verify()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("dataset", "other", "attribute 'dataset' does not fit"),
        ("fingerprint", "00" * 32, "attribute 'fingerprint' does not fit"),
        ("weights_sha256", "", "attribute 'weights_sha256'"),
        ("count_done", 5, "attribute 'count_done'"),
        ("provenance", RECIPE.to_json().replace('"frames":4', '"frames":8'), "attribute 'fingerprint'"),
        ("provenance", RECIPE.to_json().replace("extract", "by hand"), "another sha256"),
        ("provenance", "{}", "provenance is not readable"),
        ("provenance", "{", "provenance is not readable"),
        ("format_version", 4, "layout version 4, this program reads 1 to 3"),
        ("vectors_sha256", "00" * 32, "changed since it was written"),
        ("table_sha256", "00" * 32, "another sha256"),
    ],
)
def test_edited_attributes_are_refused(five: FeatureFile, name: str, value: Any, said: str) -> None:
    with h5py.File(five.path, "r+") as handle:
        handle.attrs[name] = value
    with pytest.raises(StoreError, match=said):
        FeatureFile(five.path).verify()


@pytest.mark.parametrize("column", ["ids", "reasons", "stamps", "digests", "states"])
def test_edited_and_removed_columns_are_refused(five: FeatureFile, column: str) -> None:
    with h5py.File(five.path, "r+") as handle:
        swapped = handle[column][:]
        swapped[[0, 2]] = swapped[[2, 0]]
        handle[column][:] = swapped
    with pytest.raises(StoreError, match="was edited or damaged"):
        FeatureFile(five.path)
    with h5py.File(five.path, "r+") as handle:
        del handle[column]
    with pytest.raises(StoreError, match="is damaged"):
        FeatureFile(five.path)


def test_a_file_that_only_points_elsewhere_is_refused(five: FeatureFile) -> None:
    elsewhere = h5py.VirtualLayout(shape=five.shape, dtype=five.dtype)
    elsewhere[:] = h5py.VirtualSource("gone.h5", "vectors", shape=five.shape)
    with h5py.File(five.path, "r+") as handle:
        del handle["vectors"]
        handle.create_virtual_dataset("vectors", elsewhere, fillvalue=0)
    with pytest.raises(StoreError, match="only points to vectors in other files"):
        FeatureFile(five.path)


# Merges that are refused.


def test_merge_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    ones = np.ones((1, 2), np.float16)
    a = write(tmp_path / "a.h5", ["a"], ones)
    write_features(tmp_path / "b.h5", make_rows(["b"], ones), Provenance("micro", {"encoder": "other"}))
    write_features(tmp_path / "c.h5", make_rows(["c"], ones), Provenance("other", RECIPE.recipe))
    write(tmp_path / "d.h5", ["d"], np.ones((1, 3), np.float16))
    write(tmp_path / "e.h5", ["e"], np.ones((1, 2), np.float32))
    refusals = {"b": "b.h5 was made by another recipe", "c": "c.h5 was made by another recipe or from another dataset"}
    refusals |= {"d": r"d.h5 holds float16 of shape \(3,\)", "e": "e.h5 holds float32", "f": "a.h5 lacks item 'f'"}
    for item, said in refusals.items():
        part = FeatureFile(tmp_path / f"{item}.h5") if item != "f" else a
        with pytest.raises(StoreError, match=said):
            merge(tmp_path / "all.h5", {"a": a, item: part}, RECIPE)
    with pytest.raises(StoreError, match="no item is wanted"):
        merge(tmp_path / "all.h5", {}, RECIPE)
    assert not (tmp_path / "all.h5").exists()


def test_merge_does_not_launder_damage(tmp_path: Path, five: FeatureFile) -> None:
    with h5py.File(five.path, "r+") as handle:
        handle["vectors"][0] = 9
    with pytest.raises(StoreError, match=r"five\.h5 changed since it was written"):
        merge(tmp_path / "all.h5", dict.fromkeys("abcde", five), RECIPE)


# Disks that fill up.


@pytest.mark.parametrize("step", ["features.layout.fsync_file", "pathlib.Path.replace", "h5py.Group.create_dataset"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(five: FeatureFile, monkeypatch, step: str) -> None:
    before = five.path.read_bytes()

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(step, full)
    with pytest.raises(StoreError, match=r"cannot write .*five.h5 \(.*No space left.*\); free some disk space"):
        write(five.path, ["a"], np.ones((1, 2), np.float16))
    assert list(five.path.parent.iterdir()) == [five.path]
    assert five.path.read_bytes() == before


def test_a_write_that_really_hits_a_limit_leaves_nothing(tmp_path: Path) -> None:
    """HDF5 itself fails here, in the middle of the vectors: the process may write 64 KiB per file and no more."""
    program = """if True:
        import resource, sys
        from pathlib import Path
        import numpy as np
        from features.errors import StoreError
        from tests.support.stores import write
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        try:
            write(Path(sys.argv[1]), [str(n) for n in range(1000)], np.ones((1000, 100), np.float16))
        except StoreError as error:
            print(error)
    """
    path = tmp_path / "f.h5"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(f"cannot write {path} ("), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(five: FeatureFile) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*; something else is there; choose another path"):
        write(five.path / "below-a-file" / "f.h5", ["a"], np.ones((1, 2), np.float16))
