"""Extraction as a whole: rows by id, bad sources, crashes, fingerprints, real clips."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from extract.catalog import Catalog, build_catalog, media_ids
from extract.decoders import get_decoder
from extract.encoders import get_encoder
from extract.extractor import ExtractOptions, ExtractReport, extract
from extract.frames import parse_frame_policy
from extract.loading import load_encoder
from extract.preprocess import preprocess
from features.errors import ConfigError, MediaError, StoreError
from features.store import FeatureFile
from tests.media import CLIPS, clip, cover

ROOT = Path(__file__).resolve().parents[1]
TINY = {"video": "videomae-tiny", "cover": "resnet-tiny", "title": "minilm-tiny"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("media")
    (base / "videos").mkdir()
    (base / "covers").mkdir()
    for number in range(10):
        clip(base / "videos" / f"v{number}.mp4", 8 + number, seed=number)
        cover(base / "covers" / f"v{number}.jpg", seed=number)
    return base


def catalog_of(folder: Path) -> Catalog:
    videos, covers = folder / "videos", folder / "covers"
    ids = media_ids(videos=videos, covers=covers)
    return build_catalog("toy", ids, videos=videos, covers=covers, titles={item: f"title of {item}" for item in ids})


def options(out: Path, **changes: object) -> ExtractOptions:
    return replace(ExtractOptions(out=out, weights="random", shard_size=4, batch_size=3), **changes)


def run(folder: Path, out: Path, modality: str = "video", **changes: object) -> ExtractReport:
    return extract(catalog_of(folder), get_encoder(TINY[modality]), options(out, **changes))


def stored_vectors(path: Path) -> bytes:
    with h5py.File(path) as handle:
        return bytes(handle["vectors"][:].tobytes())


@pytest.mark.parametrize("modality", sorted(TINY))
def test_rows_hold_the_encoders_vectors_by_id(folder: Path, tmp_path: Path, modality: str) -> None:
    catalog = catalog_of(folder)
    spec = get_encoder(TINY[modality])
    report = extract(catalog, spec, options(tmp_path, dtype="float32"))
    assert report.counts == {"done": 10, "missing": 0, "failed": 0}
    file = FeatureFile(report.path, dataset="toy")
    encoder = load_encoder(spec, "random", 0)
    for item in catalog.items[3:5]:
        if modality == "video":
            assert spec.frames is not None
            assert item.video is not None
            batch = preprocess(torch.from_numpy(get_decoder("pyav")(item.video, spec.frames)), spec)[None]
        elif modality == "cover":
            from extract.decoders import read_cover

            assert item.cover is not None
            batch = preprocess(torch.from_numpy(read_cover(item.cover))[None], spec)
        else:
            assert encoder.tokenise is not None
            batch = encoder.tokenise([item.title or ""])
        # decord and PyAV round colours differently, hence 1e-2 for video; the exact comparison is in the next test
        direct = encoder(batch)[0].numpy()
        np.testing.assert_allclose(file.read([item.id])[0], direct, atol=1e-2 if modality == "video" else 1e-5)


def test_video_features_equal_a_direct_forward_on_the_same_frames(folder: Path, tmp_path: Path) -> None:
    """The library's own model and class, its own preprocessing rule, the stored file: equal to 1e-5."""
    from transformers import VideoMAEModel

    spec = get_encoder("videomae-tiny")
    report = run(folder, tmp_path, dtype="float32", decoder="pyav")
    model = load_encoder(spec, "random", 0).network.model
    assert isinstance(model, VideoMAEModel)
    assert spec.frames is not None
    for item in catalog_of(folder).items:
        assert item.video is not None
        frames = preprocess(torch.from_numpy(get_decoder("pyav")(item.video, spec.frames)), spec)
        with torch.inference_mode():
            direct = model(pixel_values=frames[None]).last_hidden_state.mean(1)[0].numpy()
        np.testing.assert_allclose(FeatureFile(report.path).read([item.id])[0], direct, rtol=1e-5, atol=1e-5)


def test_second_run_does_nothing_and_another_recipe_writes_another_file(folder: Path, tmp_path: Path) -> None:
    first = run(folder, tmp_path)
    made = first.path.stat().st_mtime_ns
    again = run(folder, tmp_path, batch_size=2, workers=1)
    assert again.unchanged
    assert again.new_rows == 0
    assert again.path.stat().st_mtime_ns == made
    others = [
        run(folder, tmp_path, frames=parse_frame_policy("middle:4")),
        run(folder, tmp_path, seed=1),
        run(folder, tmp_path, dtype="float32"),
        run(folder, tmp_path, decoder="pyav"),
    ]
    paths = {report.path for report in [first, *others]}
    assert len(paths) == 5
    assert all(path.is_file() for path in paths)


def test_random_weights_are_said_and_recorded(folder: Path, tmp_path: Path) -> None:
    report = run(folder, tmp_path, seed=7)
    assert "RANDOM weights (seed 7)" in report.warning
    provenance = FeatureFile(report.path).provenance
    assert provenance.recipe["weights"] == "random, seed 7"
    assert provenance.weights_sha256 == provenance.recipe["weights_sha256"]
    assert provenance.libraries["torch"] == torch.__version__.split("+")[0] or "+" in provenance.libraries["torch"]


def test_new_items_are_added_and_changed_ones_made_again(folder: Path, tmp_path: Path) -> None:
    media = tmp_path / "media"
    shutil.copytree(folder, media)
    first = run(media, tmp_path / "out")
    before = FeatureFile(first.path).read(["v3", "v4"])
    clip(media / "videos" / "v10.mp4", 9, seed=10)
    clip(media / "videos" / "v4.mp4", 30, seed=99)
    second = run(media, tmp_path / "out")
    assert second.path == first.path
    assert second.new_rows == 2
    after = FeatureFile(second.path).read(["v3", "v4"])
    assert (before[0] == after[0]).all()
    assert (before[1] != after[1]).any()
    assert FeatureFile(second.path).counts()["done"] == 11


def _break(media: Path) -> None:
    (media / "videos" / "v0.mp4").write_bytes(b"")
    (media / "videos" / "v1.mp4").write_text("not a video")
    (media / "videos" / "v2.mp4").unlink()
    (media / "covers" / "v3.jpg").write_bytes(b"\xff\xd8 garbage")


def test_bad_sources_cost_their_rows(folder: Path, tmp_path: Path) -> None:
    media = tmp_path / "media"
    shutil.copytree(folder, media)
    whole = FeatureFile(run(media, tmp_path / "whole").path)
    _break(media)
    report = run(media, tmp_path / "out", max_failed=0.3)
    assert report.counts == {"done": 7, "missing": 1, "failed": 2}
    assert [(item, state) for item, state, _ in report.bad] == [("v0", "failed"), ("v1", "failed"), ("v2", "missing")]
    assert "0 bytes" in report.bad[0][2]
    rest = [f"v{number}" for number in range(3, 10)]
    np.testing.assert_allclose(FeatureFile(report.path).read(rest), whole.read(rest), atol=2e-3)
    assert run(media, tmp_path / "out", max_failed=0.3).bad == report.bad  # unchanged, and still told
    covers = run(media, tmp_path / "out", "cover", max_failed=0.3)
    assert [(item, state) for item, state, _ in covers.bad] == [("v3", "failed")]


def test_too_many_bad_sources_fail_the_run_and_lose_nothing(folder: Path, tmp_path: Path) -> None:
    media = tmp_path / "media"
    shutil.copytree(folder, media)
    _break(media)
    with pytest.raises(MediaError, match=r"3 of 10 videos are missing or bad.*--max-failed 0\.05.*v0: .*kept"):
        run(media, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.h5"))
    assert run(media, tmp_path / "out", max_failed=0.5).new_rows == 0  # made of the shards that were kept


def test_failed_rows_are_tried_again_on_request_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import extract.rows

    def refuse(path: Path) -> None:
        raise MediaError(f"{path.name} will not open today")

    with monkeypatch.context() as patch:
        patch.setattr(extract.rows, "read_cover", refuse)
        assert run(folder, tmp_path, "cover", max_failed=1.0).counts["failed"] == 10
    assert run(folder, tmp_path, "cover", max_failed=1.0).unchanged
    assert run(folder, tmp_path, "cover", retry_failed=True).counts["done"] == 10


def test_blank_titles_are_missing_and_overflow_is_failed(tmp_path: Path) -> None:
    titles = {"a": "a cat", "b": "  ", "c": "a dog"}
    catalog = build_catalog("toy", ["a", "b", "c", "d"], videos=None, covers=None, titles=titles)
    report = extract(catalog, get_encoder("minilm-tiny"), options(tmp_path, max_failed=0.5))
    assert report.bad == [("b", "missing", "no title"), ("d", "missing", "no title")]


def test_a_vector_that_overflows_float16_fails_its_row(folder: Path, tmp_path: Path) -> None:
    spec = replace(get_encoder("resnet-tiny"), std=(1e-7, 1e-7, 1e-7))
    report = extract(catalog_of(folder), spec, options(tmp_path, max_failed=1.0))
    assert report.counts["failed"] == 10
    assert "not finite in float16" in report.bad[0][2]


def test_a_catalog_without_the_modality_is_refused(tmp_path: Path) -> None:
    catalog = build_catalog("toy", ["a"], videos=None, covers=None, titles={})
    with pytest.raises(ConfigError, match=r"'toy' has not one video, which videomae-tiny needs"):
        extract(catalog, get_encoder("videomae-tiny"), options(tmp_path))
    with pytest.raises(ConfigError, match="has no items"):
        build_catalog("toy", [], videos=None, covers=None, titles={})


def test_two_files_of_one_item_are_refused(folder: Path, tmp_path: Path) -> None:
    media = tmp_path / "media"
    shutil.copytree(folder, media)
    shutil.copy(media / "covers" / "v1.jpg", media / "covers" / "v1.png")
    with pytest.raises(ConfigError, match=r"'v1' has two files.*v1\.jpg.*v1\.png"):
        catalog_of(media)


def test_hostile_ids_reach_no_file_and_are_stored_as_they_are(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    ids = ["../../secret", "../secret", "a/b", "line\nbreak", "\U0001f3ac" * 1000, "v1"]
    catalog = build_catalog("../toy/..", ids, videos=folder / "videos", covers=None, titles={})
    assert catalog.missing("video") == ids[:5]
    report = extract(catalog, get_encoder("videomae-tiny"), options(tmp_path / "out", max_failed=1.0))
    assert list((tmp_path / "out").iterdir()) == [report.path]
    assert list(FeatureFile(report.path).columns.ids) == ids


@pytest.mark.parametrize("modality", sorted(TINY))
def test_a_run_that_breaks_and_goes_on_writes_the_same_bytes(folder: Path, tmp_path: Path, modality: str) -> None:
    whole = run(folder, tmp_path / "whole", modality)

    def crash(done: int, total: int) -> None:
        assert total in (10, 6)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(catalog_of(folder), get_encoder(TINY[modality]), options(tmp_path / "out"), progress=crash)
    assert not list((tmp_path / "out").glob("*.h5"))
    report = run(folder, tmp_path / "out", modality)
    assert report.new_rows == 6
    assert stored_vectors(report.path) == stored_vectors(whole.path)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(folder: Path, tmp_path: Path) -> None:
    arguments = ["extract", "--data", str(folder), "--encoders", "videomae-tiny,resnet-tiny", "--weights", "random"]
    command = [sys.executable, str(ROOT / "run_pipeline.py"), *arguments, "--shard-size", "1", "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True, cwd=ROOT, env=environment)
    length = time.monotonic() - began
    chance = random.Random(0)
    killed = 0
    for _ in range(20):
        process = subprocess.Popen(
            [*command, str(tmp_path / "out")],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=chance.uniform(0.3, 1.0) * length)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
    assert killed >= 10
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True, cwd=ROOT, env=environment)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        assert stored_vectors(tmp_path / "out" / name) == stored_vectors(tmp_path / "whole" / name)


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"real clips are not at {CLIPS}")
@pytest.mark.parametrize(("name", "width"), [("videomae-base", 768), ("slowfast-r50", 2304)])
def test_real_clips_at_full_size_equal_the_librarys_own_model(tmp_path: Path, name: str, width: int) -> None:
    catalog = build_catalog("clips", media_ids(videos=CLIPS, covers=None), videos=CLIPS, covers=None, titles={})
    spec = get_encoder(name)
    settings = options(tmp_path, dtype="float32", batch_size=2)
    report = extract(catalog, spec, settings)
    file = FeatureFile(report.path)
    vectors = file.read(file.columns.ids)
    assert vectors.shape == (8, width)
    assert np.isfinite(vectors).all()
    assert extract(catalog, spec, settings).unchanged
    item = catalog.items[0]
    assert item.video is not None
    assert spec.frames is not None
    frames = preprocess(torch.from_numpy(get_decoder("auto")(item.video, spec.frames)), spec)[None]
    with torch.inference_mode():
        direct = _stock_forward(name, frames)[0].numpy()
    np.testing.assert_allclose(file.read([item.id])[0], direct, rtol=1e-5, atol=1e-5)


def _stock_forward(name: str, frames: torch.Tensor) -> torch.Tensor:
    """Build the library's model by the library's own means, with the same seed, and run it with its own head."""
    torch.manual_seed(0)
    if name == "videomae-base":
        from transformers import VideoMAEConfig, VideoMAEModel

        model = VideoMAEModel(VideoMAEConfig(use_mean_pooling=False)).eval()
        tokens: torch.Tensor = model(pixel_values=frames).last_hidden_state
        return tokens.mean(1)
    from pytorchvideo.models.hub import slowfast_r50

    network = slowfast_r50(pretrained=False).eval()
    network.blocks[-1].proj = torch.nn.Identity()
    fast = frames.transpose(1, 2)
    pooled: torch.Tensor = network([fast[:, :, torch.linspace(0, 31, 8).long()], fast])
    return pooled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float8"}, "--dtype is 'float8'"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"shard_size": 0}, "--shard-size is 0"),
        ({"max_failed": 2.0}, "--max-failed is 2.0"),
        ({"decoder": "pyva"}, "did you mean 'pyav'"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(tmp_path, **changes)


def test_a_full_disk_is_one_line_and_leaves_no_half_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import features.layout

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features.layout.h5py, "File", full)
    with pytest.raises(StoreError, match="No space left"):
        run(folder, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
