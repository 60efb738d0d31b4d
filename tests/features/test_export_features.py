"""Feature files in other formats: what is written reads back the same, here and with the formats' own libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open

from features import export, layout, published
from features.convert import import_features
from features.errors import ConfigError, StoreError
from features.export import FORMATS, export_features
from features.precision import DISK_TYPES
from features.published import Published, open_published, read_ids
from features.store import FeatureFile
from tests.support.stores import id_lists, write

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
OWN_IDS = ("parquet", "safetensors")  # formats whose one file carries the ids


def back(files: Sequence[Path], target: Path, dtype: str = "float32") -> FeatureFile:
    """Import an export again."""
    ids = files[1] if len(files) > 1 else None
    return import_features(files[0], target, dataset="micro", ids=ids, name="again", dtype=dtype)


@pytest.fixture
def four(tmp_path: Path) -> FeatureFile:
    return write(tmp_path / "f.h5", ["ü", "x", "\u2028", "0"], VECTORS, [0, 2, 0, 0])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), ids=id_lists, form=st.sampled_from(list(FORMATS)), dtype=st.sampled_from(list(DISK_TYPES)))
def test_out_and_in_again_is_the_same(tmp_path_factory, data, ids, form: str, dtype: str) -> None:
    folder = tmp_path_factory.mktemp("trip")
    ids = ids if form != "npy" else [item.replace("\n", "n").replace("\r", "r") + f".{n}" for n, item in enumerate(ids)]
    vectors = data.draw(arrays(np.float32, (len(ids), 3), elements=st.floats(-6e4, 6e4, width=32)))
    states = data.draw(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=len(ids), max_size=len(ids)))
    states[0] = 0
    file = write(folder / "f.h5", ids, vectors, states, dtype)
    done = [item for item, state in zip(ids, states, strict=True) if not state]
    again = back(export_features(file, folder / "out", form=form), folder / "again.h5")
    assert again.columns.ids == tuple(done)
    np.testing.assert_array_equal(again.read(done), file.read(done))
    assert {path.name for path in folder.iterdir()} == {"f.h5", "out", "again.h5"}


@pytest.mark.parametrize("form", list(FORMATS))
@pytest.mark.parametrize("shape", [(50, 3), (50, 2, 3)])
def test_exports_hold_the_done_rows_in_order_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, shape: tuple[int, ...]
) -> None:
    for module in (layout, published):
        monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    vectors = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    states = [0, 1, 2, 0, 0] * 10
    file = write(tmp_path / "f.h5", [f"i{n}" for n in range(50)], vectors, states)
    files = export_features(file, tmp_path / "out", form=form)
    array = open_published(files[0])
    ids = array.ids or read_ids(files[1])
    assert ids == [f"i{n}" for n in range(50) if not states[n]]
    rows = np.concatenate([block for _, block in array.blocks()])
    assert rows.dtype == (np.float32 if form in ("parquet", "mmrec") else np.float16)
    np.testing.assert_array_equal(rows, vectors[np.array(states) == 0])


def test_the_formats_own_libraries_read_them(tmp_path: Path, four: FeatureFile) -> None:
    expected, ids = VECTORS[[0, 2, 3]], ["ü", "\u2028", "0"]
    arrays, names = export_features(four, tmp_path / "npy")
    np.testing.assert_array_equal(np.load(arrays, allow_pickle=False), expected)
    assert names.read_text(encoding="utf-8").split("\n") == [*ids, ""]
    (table,) = export_features(four, tmp_path / "parquet", form="parquet")
    frame = pl.read_parquet(table)
    assert frame.schema == {"item": pl.String, "vector": pl.Array(pl.Float32, 3)}
    assert frame["item"].to_list() == ids
    np.testing.assert_array_equal(frame["vector"].to_numpy(), expected)
    (tensors,) = export_features(four, tmp_path / "safetensors", form="safetensors")
    with safe_open(tensors, framework="numpy") as handle:
        np.testing.assert_array_equal(handle.get_tensor("vectors"), expected)
        told = handle.metadata()
    assert pl.Series([told["ids"]]).str.json_decode(pl.List(pl.String)).to_list() == [ids]
    assert (told["dataset"], told["fingerprint"]) == ("micro", four.provenance.fingerprint)
    _, mapping = export_features(four, tmp_path / "mmrec", form="mmrec")
    assert pl.read_csv(mapping, separator="\t").rows() == [("ü", 0), ("\u2028", 1), ("0", 2)]


def test_int8_goes_out_as_float32(tmp_path: Path) -> None:
    file = write(tmp_path / "f.h5", list("abcd"), VECTORS, dtype="int8")
    for form in FORMATS:
        files = export_features(file, tmp_path / form, form=form)
        assert open_published(files[0]).dtype == np.float32
        again = back(files, tmp_path / f"{form}.h5", dtype="int8")
        np.testing.assert_array_equal(again.read(list("abcd")), file.read(list("abcd")))


def test_an_id_that_begins_with_a_byte_order_mark_keeps_it(tmp_path: Path) -> None:
    file = write(tmp_path / "f.h5", ["\ufeffa", "\ufeff", "b"], VECTORS[:3])
    for form in FORMATS:
        assert back(export_features(file, tmp_path / form, form=form), tmp_path / f"{form}.h5").columns.ids == (
            "\ufeffa",
            "\ufeff",
            "b",
        )


@pytest.mark.parametrize("form", OWN_IDS)
@pytest.mark.parametrize("dtype", list(DISK_TYPES))
def test_cached_activations_go_out_and_come_back(tmp_path: Path, form: str, dtype: str) -> None:
    ids = [f"i{n}" for n in range(9)]
    vectors = np.random.default_rng(0).standard_normal((9, 2, 3)).astype(np.float32)
    file = write(tmp_path / "f.h5", ids, vectors, [0, 1, *[0] * 7], dtype)
    again = back(export_features(file, tmp_path / "out", form=form), tmp_path / "again.h5", dtype)
    done = [item for item in ids if item != "i1"]
    assert (again.columns.ids, again.shape, again.dtype) == (tuple(done), (8, 2, 3), DISK_TYPES[dtype])
    np.testing.assert_array_equal(again.read(done), file.read(done))


# What is refused.


def test_exports_that_are_refused(tmp_path: Path, four: FeatureFile) -> None:
    broken = write(tmp_path / "g.h5", ["a\nb"], VECTORS[:1])
    with pytest.raises(StoreError, match=r"'a.*b' holds a line end .* export as parquet or safetensors"):
        export_features(broken, tmp_path / "out")
    with pytest.raises(StoreError, match="has no vector of any item"):
        export_features(write(tmp_path / "h.h5", ["a"], VECTORS[:1], [1]), tmp_path / "out")
    with pytest.raises(ConfigError, match="format 'parket' is unknown; did you mean 'parquet'"):
        export_features(four, tmp_path / "out", form="parket")
    (tmp_path / "out").mkdir()
    with pytest.raises(StoreError, match="out exists; choose another folder"):
        export_features(four, tmp_path / "out")


def test_ids_too_large_for_a_safetensors_header(tmp_path: Path, four: FeatureFile, monkeypatch) -> None:
    monkeypatch.setattr(export, "MAX_HEADER_BYTES", 100)
    with pytest.raises(StoreError, match=r"safetensors header, which holds 100; export as parquet"):
        export_features(four, tmp_path / "out", form="safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


@pytest.mark.parametrize("form", list(FORMATS))
def test_a_full_disk_leaves_nothing(tmp_path: Path, form: str) -> None:
    """The kernel refuses files above a limit, as a full disk does; polars has its own way to say so."""
    resource = pytest.importorskip("resource")
    file = write(tmp_path / "f.h5", ["a", "b"], np.random.default_rng(0).standard_normal((2, 2**17)).astype(np.float32))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot write .*out \(.*File too large.*\); free some disk space"):
            export_features(file, tmp_path / "out", form=form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_a_folder_that_appears_during_an_export_is_left_alone(tmp_path: Path, four: FeatureFile, monkeypatch) -> None:
    def slow(file: FeatureFile) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").touch()

    monkeypatch.setattr(FeatureFile, "verify", slow)
    with pytest.raises(StoreError, match="out was made by someone else meanwhile; choose another folder"):
        export_features(four, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5", "out"]


@pytest.mark.parametrize("form", list(FORMATS))
def test_a_damaged_file_is_not_exported(tmp_path: Path, four: FeatureFile, form: str) -> None:
    content = four.path.read_bytes()
    damaged = content.replace(np.float32(11).tobytes(), np.float32(12).tobytes())
    assert damaged != content
    four.path.write_bytes(damaged)
    with pytest.raises(StoreError, match="changed since it was written"):
        export_features(FeatureFile(four.path), tmp_path / "out", form=form)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", list(FORMATS))
def test_what_does_not_read_back_is_not_kept(tmp_path: Path, four: FeatureFile, monkeypatch, form: str) -> None:
    """A disk that gives back other numbers than it was given."""

    def damaged(path: Path) -> Published:
        real = open_published(path)
        return replace(real, slices=lambda start, stop: real.slices(start, stop) + 1)

    monkeypatch.setattr(export, "open_published", damaged)
    with pytest.raises(StoreError, match=r"does not read back as it was written \(its vectors differ\)"):
        export_features(four, tmp_path / "out", form=form)
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


@pytest.mark.parametrize("form", OWN_IDS)
def test_ids_that_do_not_read_back_are_not_kept(tmp_path: Path, four: FeatureFile, monkeypatch, form: str) -> None:
    monkeypatch.setattr(export, "open_published", lambda path: replace(open_published(path), ids=["ü", "\u2028", "1"]))
    with pytest.raises(StoreError, match=r"does not read back as it was written \(its ids differ\)"):
        export_features(four, tmp_path / "out", form=form)
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


# In.


def frame(**columns: Any) -> Any:
    return lambda path: pl.DataFrame(columns).write_parquet(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (frame(a=[1]), "has columns a; it needs columns 'item' .text. and 'vector'"),
        (frame(item=[1], vector=[[1.0]]), "it needs columns 'item'"),
        (frame(item=["a"], vector=["b"]), "it needs columns 'item'"),
        (frame(item=["a", "b"], vector=[[1.0, 2.0], [1.0]]), "is damaged or its rows differ in length"),
        (frame(item=["a", "b"], vector=[[1.0, 2.0], [1.0, None]]), "1 of 2 rows hold NaN or infinity"),
        (frame(item=["a", "a"], vector=[[1.0], [2.0]]), "'a' occurs twice"),
        (frame(item=["a", None], vector=[[1.0], [2.0]]), "item id None .NoneType. cannot be stored"),
        (frame(item=["a"], vector=[[1]]), "features are a 2-d array of floats"),
        (lambda path: path.write_bytes(b"PAR1"), "is no Parquet file"),
        (lambda path: None, "does not exist"),
    ],
)
def test_parquet_files_that_are_refused(tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path / "a.parquet")
    with pytest.raises(StoreError, match=said):
        back([tmp_path / "a.parquet"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parquet_with_plain_lists_is_read(tmp_path: Path) -> None:
    frame(item=["a", "b"], vector=[[1.0, 2.0], [3.0, 4.0]])(tmp_path / "[a]*.parquet")  # a name, not a pattern
    assert back([tmp_path / "[a]*.parquet"], tmp_path / "out").read(["b"]).tolist() == [[3, 4]]


def test_safetensors_of_others(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    save_file({"embeddings": VECTORS}, path)
    with pytest.raises(ConfigError, match="carries no item ids; give --ids row"):
        back([path], tmp_path / "out")
    file = import_features(path, tmp_path / "out", dataset="micro", ids="row+1", name="x")
    np.testing.assert_array_equal(file.read(["4", "1"]), VECTORS[[3, 0]])
    refusals = {
        "is no safetensors file with a tensor 'vectors'": ({"a": VECTORS, "b": VECTORS}, None),
        "holds I64, or ids that are no list": ({"vectors": VECTORS.astype(np.int64)}, None),
        "or ids that are no list": ({"vectors": VECTORS}, {"ids": '{"a": 1}'}),
        "is no safetensors file": ({"vectors": VECTORS}, {"ids": '["a"'}),
        "has 4 rows but there are 1 ids": ({"vectors": VECTORS}, {"ids": '["a"]'}),
        "cannot be stored; it must be a str": ({"vectors": VECTORS}, {"ids": '["a", 1, "b", []]'}),
    }
    for said, (tensors, told) in refusals.items():
        save_file(tensors, path, metadata=told)
        with pytest.raises(StoreError, match=said):
            back([path], tmp_path / "no")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(StoreError, match="is no safetensors file"):
        back([path], tmp_path / "no")


@pytest.mark.parametrize("form", OWN_IDS)
def test_ids_are_given_once(tmp_path: Path, four: FeatureFile, form: str) -> None:
    files = export_features(four, tmp_path / "out", form=form)
    with pytest.raises(ConfigError, match="carries its own item ids; leave --ids out"):
        import_features(files[0], tmp_path, dataset="micro", ids="row+1", name="x")
