"""Small stores on disk: what a reader gets, the error that is written with it, and files of layout version 1."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from features.errors import ConfigError, StoreError
from features.merge import merge
from features.precision import DISK_TYPES, cosine_error, to_disk, to_float32
from features.shards.job import FeatureJob, Wanted
from features.store import FeatureFile, FeatureRows, write_features
from tests.support.stores import JOB, RECIPE, id_lists, make_rows, write

IDS = [f"i{n}" for n in range(40)]


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.fixture
def eight(tmp_path: Path) -> FeatureFile:
    """int8; the third row is missing, the fourth failed."""
    return write(tmp_path / "eight.h5", IDS, normal(40, 6), [0, 0, 1, 2, *[0] * 36], "int8")


@settings(max_examples=30, deadline=None)
@given(data=st.data(), ids=id_lists, dtype=st.sampled_from(list(DISK_TYPES)), tokens=st.integers(0, 2))
def test_readers_get_what_precision_promises(tmp_path_factory, data, ids, dtype, tokens) -> None:
    shape = (len(ids), 3) if tokens == 0 else (len(ids), tokens, 3)
    vectors = data.draw(arrays(np.float32, shape, elements=st.floats(-6e4, 6e4, width=32)))
    states = data.draw(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=len(ids), max_size=len(ids)))
    file = write(tmp_path_factory.mktemp("small") / "f.h5", ids, vectors, states, dtype)
    stored, done = to_disk(vectors, dtype), np.array(states) == 0
    asked = data.draw(st.permutations([item for item, state in zip(ids, states, strict=True) if not state]))
    expected = to_float32(stored.values, stored.scales)
    np.testing.assert_array_equal(file.read(asked), expected[[ids.index(item) for item in asked]])
    assert (file.dtype, file.shape) == (DISK_TYPES[dtype], shape)
    (_, block), *_ = file.blocks()
    np.testing.assert_array_equal(block[done], expected[done].astype(block.dtype))
    assert np.isnan(block[~done]).all()
    np.testing.assert_array_equal(file.columns.errors, np.where(done, cosine_error(vectors, stored), np.nan))
    file.verify()


@pytest.mark.parametrize("dtype", list(DISK_TYPES))
def test_merged_parts_hold_the_bytes_scales_and_errors_of_one_write(tmp_path: Path, dtype: str) -> None:
    vectors = normal(40, 6)
    whole = write(tmp_path / "whole.h5", IDS, vectors, dtype=dtype)
    parts = [write(tmp_path / f"{n}.h5", IDS[n::3][::-1], vectors[n::3][::-1], dtype=dtype) for n in range(3)]
    merge(tmp_path / "merged.h5", {item: parts[n % 3] for n, item in enumerate(IDS)}, RECIPE)
    merged = FeatureFile(tmp_path / "merged.h5")
    merged.verify()
    assert merged.vectors_sha256 == whole.vectors_sha256
    assert merged.cosine_error == whole.cosine_error
    np.testing.assert_array_equal(merged.columns.errors, whole.columns.errors)
    if dtype == "int8":
        np.testing.assert_array_equal(merged.columns.scales, whole.columns.scales)


def test_shards_of_float32_are_rounded_by_the_store_and_know_what_it_cost(tmp_path: Path) -> None:
    vectors = normal(40, 6)
    wanted = Wanted(IDS, [f"stamp {n}" for n in range(40)])
    job = FeatureJob(tmp_path / "f.h5", JOB, wanted)
    assert job.cosine_error is None
    rows = make_rows(IDS, vectors, [0, 0, 1, *[0] * 37])
    for start in range(0, 40, 7):
        part = slice(start, start + 7)
        columns = [column[part] for column in (rows.reasons, rows.stamps, rows.digests)]
        job.write(FeatureRows(rows.ids[part], rows.vectors[part], rows.states[part], *columns), dtype="int8")
    resumed = FeatureJob(tmp_path / "f.h5", JOB, wanted)
    file = resumed.finish()
    expected = np.delete(cosine_error(vectors, to_disk(vectors, "int8")), 2).astype(np.float64)
    assert file.cosine_error == job.cosine_error == resumed.cosine_error
    assert file.cosine_error is not None
    assert file.cosine_error.rows == 39
    assert file.cosine_error.mean == pytest.approx(expected.mean())
    assert file.cosine_error.max == expected.max()
    assert FeatureJob(tmp_path / "f.h5", JOB, wanted).cosine_error == file.cosine_error  # nothing to do: still known
    np.testing.assert_array_equal(file.read(["i9"]), to_float32(*_int8(vectors[9:10])))


def _int8(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32] | None]:
    stored = to_disk(vectors, "int8")
    return stored.values, stored.scales


def test_vectors_rounded_by_the_caller_are_stored_as_they_are(tmp_path: Path) -> None:
    """What the caller's rounding cost is not known: it is not said to be nothing."""
    half = normal(40, 6).astype(np.float16)
    file = write(tmp_path / "f.h5", IDS, half)
    assert file.cosine_error is None
    assert write(tmp_path / "g.h5", IDS, half, dtype="float16").vectors_sha256 == file.vectors_sha256
    assert write(tmp_path / "h.h5", IDS, half.astype(np.float32)).cosine_error == (40, 0, 0)
    with pytest.raises(StoreError, match="vectors are float16; give float32 to store them as int8"):
        write(tmp_path / "i.h5", IDS, half, dtype="int8")
    with pytest.raises(ConfigError, match="choose float16, float32 or int8"):
        write(tmp_path / "i.h5", IDS, normal(40, 6), dtype="bfloat16")


def test_numbers_too_large_are_refused_unless_the_row_has_failed(tmp_path: Path) -> None:
    vectors = normal(40, 6)
    vectors[3] = 1e5
    with pytest.raises(StoreError, match="item 'i3' holds numbers too large for float16; store float32, or mark"):
        write(tmp_path / "f.h5", IDS, vectors, dtype="float16")
    assert list(tmp_path.iterdir()) == []
    file = write(tmp_path / "f.h5", IDS, vectors, [0, 0, 0, 2, *[0] * 36], "float16")
    assert file.cosine_error is not None
    assert file.cosine_error.rows == 39


def test_the_hash_of_the_vectors_covers_their_scales(tmp_path: Path) -> None:
    one, two = (write(tmp_path / f"{n}.h5", IDS, normal(40, 6) * n, dtype="int8") for n in (1, 2))
    with h5py.File(one.path) as first, h5py.File(two.path) as second:
        np.testing.assert_array_equal(first["vectors"][:], second["vectors"][:])
    assert one.vectors_sha256 != two.vectors_sha256


@pytest.mark.parametrize("dtype", list(DISK_TYPES))
def test_a_file_without_rows_is_a_file(tmp_path: Path, dtype: str) -> None:
    file = write(tmp_path / "f.h5", [], np.empty((0, 3), np.float32), dtype=dtype)
    file.verify()
    assert (file.shape, file.cosine_error, file.read([]).shape) == ((0, 3), None, (0, 3))


def test_policies_hold_for_int8(eight: FeatureFile) -> None:
    read = eight.read(["i2", "i0", "i1"], absent="mean")
    np.testing.assert_allclose(read[0], read[1:].mean(axis=0), rtol=1e-6)
    assert not eight.read(["i3"], absent="zero").any()


@pytest.mark.parametrize("name", ["scales", "errors"])
def test_edited_and_removed_scales_and_errors_are_refused(eight: FeatureFile, name: str) -> None:
    with h5py.File(eight.path, "r+") as handle:
        handle[name][5] = 0.5
    with pytest.raises(StoreError, match="its table has another sha256"):
        FeatureFile(eight.path)
    with h5py.File(eight.path, "r+") as handle:
        del handle[name]
    with pytest.raises(StoreError, match="is damaged"):
        FeatureFile(eight.path)


def test_a_done_row_without_a_scale_is_refused(tmp_path: Path, eight: FeatureFile) -> None:
    """A file that is whole and says NaN of a done row: no reader gets it as a vector."""
    columns = eight.columns
    assert columns.scales is not None
    columns.scales[0] = np.nan
    with pytest.raises(StoreError, match="1 of 38 rows hold NaN or infinity, first item 'i0'"):
        eight.read([item for item in IDS if item not in ("i2", "i3")])


def as_version_1(path: Path) -> None:
    """Rewrite a float file as the first layout had it: no errors, and a table hash without them."""
    with h5py.File(path, "r+") as handle:
        del handle["errors"]
        handle.attrs["format_version"] = 1
        digest = hashlib.sha256(handle.attrs["provenance"].encode() + b"\0")
        for name in ("ids", "reasons", "stamps", "digests"):
            digest.update(b"\0".join(handle[name][:].tolist()) + b"\0")
        digest.update(handle["states"][:].tobytes())
        handle.attrs["table_sha256"] = digest.hexdigest()


def test_files_of_layout_version_1_are_read_and_merged(tmp_path: Path) -> None:
    vectors = normal(40, 6)
    old = write(tmp_path / "old.h5", IDS[:20], vectors[:20])
    as_version_1(old.path)
    old, new = FeatureFile(old.path), write(tmp_path / "new.h5", IDS[20:], vectors[20:])
    old.verify()
    assert old.cosine_error is None
    np.testing.assert_array_equal(old.read(IDS[:20]), vectors[:20])
    merge(tmp_path / "both.h5", {item: old if n < 20 else new for n, item in enumerate(IDS)}, RECIPE)
    both = FeatureFile(tmp_path / "both.h5")
    np.testing.assert_array_equal(both.read(IDS), vectors)
    assert both.cosine_error == (20, 0, 0)
    write_features(tmp_path / "eight.h5", make_rows(IDS, vectors), RECIPE, dtype="int8")
    with h5py.File(tmp_path / "eight.h5", "r+") as handle:
        handle.attrs["format_version"] = 1
    with pytest.raises(StoreError, match=r"vectors are int8 .* give float16 or float32"):
        FeatureFile(tmp_path / "eight.h5")
