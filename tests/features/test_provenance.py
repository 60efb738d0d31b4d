"""Recipes, fingerprints and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.atomic import whole_folder, write_atomic
from features.errors import StoreError, nearest
from features.provenance import Provenance, canonical_json, file_sha256, fingerprint, library_versions

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
recipes = st.dictionaries(text, plain, max_size=4)


@given(recipe=recipes)
def test_provenance_round_trips_and_key_order_does_not_matter(recipe) -> None:
    told = Provenance("micro", recipe, "ab", {"torch": "2"}, "extract ü", "2026-01-01")
    read = Provenance.from_json(told.to_json())
    assert read == told
    assert read.fingerprint == fingerprint(dict(reversed(recipe.items())))


def test_the_fingerprint_is_the_documented_hash() -> None:
    recipe = {"frames": 16, "encoder": "vidéo"}
    written = '{"encoder":"vidéo","frames":16}'
    assert canonical_json(recipe) == written
    assert Provenance("d", recipe).fingerprint == hashlib.sha256(written.encode()).hexdigest()


def test_only_the_recipe_enters_the_fingerprint() -> None:
    one = Provenance("a", {"frames": 16}, "11", {"torch": "2.6"}, "extract", "2026-01-01")
    two = Provenance("b", {"frames": 16}, "22", {"torch": "2.9"}, "import", "2027-01-01")
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != Provenance("a", {"frames": 17}).fingerprint
    assert one.fingerprint != Provenance("a", {"frames": "16"}).fingerprint


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_recipes_hold_no_nan(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"scale": value})


@pytest.mark.parametrize(
    "broken", ["", "{", "[]", '"x"', "{}", '{"dataset": "d"}', '{"dataset":"d","recipe":{},"more":1}']
)
def test_unreadable_provenance_is_a_store_error(broken: str) -> None:
    with pytest.raises(StoreError, match="provenance is not readable"):
        Provenance.from_json(broken)


def test_versions_of_absent_libraries_are_said_to_be_absent() -> None:
    versions = library_versions(["numpy", "no-such-library"])
    assert versions["no-such-library"] == "absent"
    assert versions["numpy"][0].isdigit()
    assert versions["python"].startswith("3.")


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"freeze")
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"freeze").hexdigest()


def test_nearest_without_anything_close() -> None:
    assert nearest("zzz", ["b", "a"]) == "Known: a, b"
    assert nearest("zzz", []) == "Known: none"


# Whole or not at all.


def full(*_args: object) -> None:
    raise OSError(28, "No space left on device")


def test_text_is_replaced_whole(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "record.json"
    write_atomic(path, "old\n")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StoreError, match=r"cannot write .*record\.json .*No space left on device.*free some disk space"
    ):
        write_atomic(path, "new")
    assert path.read_bytes() == b"old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for content in ("old", "new"):
        with whole_folder(target) as folder:
            (folder / "below").mkdir()
            (folder / "below" / content).write_text(content)
            assert not (target / "below" / content).exists()
        assert [path.name for path in target.rglob("*")] == ["below", content]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_folder_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, monkeypatch, step: str) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    monkeypatch.setattr(step, full)
    with pytest.raises(StoreError, match=r"cannot write .*out"), whole_folder(target) as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_a_folder_that_cannot_take_its_place_gives_it_back(tmp_path: Path, monkeypatch) -> None:
    target, rename = tmp_path / "out", Path.replace
    target.mkdir()
    (target / "old").touch()

    def only_aside(path: Path, goal: Path) -> Path:
        return full() if path.suffix == ".tmp" else rename(path, goal)  # type: ignore[return-value]

    monkeypatch.setattr(Path, "replace", only_aside)
    with pytest.raises(StoreError, match="cannot write"), whole_folder(target) as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


@pytest.mark.parametrize("late", [False, True])
def test_a_folder_that_is_not_to_be_replaced_stays(tmp_path: Path, monkeypatch, late: bool) -> None:
    """It appears while ours is filled or, `late`, between the last look and the rename."""
    target, rename = tmp_path / "out", Path.replace

    def appear(*_: object) -> None:
        target.mkdir()
        (target / "old").touch()

    def after_it_appeared(path: Path, goal: Path) -> Path:
        appear()
        return rename(path, goal)

    if late:
        monkeypatch.setattr(Path, "replace", after_it_appeared)
    said = "cannot write .*out .*not empty" if late else "out was made by someone else meanwhile; choose another folder"
    fill = Path.touch if late else appear
    with pytest.raises(StoreError, match=said), whole_folder(target, replace=False) as folder:
        fill(folder / "new")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_an_error_while_filling_a_folder_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(KeyError), whole_folder(tmp_path / "out"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
