"""Rows whose titles or media have changed since they were made do not train in silence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import run_pipeline
from features.errors import ConfigError
from features.store import FeatureFile
from pipelines.recipe.recipe import build_recipe
from pipelines.runs import stale_features as changed
from pipelines.runs.experiment import run_recipe
from tests.support.media import write_cover
from tests.support.small import item_ids, plain_recipe, small_dataset, write

Capture = pytest.CaptureFixture[str]
KINDS = ("v", "top", "e2e")
TITLES = "item,title\n" + "".join(f"{item},a title of {item}\n" for item in item_ids())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with titles and covers, and files of vectors, activations and pixels made from them."""
    here = tmp_path_factory.mktemp("made")
    folder = small_dataset(here / "data")
    write(folder / "items.csv", TITLES)
    (folder / "covers").mkdir()
    for number, item in enumerate(item_ids()):
        write_cover(folder / "covers" / f"{item}.png", kind=number)
    command = ["extract", "--data", folder, "--weights", "random", "--out"]
    for out, more in (("v", []), ("top", ["--top-blocks", "1"]), ("e2e", ["--pixels"])):
        for name in ("resnet-tiny", "bert-tiny"):
            if not (out == "e2e" and name == "bert-tiny"):
                words = [*command, here / out / name, "--encoders", name, *more]
                assert run_pipeline.main([str(word) for word in words]) == 0
    return here


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "here")  # with the dates of all files
    return tmp_path / "here"


def train(here: Path, kind: str, name: str, out: str = "run", **entry: Any) -> Any:
    items = {"kind": kind, "dim": 8, "encoder": name, "weights": "random"}
    files = [{"path": str(here / kind / name / "*.h5"), **entry}] if kind != "e2e" or name == "resnet-tiny" else []
    plain = plain_recipe(here / "data", {"items": items, "features": files, "train": {"epochs": 1, "batch_size": 64}})
    return run_recipe(build_recipe(plain), here / out, device="cpu")


@pytest.mark.parametrize("kind", ["v", "top"])
def test_changed_and_removed_titles_are_counted(here: Path, kind: str, capsys: Capture) -> None:
    assert train(here, kind, "bert-tiny", "before")
    assert "title" not in capsys.readouterr().err
    lines = TITLES.splitlines()
    lines[4] = "003,another title"
    write(here / "data" / "items.csv", "\n".join(lines[:-2]) + "\n")
    said = r"was made from other titles than 'data' holds: 1 titles changed \(first '003'\), "
    said += r"2 titles are gone \(first '028', '029'\); run the same `extract` .* or set features\.0\.changed=keep"
    with pytest.raises(ConfigError, match=said):
        train(here, kind, "bert-tiny")
    assert train(here, kind, "bert-tiny", changed="keep")
    assert "1 titles changed (first '003'), 2 titles are gone" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", KINDS)
def test_swapped_and_deleted_covers_are_counted(here: Path, kind: str, capsys: Capture) -> None:
    assert train(here, kind, "resnet-tiny", "before")
    covers = here / "data" / "covers"
    write_cover(covers / "001.png", kind=77)
    (covers / "005.png").unlink()
    said = r"1 covers changed \(first '001'\), 1 covers are gone \(first '005'\)"
    with pytest.raises(ConfigError, match=said):
        train(here, kind, "resnet-tiny")
    assert train(here, kind, "resnet-tiny", changed="keep")


def test_extracting_again_mends_it(here: Path) -> None:
    covers = here / "data" / "covers"
    write_cover(covers / "001.png", kind=77)
    with pytest.raises(ConfigError, match="1 covers changed"):
        train(here, "v", "resnet-tiny")
    command = ["extract", "--data", here / "data", "--encoders", "resnet-tiny", "--weights", "random"]
    assert run_pipeline.main([str(word) for word in [*command, "--out", here / "v" / "resnet-tiny"]]) == 0
    assert train(here, "v", "resnet-tiny")


def test_a_copy_with_other_dates_is_no_change(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for path in (here / "data" / "covers").iterdir():
        os.utime(path, ns=(1, 1))
    assert train(here, "v", "resnet-tiny")
    assert "covers" not in capsys.readouterr().err
    monkeypatch.setattr(changed, "READ_BYTES", 10)
    assert train(here, "v", "resnet-tiny", "again")
    assert "30 covers have another date or place; their bytes were not compared" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_cover_of_the_same_size_is_told_by_its_bytes(here: Path) -> None:
    path = here / "data" / "covers" / "001.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"1 covers changed \(first '001'\)"):
        train(here, "v", "resnet-tiny")


def test_a_laptop_without_media_says_that_nobody_looked(here: Path, capsys: Capture) -> None:
    shutil.rmtree(here / "data" / "covers")
    assert train(here, "v", "resnet-tiny")
    assert "the covers are not here, so it was not checked whether they have changed" in " ".join(
        capsys.readouterr().err.split()
    )


def test_sources_that_came_since_are_told_and_no_matter(here: Path, capsys: Capture) -> None:
    file = FeatureFile(next((here / "v" / "bert-tiny").glob("*.h5")))
    assert file.counts()["done"] == 30
    write(here / "data" / "items.csv", TITLES.replace("003,a title of 003", "003,"))
    command = [
        "extract",
        "--data",
        here / "data",
        "--encoders",
        "bert-tiny",
        "--weights",
        "random",
        "--max-failed",
        "1",
    ]
    assert run_pipeline.main([str(word) for word in [*command, "--out", here / "v" / "bert-tiny"]]) == 0
    write(here / "data" / "items.csv", TITLES)
    assert train(here, "v", "bert-tiny", absent="mean")
    assert "1 titles are new (first '003'); `extract` adds their rows" in " ".join(capsys.readouterr().err.split())
