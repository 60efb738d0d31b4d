"""Encoders trained on files of decoded frames and covers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import run_pipeline
from extract.encoders.inputs import PixelInput
from extract.encoders.preprocess import normalise
from extract.encoders.registry import ENCODERS
from features.errors import ConfigError, StoreError
from features.store import FeatureFile, FeatureRows, write_features
from pipelines.runs.experiment import run_recipe
from pipelines.runs.run import open_run
from pipelines.towers.media import StoredPixels
from tests.support.pixel_files import subset, write_media
from tests.support.small import item_ids, recipe, small_dataset, write_vectors
from tests.support.tower_runs import losses, trained, without_key_bias


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small_dataset(tmp_path_factory.mktemp("data") / "small")
    write_media(folder, item_ids())
    return folder


def command(data: Path, name: str, out: Path, *words: str) -> Path:
    """Run `extract` with the tiny encoder and return the file it made."""
    line = ["extract", "--data", str(data), "--encoders", name, "--weights", "random", "--device", "cpu"]
    before = set(out.glob("*.h5"))
    assert run_pipeline.main([*line, "--out", str(out), *words]) == 0
    (path,) = set(out.glob("*.h5")) - before
    return path


def changes(kind: str, name: str, file: Path | None, **more: Any) -> dict[str, Any]:
    items = {"kind": kind, "dim": 8, "encoder": name, "weights": "random", "encoder_lr": 1e-4, **more}
    features = [{"path": str(file)}] if file else []
    return {"items": items, "features": features, "train": {"epochs": 1, "batch_size": 16, "patience": 9}}


@pytest.mark.parametrize(
    ("name", "near"),
    # equal bit for bit where convolutions round alike at every batch size, as here
    [("videomae-tiny", 1e-5), ("resnet-tiny", 1e-5)],
)
def test_top_over_the_pixels_is_end_to_end(name: str, near: float, data: Path, tmp_path: Path) -> None:
    media = ENCODERS[name].modality
    pixels = command(data, name, tmp_path, "--pixels")
    cut = command(data, name, tmp_path, "--top-blocks", "1", f"--{media}s", str(pixels))
    run_recipe(recipe(data, changes("top", name, cut)), tmp_path / "top", device="cpu")
    run_recipe(recipe(data, changes("e2e", name, pixels)), tmp_path / "e2e", device="cpu")
    assert losses(tmp_path / "top") == pytest.approx(losses(tmp_path / "e2e"), rel=1e-5)
    kept, whole = trained(tmp_path / "top"), trained(tmp_path / "e2e")
    assert len(kept) == len(whole)
    for (key, one), two in zip(kept.items(), whole.values(), strict=True):
        first, second = without_key_bias(key, one), without_key_bias(key, two)
        size = max(float(one.abs().max()), 1e-3)
        torch.testing.assert_close(first, second, rtol=near, atol=near * size, msg=f"{key} of {name}")
    (facts,) = json.loads((tmp_path / "e2e" / "record.json").read_text())["encoders"]
    assert len(facts["media"]) == 64
    again = open_run(tmp_path / "e2e")
    assert again.model.item_vectors().shape == (len(again.data.split.items), 8)


@pytest.fixture(scope="module")
def stored(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("pixels")
    return {name: command(data, name, out, "--pixels") for name in ("videomae-tiny", "resnet-tiny")}


@pytest.mark.parametrize("name", ["videomae-tiny", "resnet-tiny"])
def test_items_are_read_by_dense_index(name: str, stored: dict[str, Path]) -> None:
    file, spec = FeatureFile(stored[name]), ENCODERS[name]
    ids = item_ids()[::-1]
    source = StoredPixels(file, ids, spec)
    some = torch.tensor([0, 3, 29])
    got = source.read(some)
    assert isinstance(spec.inputs, PixelInput)
    rows = torch.from_numpy(file.read([ids[item] for item in some])).to(torch.uint8)
    expected = normalise(rows if spec.frames else rows[:, 0], spec.inputs)
    assert torch.equal(got, expected)
    assert got.shape[1:] == ((4, 3, 64, 64) if spec.frames else (3, 64, 64))
    assert got.dtype == torch.float32


def test_items_without_pixels_are_refused_or_blank(stored: dict[str, Path], data: Path, tmp_path: Path) -> None:
    some = FeatureFile(subset(FeatureFile(stored["resnet-tiny"]), tmp_path / "some.h5", item_ids()[2:]))
    spec = ENCODERS["resnet-tiny"]
    with pytest.raises(StoreError, match=r"lacks 2 of 30 items, first '000' \(not in the file"):
        StoredPixels(some, item_ids(), spec)
    got = StoredPixels(some, item_ids(), spec, blank=True).read(torch.arange(4))
    assert [bool(one.any()) for one in got] == [False, False, True, True]
    found = []
    for absent in ("zero", "mean"):
        blank = changes("e2e", "resnet-tiny", None) | {"features": [{"path": str(some.path), "absent": absent}]}
        found.append(run_recipe(recipe(data, blank), tmp_path / absent, device="cpu")["test"])
    assert found[0] == found[1]


def refused(data: Path, wanted: dict[str, Any], message: str) -> None:
    run = data.parent / "refused"
    with pytest.raises((ConfigError, StoreError), match=message):
        run_recipe(recipe(data, wanted), run)
    assert not run.exists()


def test_files_that_do_not_fit_the_encoder_are_refused(stored: dict[str, Path], data: Path, tmp_path: Path) -> None:
    video, cover = stored["videomae-tiny"], stored["resnet-tiny"]
    none = r"reads covers, but none of the 1 feature files holds their pixels; make one with .*--encoders resnet-tiny`"
    refused(data, changes("e2e", "resnet-tiny", video), none)
    refused(data, changes("e2e", "resnet-tiny", None), r"none of the 0 feature files")
    refused(
        data,
        changes("e2e", "slowfast-tiny", video),
        r"uniform4-64px.* holds pixels that encoder 'slowfast-tiny' does not take \(.*uniform:4, not uniform:8",
    )
    small = {**FeatureFile(cover).provenance.recipe}
    small["pixels"] = {**small["pixels"], "size": 32, "mode": "stretch", "resize": None}
    other = subset(FeatureFile(cover), tmp_path / "small.h5", item_ids(), recipe=small)
    refused(
        data, changes("e2e", "resnet-tiny", other), r"\(size 32, not 64; mode stretch, not crop; resize None, not 64\)"
    )
    twin = subset(FeatureFile(cover), tmp_path / "twin.h5", item_ids())
    both = changes("e2e", "resnet-tiny", cover)
    both["features"].append({"path": str(twin)})
    refused(data, both, r"2 feature files hold the pixels that 'resnet-tiny' takes \(.*, twin\.h5\)")
    refused(data, changes("v", "resnet-tiny", cover), r"kind is 'v', but .* holds pixels of shape \(1, 64, 64, 3\)")
    foreign = subset(FeatureFile(cover), tmp_path / "foreign.h5", item_ids()[:9], dataset="other")
    refused(data, changes("e2e", "resnet-tiny", foreign), r"for dataset 'other'; it has rows for 9 of the 30 items")


def test_other_frames_than_the_encoders_own(stored: dict[str, Path], data: Path, tmp_path: Path) -> None:
    name, own = "videomae-tiny", stored["videomae-tiny"]
    two = command(data, name, tmp_path, "--pixels", "--frames", "uniform:2")
    wanted = changes("e2e", name, two, frames="uniform:2")
    wanted["features"].append({"path": str(own)})
    run_recipe(recipe(data, wanted), tmp_path / "run", device="cpu")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["encoders"][0]["frames"], record["costs"]["stored"][0]["file"]) == ("uniform:2", str(two))
    assert open_run(tmp_path / "run").recipe.items.frames == "uniform:2"
    again = (
        r"\(frames uniform:4, not uniform:2\); make a file for it with .*--encoders videomae-tiny --frames uniform:2`"
    )
    refused(data, changes("e2e", name, own, frames="uniform:2"), again)
    refused(data, changes("e2e", name, own, frames="evenly"), r"frame policy 'evenly'")
    refused(
        data, changes("e2e", "resnet-tiny", stored["resnet-tiny"], frames="uniform:2"), r"resnet-tiny reads no video"
    )
    cut = command(data, name, tmp_path / "cut", "--top-blocks", "1", "--videos", str(own))
    refused(
        data,
        changes("top", name, cut, frames="uniform:2"),
        r"made from frames uniform:4; .*again with --frames uniform:2",
    )
    assert run_recipe(recipe(data, changes("top", name, cut, frames="uniform:4")), tmp_path / "top", device="cpu")


def test_one_recipe_lists_files_of_all_kinds(stored: dict[str, Path], data: Path, tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path / "vectors.h5", "small", item_ids())
    files = [vectors, *stored.values()]
    plain = {"features": [{"path": str(file)} for file in files]}
    for kind, encoders in (("v", None), ("e2e", ["videomae-tiny", "resnet-tiny"])):
        wanted = changes(kind, "", None) | plain
        wanted["items"]["encoder"] = encoders
        assert run_recipe(recipe(data, wanted), tmp_path / kind, device="cpu")["test"]


def test_a_run_over_other_pixels_is_not_opened(stored: dict[str, Path], data: Path, tmp_path: Path) -> None:
    path = tmp_path / "cover.h5"
    shutil.copy(stored["resnet-tiny"], path)
    run_recipe(recipe(data, changes("e2e", "resnet-tiny", path)), tmp_path / "run", device="cpu")
    file = FeatureFile(path)
    pixels = np.array(file.mapped())
    pixels[3] += 1
    texts = (file.columns.reasons, file.columns.stamps, file.columns.digests)
    write_features(path, FeatureRows(file.columns.ids, pixels, file.columns.states, *texts), file.provenance)
    with pytest.raises(ConfigError, match=r"encoder 'resnet-tiny': its media changed since .*run was trained"):
        open_run(tmp_path / "run")


def test_the_command_line_says_what_is_wrong(
    stored: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["extract", "--data", str(data), "--encoders", "resnet-tiny", "--weights", "random", "--device", "cpu"]
    line += ["--out", str(tmp_path / "out")]
    for words, said in (
        (["--pixels", "--dtype", "float16"], "--pixels stores uint8; leave out --dtype float16"),
        (["--covers", str(stored["videomae-tiny"])], "holds pixels of videos, not pixels of covers"),
    ):
        capsys.readouterr()
        assert run_pipeline.main([*line, *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert said in lines[0]
    assert not (tmp_path / "out").exists()
