"""One pass for many encoders: the same bytes as alone, every file opened once; back-off, precision, advice."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from extract.encoders.encoder import Encoder
from extract.encoders.inputs import Batch
from extract.encoders.preprocess import view_of
from extract.encoders.registry import ENCODERS
from extract.jobs import reading
from extract.jobs.batches import Feeder
from extract.jobs.extractor import extract, extract_all
from extract.jobs.options import ExtractOptions
from extract.jobs.reading import Source
from extract.jobs.report import ExtractReport
from extract.media.catalog import Catalog, build_catalog
from extract.media.frames import FrameUnion, frame_indices, parse_frame_policy
from extract.media.limits import Limits
from extract.media.sandbox import stream_media
from features.errors import ConfigError, MediaError
from features.precision import cosine_error, summary, to_disk, to_float32
from features.store import FeatureFile
from pipelines.feature_files.extraction import advice, print_reports
from tests.support.media import pictures, write_clip, write_cover

NAMES = ["videomae-tiny", "resnet-tiny", "minilm-tiny", "slowfast-tiny", "clip-tiny-image", "clip-tiny-text"]
COUNT = 7


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("many")
    for place in ("videos", "covers"):
        (folder / place).mkdir()
    for number in range(COUNT):
        write_clip(folder / "videos" / f"{number}.mp4", pictures(20, kind=number))
        write_cover(folder / "covers" / f"{number}.jpg", kind=number)
    (folder / "videos" / "2.mp4").write_bytes(b"")
    titles = {str(number): "word " * (COUNT - number) for number in range(COUNT)}
    return build_catalog("toy", None, videos=folder / "videos", covers=folder / "covers", titles=titles)


def options(out: Path, **changes: Any) -> ExtractOptions:
    run = ExtractOptions(out, weights="random", dtype="float32", batch_size=2, shard_size=3, max_failed=0.5)
    return replace(run, **changes)


def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the files opened from here on."""
    seen: Counter[str] = Counter()

    def counting(path: Path, limits: Limits, **given: Any) -> Generator[Any]:
        seen[path.name] += 1
        return stream_media(path, limits, **given)

    monkeypatch.setattr(reading, "stream_media", counting)
    return seen


def hashes(reports: list[ExtractReport]) -> list[str]:
    return [FeatureFile(report.path).vectors_sha256 for report in reports]


def test_many_encoders_give_what_each_gives_alone(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [ENCODERS[name] for name in NAMES]
    alone = [extract(catalog, spec, options(tmp_path / "alone")) for spec in specs]
    seen = opened(monkeypatch)
    calls: list[tuple[int, int]] = []
    together = extract_all(
        catalog, specs, options(tmp_path / "all"), progress=lambda done, total, _: calls.append((done, total))
    )
    assert [report.encoder for report in together] == NAMES
    assert hashes(together) == hashes(alone)
    assert [report.path.name for report in together] == [report.path.name for report in alone]
    assert [report.bad for report in together] == [report.bad for report in alone]
    assert len(seen) == 2 * COUNT
    assert set(seen.values()) == {1}  # every video and cover once, for all of them
    assert calls == sorted(calls)
    assert calls[-1] == (COUNT * len(NAMES), COUNT * len(NAMES))


def test_a_new_encoder_beside_finished_ones_reads_only_for_itself(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extract(catalog, ENCODERS["resnet-tiny"], options(tmp_path))
    seen = opened(monkeypatch)
    both = extract_all(catalog, [ENCODERS["resnet-tiny"], ENCODERS["minilm-tiny"]], options(tmp_path))
    assert not seen
    assert [report.unchanged for report in both] == [True, False]
    assert [report.new_rows for report in both] == [0, COUNT]
    assert hashes(both)[0] == hashes([first])[0]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_what_rounding_costs_is_measured_and_printed(
    tmp_path: Path, catalog: Catalog, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    spec = ENCODERS["videomae-tiny"]
    exact = FeatureFile(extract(catalog, spec, options(tmp_path / "exact")).path)
    report = extract(catalog, spec, options(tmp_path / "small", dtype=dtype))
    file = FeatureFile(report.path)
    done = [item for item, state in zip(exact.columns.ids, exact.columns.states.tolist(), strict=True) if not state]
    stored = to_disk(exact.read(done), dtype)
    assert (str(file.dtype), len(done)) == (dtype, COUNT - 1)
    np.testing.assert_array_equal(file.read(done), to_float32(stored.values, stored.scales))
    assert report.cosine_error == file.cosine_error == summary(cosine_error(exact.read(done), stored))
    assert report.cosine_error is not None
    print_reports([report])
    error = report.cosine_error
    said = f"videomae-tiny: rounding costs {error.mean:.2g} of cosine on average, {error.max:.2g} at most"
    assert said in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ConfigError, match="dtype 'int4' cannot be stored; choose float16, float32 or int8"):
        options(tmp_path, dtype="int4")


@pytest.mark.parametrize("stop", range(2, 2 * COUNT, 3))
def test_an_interrupted_pass_ends_with_the_same_bytes(tmp_path: Path, catalog: Catalog, stop: int) -> None:
    specs = [ENCODERS["slowfast-tiny"], ENCODERS["clip-tiny-image"]]

    def interrupt(done: int, total: int, failed: int) -> None:
        if done >= stop:
            raise KeyboardInterrupt

    whole = extract_all(catalog, specs, options(tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt):
        extract_all(catalog, specs, options(tmp_path / "b"), progress=interrupt)
    assert hashes(extract_all(catalog, specs, options(tmp_path / "b"))) == hashes(whole)


def test_too_many_bad_videos_do_not_cost_the_covers(tmp_path: Path, catalog: Catalog) -> None:
    specs = [ENCODERS["videomae-tiny"], ENCODERS["resnet-tiny"]]
    with pytest.raises(MediaError, match=rf"1 of {COUNT} items have no vector"):
        extract_all(catalog, specs, options(tmp_path, max_failed=0))
    assert [path.name.split(".")[1] for path in tmp_path.glob("*.h5")] == ["resnet-tiny"]


def test_an_encoder_twice_is_refused(tmp_path: Path, catalog: Catalog) -> None:
    with pytest.raises(ConfigError, match="encoder 'resnet-tiny' is given twice"):
        extract_all(catalog, [ENCODERS["resnet-tiny"]] * 2, options(tmp_path))


@pytest.mark.parametrize("texts", [("middle:5", "uniform:8"), ("middle:5x3", "middle:5"), ("uniform:4", "uniform:4")])
@pytest.mark.parametrize("total", [1, 3, 7, 100])
def test_unions_hold_every_policys_frames_once(texts: tuple[str, ...], total: int) -> None:
    union = FrameUnion(tuple(parse_frame_policy(text) for text in texts))
    numbers = frame_indices(union, total)
    assert (np.diff(numbers) > 0).all()
    for policy in union.policies:
        assert set(frame_indices(policy, total)) <= set(numbers)


# ---- back-off, precision, compilation


def seen(encoder: Encoder, image: Tensor) -> Source:
    """Return a cover as it comes to an encoder."""
    view = view_of(encoder.spec, cropped=False)
    assert view is not None
    return Source({view: view.made(image, "cpu")})


def test_a_full_gpu_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the one that torch raises; no GPU is needed to raise it."""
    encoder = ENCODERS["resnet-tiny"].backend(ENCODERS["resnet-tiny"], "random", 0)
    plain, sizes = encoder.forward, []

    def small_memory(batch: Batch) -> Tensor:
        assert isinstance(batch, Tensor)
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(batch)

    images = [torch.from_numpy(pictures(1, kind=kind)[0]) for kind in range(7)]

    def fed() -> np.ndarray[Any, Any]:
        feeder = Feeder(encoder, options(tmp_path, batch_size=7))
        assert [feeder.add(str(n), "", seen(encoder, image)) for n, image in enumerate(images)] == [False] * 6 + [True]
        return feeder.finish().vectors

    expected = fed()
    monkeypatch.setattr(encoder, "forward", small_memory)
    np.testing.assert_allclose(fed(), expected, atol=1e-5)
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_one_item_too_large_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ENCODERS["resnet-tiny"].backend(ENCODERS["resnet-tiny"], "random", 0)

    def no_memory(batch: Batch) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoder, "forward", no_memory)
    feeder = Feeder(encoder, options(tmp_path))
    feeder.add("a", "", seen(encoder, torch.from_numpy(pictures(1)[0])))
    with pytest.raises(ConfigError, match="'resnet-tiny' does not fit into the memory of cpu even with one item"):
        feeder.finish()


def test_precision_is_another_recipe_and_near(tmp_path: Path, catalog: Catalog) -> None:
    spec = ENCODERS["videomae-tiny"]
    full = extract(catalog, spec, options(tmp_path))
    half = extract(catalog, spec, options(tmp_path, precision="bf16"))
    assert half.fingerprint != full.fingerprint
    ids = [item.id for item in catalog.items if item.id != "2"]
    one, other = FeatureFile(full.path).read(ids), FeatureFile(half.path).read(ids)
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert not np.array_equal(one, other)
    assert cosine.min() > 0.999
    with pytest.raises(ConfigError, match="precision is 'int4'"):
        options(tmp_path, precision="int4")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++, which is not there")
def test_a_compiled_encoder_gives_the_same_vectors(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config, "compile_threads", 1)  # more are processes that import torch first
    spec = ENCODERS["minilm-tiny"]  # compiles in half the time of one that reads pictures
    plain = extract(catalog, spec, options(tmp_path / "a"))
    compiled = extract(catalog, spec, options(tmp_path / "b", compile=True))
    ids = [item.id for item in catalog.items]
    assert compiled.fingerprint == plain.fingerprint
    np.testing.assert_allclose(FeatureFile(compiled.path).read(ids), FeatureFile(plain.path).read(ids), atol=1e-4)


def test_a_compiler_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    encoder = ENCODERS["resnet-tiny"].backend(ENCODERS["resnet-tiny"], "random", 0)

    def no_compiler(batch: Batch) -> Tensor:
        raise TorchDynamoException("no C++ compiler\nlong story")

    monkeypatch.setattr(encoder, "forward", no_compiler)
    feeder = Feeder(encoder, options(tmp_path, compile=True))
    feeder.add("a", "", seen(encoder, torch.from_numpy(pictures(1)[0])))
    with pytest.raises(ConfigError, match=r"--compile failed for 'resnet-tiny' \(no C\+\+ compiler.*; leave it out"):
        feeder.finish()


# ---- what the report says


def report(modality: Any, decode: float, encode: float, write: float) -> ExtractReport:
    seconds = {"decode": decode, "encode": encode, "write": write}
    return ExtractReport(Path("f.h5"), "x", modality, "0", {}, 1, False, [], None, seconds, "")


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([report("video", 60, 20, 20)], "decode 60%, encode 20%, write 20%; the bottleneck is decode: more --workers"),
        (
            [report("video", 40, 30, 0), report("video", 40, 30, 0)],
            "encode 60%, write 0%; the bottleneck is encode",
        ),
        ([report("video", 1, 1, 8)], "the bottleneck is write: a larger --shard-size"),
        ([report("video", 1, 1, 1)], "^$"),
    ],
)
def test_the_bottleneck_is_named(tmp_path: Path, reports: list[ExtractReport], expected: str) -> None:
    assert re.search(expected, advice(reports, options(tmp_path)))
