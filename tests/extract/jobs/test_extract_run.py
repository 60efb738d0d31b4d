"""Extraction end to end: equality with the libraries, reuse, bad media, crashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extract.encoders.inputs import PixelInput
from extract.encoders.preprocess import preprocess
from extract.encoders.registry import ENCODERS
from extract.encoders.spec import EncoderSpec
from extract.jobs import reading
from extract.jobs.extractor import _unpinned, extract, feature_name
from extract.jobs.options import ExtractOptions
from extract.jobs.outputs import vector_output
from extract.jobs.sharding import Work
from extract.media.catalog import Catalog, build_catalog
from extract.media.covers.image import read_cover
from extract.media.decoders import read_auto
from extract.media.frames import parse_frame_policy
from features.errors import ConfigError
from features.store import FeatureFile
from tests.support.library_models import HUB, library_model
from tests.support.toy_media import catalog, media, options, vectors

__all__ = ["catalog", "media"]  # fixtures


def direct(spec: EncoderSpec, catalog: Catalog) -> torch.Tensor:
    """Encode each item alone, by the library's own model, without the extractor."""
    encoder = spec.backend(spec, "random", 0)
    if spec.name in HUB:  # the stock head cannot pool these small maps; tests of the encoders compare it at native size
        forward: Callable[[Any], torch.Tensor] = lambda clips: encoder.model(clips.transpose(1, 2))  # noqa: E731
    else:
        forward = library_model(spec.name, encoder)
    rows = []
    with torch.inference_mode():
        for item in catalog.items:
            if encoder.tokenizer is not None and item.title is not None:
                rows.append(forward(encoder.tokenizer.tokenise([item.title])))
                continue
            assert isinstance(spec.inputs, PixelInput)
            assert item.video is not None
            assert item.cover is not None
            pixels = read_cover(item.cover) if spec.frames is None else read_auto(item.video, spec.frames).frames
            rows.append(forward(preprocess(pixels, spec.inputs)[None]))
    return torch.cat(rows)


@pytest.mark.parametrize("name", [name for name in ENCODERS if "-tiny" in name])
def test_file_holds_what_the_librarys_model_gives(tmp_path: Path, catalog: Catalog, name: str) -> None:
    spec = ENCODERS[name]
    report = extract(catalog, spec, options(tmp_path, dtype="float32"))
    assert report.counts == {"done": 7, "missing": 0, "failed": 0}
    assert (report.new_rows, report.unchanged, report.bad) == (7, False, [])
    assert report.path.name == f"toy.{name}.{report.fingerprint[:16]}.h5"
    assert "random weights" in report.warning
    assert set(report.seconds) == {"decode", "encode", "write"}
    assert min(report.seconds.values()) > 0
    file = FeatureFile(report.path, dataset="toy")
    file.verify()
    assert file.columns.ids == tuple(str(number) for number in range(7))
    assert file.provenance.weights_sha256 == file.provenance.recipe["weights_sha256"]
    assert all(len(digest) == 32 for digest in file.columns.digests)
    ids = ["6", "0", "3", "1", "2", "4", "5"]
    expected = direct(spec, catalog)[[int(item) for item in ids]]
    np.testing.assert_allclose(file.read(ids), expected.numpy(), atol=1e-5, rtol=0)
    assert not report.path.with_name(f"{report.path.stem}.shards").exists()


def test_a_second_run_does_nothing(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    first = extract(catalog, ENCODERS["videomae-tiny"], options(tmp_path))
    before = first.path.read_bytes(), first.path.stat().st_mtime_ns
    monkeypatch.setattr(reading, "read", None)  # reading anything would fail
    second = extract(catalog, ENCODERS["videomae-tiny"], options(tmp_path, batch_size=5, workers=1, command="other"))
    assert second.unchanged
    assert second.new_rows == 0
    assert second.path == first.path
    assert second.counts == first.counts
    assert (first.path.read_bytes(), first.path.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": parse_frame_policy("middle:4")},
        {"seed": 1},
        {"dtype": "float32"},
        {"decoder": "pyav"},
    ],
)
def test_what_changes_numbers_changes_the_file(tmp_path: Path, catalog: Catalog, changes: dict[str, Any]) -> None:
    first = extract(catalog, ENCODERS["videomae-tiny"], options(tmp_path))
    other = extract(catalog, ENCODERS["videomae-tiny"], options(tmp_path, **changes))
    assert other.path != first.path
    assert len(list(tmp_path.glob("*.h5"))) == 2
    if "decoder" in changes:
        assert np.array_equal(vectors(first, ["3", "5"]), vectors(other, ["3", "5"]))


def test_decoder_and_frames_do_not_concern_titles(tmp_path: Path, catalog: Catalog) -> None:
    first = extract(catalog, ENCODERS["bert-tiny"], options(tmp_path))
    assert extract(catalog, ENCODERS["bert-tiny"], options(tmp_path, decoder="pyav")).path == first.path
    with pytest.raises(ConfigError, match="is for videos, but bert-tiny read none"):
        extract(catalog, ENCODERS["bert-tiny"], options(tmp_path, frames=parse_frame_policy("middle:5")))


def test_batches_and_workers_do_not_matter(tmp_path: Path, catalog: Catalog) -> None:
    ids = [item.id for item in catalog.items]
    for name in ("slowfast-tiny", "resnet-tiny", "minilm-tiny"):
        one = extract(catalog, ENCODERS[name], options(tmp_path / "a", dtype="float32", batch_size=1, workers=1))
        many = extract(
            catalog, ENCODERS[name], options(tmp_path / "b", dtype="float32", batch_size=16, shard_size=99, workers=4)
        )
        assert one.fingerprint == many.fingerprint
        np.testing.assert_allclose(vectors(one, ids), vectors(many, ids), atol=1e-4, rtol=0)


def test_a_changed_or_new_source_alone_is_made_again(tmp_path: Path, catalog: Catalog) -> None:
    spec = ENCODERS["bert-tiny"]
    first = extract(catalog, spec, options(tmp_path))
    items = [replace(item, title="another title") if item.id == "2" else item for item in catalog.items]
    changed = Catalog("toy", (*items[::-1], replace(items[0], id="new")))
    second = extract(changed, spec, options(tmp_path))
    assert second.new_rows == 2
    file = FeatureFile(second.path)
    assert file.columns.ids == ("6", "5", "4", "3", "2", "1", "0", "new")
    assert first.path == second.path
    assert np.array_equal(file.read(["0"]), file.read(["new"]))


def test_progress_counts_up_to_all(tmp_path: Path, catalog: Catalog) -> None:
    calls: list[tuple[int, int, int]] = []
    extract(catalog, ENCODERS["bert-tiny"], options(tmp_path), progress=lambda *told: calls.append(told))
    assert calls == [(0, 7, 0), (3, 7, 0), (4, 7, 0), (7, 7, 0)]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"batch_size": -1}, "batch_size is -1"),
        ({"seed": -1}, "seed is -1; it must be from 0 to"),
        ({"seed": 2**63}, "seed is 9223372036854775808; it must be from 0 to"),
        ({"workers": 0}, "workers is 0"),
        ({"shard_size": -1}, "shard_size is -1"),
        ({"max_failed": 1.5}, "max_failed is 1.5"),
        ({"dtype": "int4"}, "dtype 'int4' cannot be stored"),
        ({"device": "gpu9"}, "device 'gpu9'"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        options(tmp_path, **changes)


def test_unknown_decoder_is_refused_before_anything(tmp_path: Path, catalog: Catalog) -> None:
    with pytest.raises(ConfigError, match="did you mean 'pyav'"):
        extract(catalog, ENCODERS["videomae-tiny"], options(tmp_path, decoder="pyv"))


def test_feature_names_are_safe() -> None:
    assert feature_name("../a b/c", "x", "0" * 64) == f"a-b-c.x.{'0' * 16}.h5"
    assert feature_name("微视频", "x", "0" * 64).startswith("dataset.")


# ---- crashes


def interrupt_after(rows: int) -> Callable[[int, int, int], None]:
    def progress(done: int, total: int, failed: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path, catalog: Catalog, stop: int) -> None:
    spec = ENCODERS["slowfast-tiny"]
    unbroken = extract(catalog, spec, options(tmp_path / "a", dtype="float32"))
    with pytest.raises(KeyboardInterrupt):
        extract(catalog, spec, options(tmp_path / "b", dtype="float32"), progress=interrupt_after(stop))
    assert not list((tmp_path / "b").glob("*.h5"))
    resumed = extract(catalog, spec, options(tmp_path / "b", dtype="float32"))
    assert resumed.new_rows == {3: 7, 4: 3, 6: 0}[stop]  # a caller hears of a shard's last rows when it is on disk
    first, second = FeatureFile(unbroken.path), FeatureFile(resumed.path)
    assert first.vectors_sha256 == second.vectors_sha256
    assert first.columns.ids == second.columns.ids
    assert first.columns.digests == second.columns.digests


KILLED = """
import sys, time
from pathlib import Path
from extract.media.catalog import build_catalog
from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract
from extract.jobs.options import ExtractOptions

media, out = Path(sys.argv[1]), Path(sys.argv[2])
options = ExtractOptions(out, weights="random", batch_size=2, shard_size=2)
def progress(done, total, failed):
    print(done, flush=True)
    time.sleep(0.3)
extract(build_catalog("toy", None, covers=media), ENCODERS["resnet50-tiny"], options, progress=progress)
"""


def test_kill_9_and_restart(tmp_path: Path, media: Path) -> None:
    catalog = build_catalog("toy", None, covers=media / "covers")
    small = options(tmp_path / "a", batch_size=2, shard_size=2)
    unbroken = extract(catalog, ENCODERS["resnet50-tiny"], small)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(media / "covers"), str(tmp_path / "b")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},  # it decides the last bit of a sum
    )
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == [b"0", b"2"]
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not list((tmp_path / "b").glob("*.h5"))
    resumed = extract(catalog, ENCODERS["resnet50-tiny"], replace(small, out=tmp_path / "b"))
    assert 0 < resumed.new_rows < 7
    assert FeatureFile(resumed.path).vectors_sha256 == FeatureFile(unbroken.path).vectors_sha256


def test_weights_without_a_fixed_revision_are_told(tmp_path: Path) -> None:
    spec = ENCODERS["resnet-tiny"]
    encoder = spec.backend(spec, "random", 0)
    for name, told in (("swin-t", True), ("vit-base", False)):
        encoder.spec = replace(spec, weights=ENCODERS[name].weights)
        for weights in ("pretrained", "a/folder"):
            run = ExtractOptions(tmp_path, weights=weights)
            warning = _unpinned(Work(encoder, None, run, vector_output(encoder)))  # type: ignore[arg-type]
            assert ("not a fixed revision" in warning) == (told and weights == "pretrained")
