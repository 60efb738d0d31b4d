"""What is said of paths that cannot be used: what stands there, and what to do where the system refuses a write."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extract.media.catalog import build_catalog
from features.atomic import whole_folder, write_atomic
from features.errors import FreezeframeError, StoreError
from features.paths import write_advice
from features.published import open_published
from features.store import FeatureFile
from pipelines.data.detection import read_dataset
from pipelines.ranking.full_ranking import Evaluation
from pipelines.recipe.recipe import load_recipe
from pipelines.runs.results import save_ranks
from tests.support.stores import write

FILES: dict[str, Callable[[Path], object]] = {
    "feature file": FeatureFile,
    "published": open_published,
    "recipe": load_recipe,
}
FOLDERS: dict[str, Callable[[Path], object]] = {
    "dataset": read_dataset,
    "videos": lambda path: build_catalog("d", None, videos=path),
    "covers": lambda path: build_catalog("d", None, covers=path),
}


@pytest.mark.parametrize("what", [*FILES, *FOLDERS])
def test_what_is_there_is_not_said_to_be_absent(tmp_path: Path, what: str) -> None:
    path = tmp_path / "there"
    if what in FILES:
        path.mkdir()
    else:
        path.write_text("item,title\n")
    said = "is a folder; name a file" if what in FILES else "is a file; name a folder"
    use = (FILES | FOLDERS)[what]
    with pytest.raises(FreezeframeError, match=rf"there {said}$"):
        use(path)
    with pytest.raises(FreezeframeError, match=r"nowhere does not exist; "):
        use(tmp_path / "nowhere")


ADVICE = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space",
    errno.EFBIG: "free some disk space",
    errno.EACCES: "check the permissions there",
    errno.EPERM: "check the permissions there",
    errno.EROFS: "check the permissions there",
    errno.EEXIST: "something else is there; choose another path",
    errno.ENOTDIR: "something else is there; choose another path",
    errno.EISDIR: "something else is there; choose another path",
}


@pytest.mark.parametrize("number", ADVICE)
def test_advice_follows_the_cause(number: int) -> None:
    assert write_advice(OSError(number, os.strerror(number))).startswith(ADVICE[number])
    assert write_advice(RuntimeError("of HDF5")).startswith("free some disk space")


def in_a_folder(path: Path) -> None:
    with whole_folder(path):
        pass


def ranks(path: Path) -> None:
    save_ranks(path, Evaluation({}, None, None, 1, 1, 0, 1, "hide", np.ones(1)))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: write_atomic(path, "text"),
        in_a_folder,
        lambda path: write(path, ["a"], np.ones((1, 2), np.float16)),
        ranks,
    ],
)
def test_a_place_below_a_file_is_not_called_a_full_disk(tmp_path: Path, make: Callable[[Path], object]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*; something else is there; choose another path$"):
        make(tmp_path / "file" / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
