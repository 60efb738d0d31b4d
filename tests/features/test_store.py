"""Feature files: what goes in comes out, by id, and absent items get what was asked for."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from features import layout, table
from features.errors import StoreError
from features.merge import merge
from features.provenance import Provenance
from features.store import MAX_ID_BYTES, FeatureFile, FeatureRows, write_features
from tests.support.stores import RECIPE, id_lists, make_rows, write

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
    monkeypatch.setattr(table, "WIDE_BYTES", 2**16)
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


def test_a_file_replaced_while_it_is_open_is_not_read_by_the_old_rows(tmp_path: Path) -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    opened = write(tmp_path / "f.h5", ["b", "c", "d"], vectors[1:])
    np.testing.assert_array_equal(opened.read(["b"]), vectors[1:2])
    write(tmp_path / "f.h5", ["a", "b", "c", "d"], vectors)
    for reading in (lambda: opened.read(["b"]), opened.mapped, lambda: list(opened.blocks())):
        with pytest.raises(StoreError, match=r"f\.h5 was replaced while it was in use; start again"):
            reading()
    np.testing.assert_array_equal(FeatureFile(opened.path).read(["b"]), vectors[1:2])
