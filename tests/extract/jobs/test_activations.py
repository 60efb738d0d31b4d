"""Activations below the last blocks in the store: the same rows however they are made, announced, refused, resumed."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import run_pipeline
from extract.encoders.cutting import split_encoder
from extract.encoders.registry import ENCODERS
from extract.jobs import extractor
from extract.jobs.extractor import extract, extract_all, prepare_all
from extract.jobs.farm import Order, work
from extract.jobs.options import ExtractOptions
from extract.jobs.outputs import longest_title
from extract.jobs.report import ExtractReport
from extract.media.catalog import Catalog, build_catalog
from features.atomic import fsync_file
from features.errors import ConfigError, StoreError
from features.store import FeatureFile
from tests.support.encoding import build
from tests.support.media import pictures, write_clip, write_cover

NAMES = ["videomae-tiny", "slowfast-tiny", "resnet-tiny", "clip-tiny-image", "minilm-tiny", "clip-tiny-text"]
COUNT = 7
IDS = [str(number) for number in range(COUNT) if number != 2]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("cut")
    for place in ("videos", "covers"):
        (folder / place).mkdir()
    for number in range(COUNT):
        write_clip(folder / "videos" / f"{number}.mp4", pictures(12, kind=number))
        write_cover(folder / "covers" / f"{number}.jpg", kind=number)
    for broken in (folder / "videos" / "2.mp4", folder / "covers" / "2.jpg"):
        broken.write_bytes(b"")
    titles = {str(number): "word " * (COUNT - number) for number in range(COUNT) if number != 2}
    return build_catalog("toy", None, videos=folder / "videos", covers=folder / "covers", titles=titles)


def options(out: Path, **changes: Any) -> ExtractOptions:
    run = ExtractOptions(
        out, weights="random", dtype="float32", top_blocks=1, batch_size=2, shard_size=3, max_failed=0.5
    )
    return replace(run, **changes)


def rows(report: ExtractReport) -> np.ndarray[Any, Any]:
    return FeatureFile(report.path).read(IDS)


def test_the_top_makes_the_vectors_of_the_stored_rows(tmp_path: Path, catalog: Catalog) -> None:
    specs = [ENCODERS[name] for name in NAMES]
    lines: list[str] = []
    made = extract_all(catalog, specs, options(tmp_path), tell=lines.append)
    whole = extract_all(catalog, specs, options(tmp_path, top_blocks=None), tell=lines.append)
    assert len(lines) == len(NAMES)
    for name, cut, vectors in zip(NAMES, made, whole, strict=True):
        encoder = build(name)
        prefix, top = split_encoder(encoder, 1, tokens=16)
        file = FeatureFile(cut.path)
        assert cut.counts == {"done": 6, "missing": 1 if "text" in name or "minilm" in name else 0} | {
            "failed": 0 if "text" in name or "minilm" in name else 1
        }
        assert file.shape == (COUNT, *prefix.shape)
        with torch.inference_mode():
            got = top(torch.from_numpy(rows(cut))).numpy()
        np.testing.assert_allclose(got, rows(vectors), atol=1e-5)
        assert cut.path.name.startswith(f"toy.{name}-top1.")
        recipe = file.provenance.recipe
        extra = {"top_blocks": 1, "blocks": len(encoder.blocks())} | ({"tokens": 16} if encoder.tokenizer else {})
        assert recipe == {**FeatureFile(vectors.path).provenance.recipe, **extra}
        assert recipe["weights_sha256"] == encoder.weights_sha256


def test_another_cut_is_another_file(tmp_path: Path, catalog: Catalog) -> None:
    reports = [extract(catalog, ENCODERS["resnet-tiny"], options(tmp_path, top_blocks=count)) for count in (1, 2, None)]
    assert len({report.fingerprint for report in reports}) == len({report.path for report in reports}) == 3
    assert [FeatureFile(report.path).shape[1:] for report in reports] == [(16, 256), (64, 128), (512,)]
    again = extract(catalog, ENCODERS["resnet-tiny"], options(tmp_path, top_blocks=2))
    assert again.unchanged


def test_broken_off_and_with_other_workers_the_bytes_are_the_same(tmp_path: Path, catalog: Catalog) -> None:
    specs = [ENCODERS[name] for name in ("resnet-tiny", "minilm-tiny")]
    hashes = []

    def stop(done: int, total: int, failed: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    for way in ("at once", "broken off", "worker"):
        run = options(tmp_path / way)
        if way == "broken off":
            with pytest.raises(KeyboardInterrupt):
                extract_all(catalog, specs, run, progress=stop)
            assert list(run.out.glob("*.shards/*.h5"))
        if way == "worker":
            assert work(Order(catalog, ("resnet-tiny", "minilm-tiny"), run)) == 0
        reports = extract_all(catalog, specs, run)
        assert sum(report.new_rows for report in reports) == {"at once": 14, "broken off": 8, "worker": 0}[way]
        hashes.append([FeatureFile(report.path).vectors_sha256 for report in reports])
    assert hashes[0] == hashes[1] == hashes[2]


@pytest.mark.parametrize(("dtype", "most"), [("float32", 0.0), ("float16", 1e-6), ("int8", 5e-3)])
@pytest.mark.parametrize("name", ["resnet-tiny", "minilm-tiny"])
def test_small_types_tell_what_they_cost(tmp_path: Path, catalog: Catalog, name: str, dtype: Any, most: float) -> None:
    report = extract(catalog, ENCODERS[name], options(tmp_path, dtype=dtype))
    assert report.cosine_error is not None
    assert (report.cosine_error.rows, report.cosine_error.max <= most) == (6, True)
    assert (report.cosine_error.max > 0) == (dtype != "float32")
    top = split_encoder(build(name), 1)[1]
    exact = rows(extract(catalog, ENCODERS[name], options(tmp_path)))
    assert ((rows(report) == 0).all(axis=2) == (exact == 0).all(axis=2)).all()  # titles keep their length
    with torch.inference_mode():
        got, want = (top(torch.from_numpy(array)) for array in (rows(report), exact))
    assert float((1 - torch.cosine_similarity(got, want)).max()) <= 2 * most + 1e-6


def test_titles_are_padded_to_the_longest(catalog: Catalog) -> None:
    encoder = build("minilm-tiny")  # marks at both ends
    assert longest_title(encoder, catalog) == 16  # 7 words
    for words, tokens in ((6, 8), (7, 16), (62, 64), (99, 64)):
        one = build_catalog("toy", ["a", "b"], titles={"a": "word " * words, "b": "word"})
        assert longest_title(encoder, one) == tokens
    assert longest_title(build("clip-tiny-text"), catalog) == 16
    assert longest_title(build("resnet-tiny"), catalog) is None


def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [ENCODERS["resnet-tiny"], ENCODERS["clip-tiny-image"]]
    shards, largest = 7 * 4 * (16 * 256 + 17 * 64), 7 * 4 * 16 * 256
    room = shards + largest
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=room))
    lines: list[str] = []
    prepare_all(catalog, specs, options(tmp_path / "enough"), tell=lines.append)
    start = "resnet-tiny: 7 items x 16 tokens x 256 numbers x 4 bytes = 114.7 kB; free in "
    assert lines[0] == f"{start}{tmp_path / 'enough'}: 259.8 kB"
    assert lines[1].startswith("clip-tiny-image: 7 items x 17 tokens x 64 numbers x 4 bytes = 30.5 kB")
    room -= 1
    with pytest.raises(StoreError, match=r"7 items x 16 tokens.*need 259.8 kB at once\. Use another --out, --items"):
        extract_all(catalog, specs, options(tmp_path / "out" / "below"))
    assert not (tmp_path / "out").exists()
    extract_all(catalog, specs, options(tmp_path / "halved", dtype="float16"))
    extract_all(catalog, specs, options(tmp_path / "vectors", top_blocks=None))
    room = 0
    assert all(
        report.unchanged for report in extract_all(catalog, specs, options(tmp_path / "halved", dtype="float16"))
    )


@pytest.mark.parametrize("name", ["resnet-tiny", "minilm-tiny"])
def test_a_disk_that_fills_up_meanwhile_leaves_no_file(
    tmp_path: Path, catalog: Catalog, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = FeatureFile(extract(catalog, ENCODERS[name], options(tmp_path / "unbroken")).path).vectors_sha256
    room = 3

    def fill(path: Path) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync_file(path)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("features.layout.fsync_file", fill)
        with pytest.raises(StoreError, match=r"cannot write .*No space left on device.*free some disk space"):
            extract(catalog, ENCODERS[name], options(out))
    assert not list(out.glob("*.h5"))
    again = extract(catalog, ENCODERS[name], options(out))
    assert FeatureFile(again.path).vectors_sha256 == expected


def test_shards_of_large_rows_are_small(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "SHARD_BYTES", 5 * 4 * 16 * 256)
    specs = [ENCODERS["resnet-tiny"], ENCODERS["minilm-tiny"]]
    for batch, shard, expected in ((2, 256, 4), (3, 256, 3), (9, 256, 5), (2, 3, 3)):
        works = prepare_all(catalog, specs, options(tmp_path, batch_size=batch, shard_size=shard))
        assert [one.options.shard_size for one in works] == [expected] * 2
    (vectors,) = prepare_all(catalog, specs[:1], options(tmp_path, top_blocks=None, shard_size=256))
    assert vectors.options.shard_size == 256


@pytest.mark.parametrize(
    ("name", "faults", "said"),
    [
        ("resnet-tiny", ("microlens",), "fault 'batch-norm' BatchNorm normalises by the batch at hand; leave out"),
        ("slowfast-tiny", ("batch-norm",), "--top-blocks 1 cannot store exact activations of 'slowfast-tiny'"),
        ("vit-mae-tiny", ("microlens",), "fault 'random-mask' the patches an item shows depend on its place"),
    ],
)
def test_what_depends_on_the_batch_is_refused(
    tmp_path: Path, catalog: Catalog, name: str, faults: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        extract(catalog, ENCODERS[name], options(tmp_path / "out", faults=faults))
    assert not (tmp_path / "out").exists()


def test_harmless_faults_can_be_cut(tmp_path: Path, catalog: Catalog) -> None:
    report = extract(catalog, ENCODERS["resnet-tiny"], options(tmp_path, faults=("squash", "half-norm")))
    assert report.path.name.startswith("toy.resnet-tiny-microlens-top1.")


def test_only_the_items_asked_for(tmp_path: Path, catalog: Catalog) -> None:
    spec = ENCODERS["resnet-tiny"]
    some = catalog.only(["4", "0", "3"])
    report = extract(some, spec, options(tmp_path))
    assert FeatureFile(report.path).columns.ids == ("0", "3", "4")
    more = extract(catalog.only(["0", "3", "4", "6"]), spec, options(tmp_path))
    assert (more.path, more.new_rows) == (report.path, 1)
    with pytest.raises(ConfigError, match="holds 3 items that --items leaves out, first '3'; name them too"):
        extract(catalog.only(["0"]), spec, options(tmp_path))
    assert FeatureFile(report.path).columns.ids == ("0", "3", "4", "6")
    assert extract(catalog, spec, options(tmp_path)).new_rows == 3
    with pytest.raises(ConfigError, match="2 of 3 items to extract are not in dataset 'toy', first '77'"):
        catalog.only(["1", "77", "x"])
    with pytest.raises(ConfigError, match="the list of items to extract from dataset 'toy' is empty; list some ids"):
        catalog.only([])


def test_half_precision_is_another_recipe(tmp_path: Path, catalog: Catalog) -> None:
    spec = ENCODERS["clip-tiny-image"]
    whole, half = (extract(catalog, spec, options(tmp_path, precision=kind)) for kind in ("float32", "bf16"))
    assert whole.path != half.path
    difference = np.abs(rows(whole) - rows(half)).max()
    assert 0 < difference < 0.1 * np.abs(rows(whole)).max()


def test_command_line(tmp_path: Path, catalog: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    cover = catalog.items[0].cover
    assert isinstance(cover, Path)
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"{item},a title\n" for item in IDS))
    (tmp_path / "interactions.tsv").write_text("user\titem\ttimestamp\nu\t0\t1\nu\t1\t2\n")
    (tmp_path / "list.txt").write_text("1\n0\n\n1\n")
    line = ["extract", "--data", str(tmp_path), "--covers", str(cover.parent), "--encoders", "resnet-tiny"]
    line += ["--weights", "random", "--out", str(tmp_path / "f"), "--top-blocks", "1", "--device", "cpu"]
    assert run_pipeline.main([*line, "--items", str(tmp_path / "list.txt")]) == 0
    assert "resnet-tiny: 2 items x 16 tokens x 256 numbers x 4 bytes = 32.8 kB; free in" in capsys.readouterr().out
    (path,) = (tmp_path / "f").glob("*.h5")
    assert FeatureFile(path).columns.ids == ("0", "1")
    assert FeatureFile(path).dtype == np.float32
    for words in (["--top-blocks", "5"], ["--items", str(tmp_path / "none.txt")], ["--dtype", "float8"]):
        assert run_pipeline.main([*line, *words]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len([text for text in said if text.startswith("error: ")]) == 1
