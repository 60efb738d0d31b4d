"""Extraction as users run it: real clips at full size, and the command line killed at random moments."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import run_pipeline
from extract.encoders.inputs import PixelInput
from extract.encoders.preprocess import preprocess
from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract, prepare_all
from extract.jobs.options import ExtractOptions
from extract.media.catalog import build_catalog
from extract.media.decoders import read_auto
from extract.media.frames import parse_frame_policy
from features.store import FeatureFile, State
from tests.support.media import CLIPS, NO_CLIPS, pictures, write_clip, write_cover
from tests.support.processes import Started

KILLS = 10


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason=NO_CLIPS)
@pytest.mark.parametrize(("name", "width"), [("videomae-base", 768), ("slowfast-r50", 2304)])
def test_real_clips_equal_the_librarys_own_model(tmp_path: Path, name: str, width: int) -> None:
    every = build_catalog("clips", None, videos=CLIPS)
    catalog = replace(every, items=every.items[:3])  # two batches; test_decoders.py reads all clips
    run = ExtractOptions(tmp_path, weights="random", batch_size=2, dtype="float32")
    report = extract(catalog, ENCODERS[name], run)
    file = FeatureFile(report.path)
    assert file.shape == (len(catalog.items), width)
    assert (file.columns.states == State.DONE).all()
    found = file.read([item.id for item in catalog.items])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:2], stock_vectors(name, [item.video for item in catalog.items[:2]]), atol=1e-5)
    assert extract(catalog, ENCODERS[name], run).unchanged
    frames = parse_frame_policy("uniform:8")
    (other,) = prepare_all(catalog, [ENCODERS[name]], replace(run, frames=frames))
    assert other.job.target != report.path


def stock_vectors(name: str, clips: list[Path | None]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Build the library's model by the library's own means, from the same seed, and run it with its own head."""
    spec = ENCODERS[name]
    assert isinstance(spec.inputs, PixelInput)
    assert spec.frames is not None
    rows = []
    forward = stock_forward(name)
    for clip in clips:
        assert clip is not None
        with torch.inference_mode():
            rows.append(forward(preprocess(read_auto(clip, spec.frames).frames, spec.inputs)[None])[0].numpy())
    return np.stack(rows)


def stock_forward(name: str) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    if name == "videomae-base":
        from transformers import VideoMAEConfig, VideoMAEModel

        model = VideoMAEModel(VideoMAEConfig(use_mean_pooling=False)).eval()
        return lambda frames: model(pixel_values=frames).last_hidden_state.mean(1)
    from pytorchvideo.models.hub import slowfast_r50

    network = slowfast_r50(pretrained=False).eval()
    network.blocks[-1].proj = nn.Identity()
    slow = torch.linspace(0, 31, 8).long()
    return lambda frames: network([frames.transpose(1, 2)[:, :, slow], frames.transpose(1, 2)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clips and covers, one of each broken."""
    folder = tmp_path_factory.mktemp("killed") / "media"
    (folder / "videos").mkdir(parents=True)
    (folder / "covers").mkdir()
    for number in range(24):
        write_clip(folder / "videos" / f"{number}.mp4", pictures(16, kind=number))
        write_cover(folder / "covers" / f"{number}.jpg", kind=number)
    (folder / "videos" / "5.mp4").write_bytes(b"")
    (folder / "covers" / "7.jpg").write_bytes(b"no picture")
    return folder


def shards_in(out: Path) -> int:
    """Count the finished shards of a run."""
    return len(list(out.rglob("*.json"))) if out.is_dir() else 0


def wait_for_shards(process: Started, out: Path, count: int) -> None:
    """Return when `count` shards are there, or the run has ended."""
    while process.ended is None and shards_in(out) < count:
        time.sleep(0.01)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["extract", "--data", str(folder), "--encoders", "videomae-tiny,resnet-tiny", "--weights", "random"]
    line += ["--dtype", "float32", "--shard-size", "1", "--batch-size", "1", "--out"]
    assert run_pipeline.main([*line, str(tmp_path / "whole")]) == 0
    chance = random.Random(0)
    left_behind = set()
    killed = 0
    while killed < KILLS:
        process = Started(run_pipeline.main, [*line, str(tmp_path / "out")], told=tmp_path / "told")
        # by shards and not by the clock: how long a start takes differs tenfold between machines and moments
        wait_for_shards(process, tmp_path / "out", shards_in(tmp_path / "out") + chance.randrange(6))
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        if process.ended == -signal.SIGKILL:
            killed += 1
            left_behind.add(shards_in(tmp_path / "out"))
        else:  # finished between two kills: start over, so that every kill meets a run at work
            assert process.ended == 0, (tmp_path / "told").read_text()
            for file in (tmp_path / "out").iterdir():
                file.unlink()
    assert len(left_behind) > 2  # the kills met runs in different stages
    capsys.readouterr()
    assert run_pipeline.main([*line, str(tmp_path / "out"), "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [report["counts"] for report in reports] == [{"done": 23, "missing": 0, "failed": 1}] * 2
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(names) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        whole, pieced = FeatureFile(tmp_path / "whole" / name), FeatureFile(tmp_path / "out" / name)
        assert pieced.vectors_sha256 == whole.vectors_sha256
        assert pieced.columns.ids == whole.columns.ids
        assert pieced.columns.states.tolist() == whole.columns.states.tolist()
        pieced.verify()
