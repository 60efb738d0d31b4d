"""Feature files: what goes in comes out, by id; everything else is refused with a line that helps."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from features import layout
from features.errors import StoreError
from features.merge import merge
from features.provenance import Provenance
from features.store import MAX_ID_BYTES, FeatureFile, FeatureRows, State, check_ids, write_features

RECIPE = Provenance("micro", {"encoder": "tiny", "frames": 4}, weights_sha256="ab" * 32, command="extract")

item_ids = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
id_lists = st.lists(item_ids, min_size=1, max_size=12, unique=True)


def make_rows(ids: Sequence[str], vectors: NDArray[Any], states: Sequence[int] = ()) -> FeatureRows:
    column = np.array(states or [State.DONE] * len(ids), dtype=np.uint8)
    reasons = ["" if state == State.DONE else f"because of {n}" for n, state in enumerate(column)]
    stamps = [f"stamp {n}" for n in range(len(ids))]
    return FeatureRows(ids, vectors, column, reasons, stamps, [f"{n:032x}" for n in range(len(ids))])


def write(path: Path, ids: Sequence[str], vectors: NDArray[Any], states: Sequence[int] = ()) -> FeatureFile:
    write_features(path, make_rows(ids, vectors, states), RECIPE)
    return FeatureFile(path)


@pytest.fixture
def five(tmp_path: Path) -> FeatureFile:
    """Items a to e; c is missing, d failed."""
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    return write(tmp_path / "five.h5", list("abcde"), vectors, [0, 0, 1, 2, 0])


# What goes in comes out.


@settings(max_examples=30, deadline=None)
@given(data=st.data(), ids=id_lists, dtype=st.sampled_from([np.float16, np.float32]), tokens=st.integers(0, 2))
def test_any_ids_and_vectors_round_trip(tmp_path_factory, data, ids, dtype, tokens) -> None:
    shape = (len(ids), 3) if tokens == 0 else (len(ids), tokens, 3)
    finite = st.floats(width=np.dtype(dtype).itemsize * 8, allow_nan=False, allow_infinity=False)
    vectors = data.draw(arrays(dtype, shape, elements=finite))
    path = tmp_path_factory.mktemp("round") / "f.h5"
    rows = make_rows(ids, vectors)
    write_features(path, rows, RECIPE)
    file = FeatureFile(path, dataset="micro")
    asked = data.draw(st.permutations(ids))
    asked = asked[: data.draw(st.integers(0, len(ids)))]
    np.testing.assert_array_equal(file.read(asked), vectors[[ids.index(item) for item in asked]].astype(np.float32))
    for name in ("ids", "reasons", "stamps", "digests"):
        assert getattr(file.columns, name) == tuple(getattr(rows, name))
    assert (file.shape, file.dtype, file.provenance) == (shape, np.dtype(dtype), RECIPE)
    file.verify()


@settings(max_examples=30, deadline=None)
@given(data=st.data(), ids=id_lists)
def test_merge_of_any_partition_in_any_order_equals_one_write(tmp_path_factory, data, ids) -> None:
    folder = tmp_path_factory.mktemp("merge")
    vectors = np.random.default_rng(0).standard_normal((len(ids), 2)).astype(np.float16)
    states = data.draw(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=len(ids), max_size=len(ids)))
    whole = write(folder / "whole.h5", ids, vectors, states)
    rows = make_rows(ids, vectors, states)
    part_of = data.draw(st.lists(st.integers(0, 3), min_size=len(ids), max_size=len(ids)))
    placed = {}
    for part in set(part_of):
        own = data.draw(st.permutations([n for n, owner in enumerate(part_of) if owner == part]))
        columns = [[column[n] for n in own] for column in (rows.ids, rows.reasons, rows.stamps, rows.digests)]
        shard = FeatureRows(columns[0], vectors[own], rows.states[own], *columns[1:])
        write_features(folder / f"{part}.h5", shard, RECIPE)
        placed |= dict.fromkeys(columns[0], FeatureFile(folder / f"{part}.h5"))
    merge(folder / "merged.h5", {item: placed[item] for item in ids}, RECIPE)
    merged = FeatureFile(folder / "merged.h5")
    assert merged.vectors_sha256 == whole.vectors_sha256
    for name in ("ids", "reasons", "stamps", "digests"):
        assert getattr(merged.columns, name) == getattr(whole.columns, name)
    np.testing.assert_array_equal(merged.columns.states, whole.columns.states)
    merged.verify()


@pytest.mark.parametrize("order", ["as stored", "shuffled", "every third", "few"])
def test_reads_cut_into_spans_return_the_right_rows(tmp_path: Path, monkeypatch, order: str) -> None:
    monkeypatch.setattr(layout, "BLOCK_BYTES", 40)  # 5 rows of 8 bytes
    monkeypatch.setattr(layout, "GAP_BYTES", 8)  # one unwanted row is read through
    vectors = np.arange(400, dtype=np.float32).reshape(200, 2)
    file = write(tmp_path / "f.h5", [str(n) for n in range(200)], vectors)
    rng = np.random.default_rng(1)
    asked = {
        "as stored": np.arange(200),
        "shuffled": rng.permutation(200),
        "every third": np.arange(0, 200, 3)[::-1],
        "few": rng.choice(200, 20, replace=False),
    }[order]
    np.testing.assert_array_equal(file.read([str(n) for n in asked]), vectors[asked])


def test_merge_in_windows_smaller_than_the_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("features.merge.MERGE_BYTES", 24)  # 3 rows of 8 bytes
    vectors = np.arange(20, dtype=np.float32).reshape(10, 2)
    ids = list("abcdefghij")
    parts = [write(tmp_path / f"{n}.h5", ids[n::2], vectors[n::2]) for n in (0, 1)]
    order = list("jaibhcgdfe")
    merge(tmp_path / "all.h5", {item: parts[ids.index(item) % 2] for item in order}, RECIPE)
    merged = FeatureFile(tmp_path / "all.h5")
    np.testing.assert_array_equal(merged.read(order), vectors[[ids.index(item) for item in order]])
    merged.verify()


def test_rows_that_are_not_done_are_nan_for_every_reader(five: FeatureFile) -> None:
    with h5py.File(five.path) as handle:
        stored = handle["vectors"][:]
    assert np.isnan(stored[2:4]).all()
    assert np.isfinite(stored[[0, 1, 4]]).all()
    assert five.counts() == {"done": 3, "missing": 1, "failed": 1}
    assert five.done(["e", "c", "nobody"]).tolist() == [True, False, False]


def test_a_file_whose_rows_are_all_missing_is_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "f.h5", ["a", "b"], np.full((2, 3), np.nan, np.float16), [1, 1])
    file.verify()
    assert file.counts() == {"done": 0, "missing": 2, "failed": 0}


def test_one_long_id_does_not_blow_up_the_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(layout, "WIDE_BYTES", 2**16)
    ids = [*(str(n) for n in range(1000)), "ü" * (MAX_ID_BYTES // 2)]
    file = write(tmp_path / "f.h5", ids, np.ones((1001, 1), np.float16))
    assert file.columns.ids == tuple(ids)
    assert file.path.stat().st_size < 1001 * 200


def test_reasons_of_any_kind_are_kept_as_far_as_they_fit(tmp_path: Path) -> None:
    rows = FeatureRows(
        ["a"], np.full((1, 1), np.nan, np.float16), np.array([2], np.uint8), ["é\0\udcff" * 999], [""], [""]
    )
    write_features(tmp_path / "f.h5", rows, RECIPE)
    assert FeatureFile(tmp_path / "f.h5").columns.reasons[0].startswith("é ?é ?")


def test_a_very_long_command_and_odd_file_names_in_it_are_kept(tmp_path: Path) -> None:
    told = Provenance("micro", RECIPE.recipe, command="x" * 200_000 + "\udcff")
    write_features(tmp_path / "f.h5", make_rows(["a"], np.ones((1, 1), np.float16)), told)
    assert FeatureFile(tmp_path / "f.h5").provenance.command == "x" * 200_000 + "?"


# Policies for absent items.


def test_policies_say_what_absent_items_get(five: FeatureFile) -> None:
    asked = ["e", "c", "nobody", "a"]
    expected = {"zero": [0.0, 0.0, 0.0], "mean": [6.0, 7.0, 8.0]}
    for policy, filler in expected.items():
        got = five.read(asked, absent=policy)  # type: ignore[arg-type]
        np.testing.assert_array_equal(got, [[12.0, 13.0, 14.0], filler, filler, [0.0, 1.0, 2.0]])


@pytest.mark.parametrize(
    ("asked", "policy", "said"),
    [
        (["a", "c"], "error", r"lacks 1 of 2 items, first 'c' \(missing: because of 2\)"),
        (["d"], "error", r"'d' \(failed: because of 3\)"),
        (["A", "a"], "error", "first 'A' .not in the file, whose ids look like 'a'"),
        (["c", "x"], "mean", "lacks 2 of 2"),
        (["a", "a"], "zero", "'a' occurs twice"),
        (["a"], "median", "choose error, zero or mean"),
    ],
)
def test_reads_that_are_refused(five: FeatureFile, asked, policy, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        five.read(asked, absent=policy)


def test_mean_of_many_rows_does_not_drift(tmp_path: Path) -> None:
    count = 50_000  # a float32 sum of these is off by more than a thousandth
    file = write(tmp_path / "f.h5", [str(n) for n in range(count)], np.full((count, 4), 1000.1, np.float32))
    mean = file.read([*file.columns.ids, "nobody"], absent="mean")[-1]
    np.testing.assert_allclose(mean, 1000.1, rtol=1e-6)
    assert abs(file.read(file.columns.ids).mean(axis=0)[0] - 1000.1) > 0.01


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
    with pytest.raises(StoreError, match="belongs to dataset 'micro', not 'other'"):
        FeatureFile(five.path, dataset="other")
    (tmp_path / "text.h5").write_text("no HDF5 at all")
    with pytest.raises(StoreError, match="no freezeframe feature file"):
        FeatureFile(tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as handle:
        handle["vectors"] = np.ones((2, 2))
    with pytest.raises(StoreError, match="import it with `features import`"):
        FeatureFile(tmp_path / "foreign.h5")


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, share: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    file = write(folder / "f.h5", [str(n) for n in range(50)], np.ones((50, 8), np.float16))
    content = file.path.read_bytes()
    file.path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StoreError, match="damaged, truncated or no freezeframe feature file"):
        FeatureFile(file.path).verify()


@settings(max_examples=100, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(tmp_path_factory, place: float, bit: int) -> None:
    folder = tmp_path_factory.mktemp("flip")
    ids = [f"item {n}" for n in range(60)]
    vectors = np.random.default_rng(2).standard_normal((60, 8)).astype(np.float32)
    states = [0] * 58 + [1, 2]
    file = write(folder / "f.h5", ids, vectors, states)
    content = bytearray(file.path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.path.write_bytes(content)
    try:
        changed = FeatureFile(file.path)
        changed.verify()
    except StoreError:
        return
    # The rest of a file is padding and the addresses HDF5 does not need: what is read must be what was written.
    np.testing.assert_array_equal(changed.read(ids[:58]), vectors[:58])
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
        ("format_version", 3, "layout version 3, this program reads 1 to 2"),
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
        from tests.test_store import write
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        try:
            write(Path(sys.argv[1]), [str(n) for n in range(1000)], np.ones((1000, 100), np.float16))
        except StoreError as error:
            print(error)
    """
    path = tmp_path / "f.h5"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(f"cannot write {path} ("), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(five: FeatureFile) -> None:
    with pytest.raises(StoreError, match=r"cannot write .* choose another folder"):
        write(five.path / "below-a-file" / "f.h5", ["a"], np.ones((1, 2), np.float16))
