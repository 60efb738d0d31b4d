"""Files of decoded frames and covers: made like any feature file, read by h5py, merged."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import run_pipeline
from extract.encoders.faults import with_faults
from extract.encoders.inputs import PixelInput
from extract.encoders.preprocess import crop, normalise, preprocess
from extract.encoders.registry import ENCODERS
from extract.jobs import extractor
from extract.jobs.extractor import extract, extract_all, prepare_all
from extract.jobs.farm import Order, work
from extract.media.catalog import Catalog
from extract.media.decoders import DECODING
from features.errors import ConfigError, StoreError
from features.export import export_features
from features.inspect import inspect_features
from features.merge import merge
from features.provenance import Provenance
from features.store import FeatureFile, FeatureRows, State, write_features
from pipelines.retrieval.retrieve import similar
from tests.support.media import pictures, write_cover
from tests.support.pixel_files import BAD, COUNT, GOOD, SPEC, decoded, made, options, source, subset, write_media


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return write_media(tmp_path_factory.mktemp("media"), [str(number) for number in range(COUNT)], broken=BAD)


# Preprocessing in two steps.


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        *((name, ()) for name in ("videomae-base", "clip-vit-b-32-image", "resnet50", "videomae-tiny")),
        *((name, ("squash",)) for name in ("videomae-base", "resnet50")),
        ("resnet50", ("half-norm",)),
        ("videomae-base", ("wrap",)),
    ],
)
def test_cropped_and_normalised_is_preprocessed_of_rounded(name: str, faults: tuple[str, ...]) -> None:
    inputs = with_faults(ENCODERS[name], faults).inputs
    assert isinstance(inputs, PixelInput)
    frames = pictures(9, size=(90, 140))
    pixels = crop(frames, inputs)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (9, inputs.size, inputs.size, 3))
    assert torch.equal(crop(frames[3], inputs), pixels[3])
    exact, rounded = preprocess(frames, inputs), normalise(pixels, inputs)
    assert rounded.shape == exact.shape
    assert rounded.stride() == exact.stride()
    if faults == ("wrap",):  # which rounds by itself
        assert torch.equal(rounded, exact)
    else:
        half = 0.5 / 255 / torch.tensor(inputs.std)[:, None, None]  # a level
        assert bool(((rounded - exact).abs() <= 1.001 * half).all())
        assert not torch.equal(rounded, exact)


def test_pixels_that_need_no_resizing_are_the_very_pixels() -> None:
    inputs = SPEC["video"].inputs
    assert isinstance(inputs, PixelInput)
    frames = pictures(4, size=(64, 64))
    assert torch.equal(crop(frames, inputs), torch.from_numpy(frames))
    assert torch.equal(normalise(torch.from_numpy(frames), inputs), preprocess(frames, inputs))


# The file.


@pytest.mark.parametrize("media", ["video", "cover"])
def test_a_file_holds_what_the_encoder_sees(media: str, tmp_path: Path, catalog: Catalog) -> None:
    file = made(tmp_path, catalog, media)
    inputs = SPEC[media].inputs
    assert isinstance(inputs, PixelInput)
    assert file.shape == (COUNT + 1, 4 if media == "video" else 1, 64, 64, 3)
    assert file.path.name.startswith({"video": "toy.video-uniform4-64px.", "cover": "toy.cover-64px."}[media])
    assert file.counts() == {"done": 6, "missing": 1, "failed": 1}
    with h5py.File(file.path) as handle:  # as docs/feature-files.md tells
        assert (handle.attrs["format_version"], handle["vectors"].dtype) == (3, np.uint8)
        assert handle["vectors"].chunks is None
        ids = list(handle["ids"].asstr()[:])
        for item in GOOD:
            pixels = crop(decoded(catalog, item, media), inputs).numpy()
            assert np.array_equal(handle["vectors"][ids.index(item)], pixels.reshape(file.shape[1:]))
        assert not handle["vectors"][ids.index(BAD)].any()
        assert handle["states"][ids.index(BAD)] == State.FAILED
    file.verify()
    recipe = dict(file.provenance.recipe)
    assert recipe.pop("pixels") == {
        "media": media,
        "size": 64,
        "mode": "crop",
        "resize": 64,
        "interpolation": inputs.interpolation,
        "frames": "uniform:4" if media == "video" else None,
    }
    decoded_by = {"decoder": "auto", "decoding": DECODING} if media == "video" else {"decoder": "covers 2"}
    assert recipe == {"dtype": "uint8"} | decoded_by
    assert file.provenance.weights_sha256 == ""
    plain = extract(catalog, SPEC[media], options(tmp_path, pixels=False))
    assert FeatureFile(plain.path).columns.digests == file.columns.digests
    assert FeatureFile(plain.path).columns.stamps == file.columns.stamps
    assert FeatureFile(plain.path).columns.reasons == file.columns.reasons


def test_encoders_of_one_contract_share_a_file(tmp_path: Path, catalog: Catalog) -> None:
    names = ["videomae-tiny", "r3d-tiny", "resnet-tiny", "resnet50-tiny", "clip-tiny-image"]
    reports = extract_all(catalog, [ENCODERS[name] for name in names], options(tmp_path))
    assert [report.encoder for report in reports] == ["video-uniform4-64px", "cover-64px", "cover-64px"]
    assert len({report.path for report in reports}) == 3
    contracts = [FeatureFile(report.path).provenance.recipe["pixels"] for report in reports]
    assert [contract["interpolation"] for contract in contracts] == ["bilinear", "bilinear", "bicubic"]
    again = extract(catalog, ENCODERS["resnet50-tiny"], options(tmp_path))
    assert again.unchanged
    assert again.path == reports[1].path


def test_broken_off_and_with_other_workers_the_bytes_are_the_same(tmp_path: Path, catalog: Catalog) -> None:
    def stop(done: int, total: int, failed: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    specs, hashes = list(SPEC.values()), []
    for way in ("at once", "broken off", "worker"):
        run = options(tmp_path / way)
        if way == "broken off":
            with pytest.raises(KeyboardInterrupt):
                extract_all(catalog, specs, run, progress=stop)
            assert list(run.out.glob("*.shards/*.h5"))
        if way == "worker":
            assert work(Order(catalog, ("videomae-tiny", "resnet-tiny"), run)) == 0
        reports = extract_all(catalog, specs, run)
        assert (sum(report.new_rows for report in reports) == 16) == (way == "at once")
        hashes.append([FeatureFile(report.path).vectors_sha256 for report in reports])
    assert hashes[0] == hashes[1] == hashes[2]


def test_a_source_that_changed_is_decoded_again(tmp_path: Path) -> None:
    catalog = write_media(tmp_path / "media", ["0", "1", "2"])
    before = np.array(made(tmp_path, catalog, "cover").mapped())
    write_cover(source(catalog, "1", "cover"), kind=4, size=(90, 90))
    report = extract(catalog, SPEC["cover"], options(tmp_path))
    assert report.new_rows == 1
    after = FeatureFile(report.path).mapped()
    assert [bool((one != two).any()) for one, two in zip(before, after, strict=True)] == [False, True, False, False]


def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = list(SPEC.values())
    video, cover = (COUNT + 1) * 4 * 64 * 64 * 3, (COUNT + 1) * 64 * 64 * 3
    room = 2 * video + cover
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=room))
    lines: list[str] = []
    prepare_all(catalog, specs, options(tmp_path / "enough"), tell=lines.append)
    assert lines[0].startswith(
        "video-uniform4-64px: 8 items x 4 frames x 64 x 64 pixels x 3 bytes = 393.2 kB; free in "
    )
    assert lines[1].startswith("cover-64px: 8 items x 1 frames x 64 x 64 pixels x 3 bytes = 98.3 kB; free")
    room -= 1
    with pytest.raises(StoreError, match=r"need 884.7 kB at once\. Use another --out, --items .*, or fewer --frames"):
        extract_all(catalog, specs, options(tmp_path / "out" / "below"))
    assert not (tmp_path / "out").exists()


def test_shards_are_held_in_memory(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "SHARD_BYTES", 5 * 4 * 64 * 64 * 3)
    (one,) = prepare_all(catalog, [SPEC["video"]], options(tmp_path, shard_size=256))
    assert one.options.shard_size == 4  # whole batches of 2


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("minilm-tiny", {}, "encoder 'minilm-tiny' reads titles, which have no pixels; leave it out of --pixels"),
        ("resnet-tiny", {"top_blocks": 1}, "--top-blocks and --pixels each say what is stored; give one of them"),
        ("resnet-tiny", {"layers": "all"}, "--layers and --pixels each say what is stored"),
        ("resnet-tiny", {"precision": "bf16"}, "--pixels runs no encoder, which --precision bf16 is for"),
        ("resnet-tiny", {"compile": True}, "--pixels runs no encoder, which --compile is for"),
        ("resnet-tiny", {"faults": ("squash",)}, "--pixels runs no encoder, which --faults squash is for"),
    ],
)
def test_what_pixels_have_not_is_refused(
    name: str, changes: dict[str, Any], said: str, tmp_path: Path, catalog: Catalog
) -> None:
    with pytest.raises(ConfigError, match=said):
        extract(catalog, ENCODERS[name], options(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_the_doctor_says_what_it_is(tmp_path: Path, catalog: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    video, cover = (made(tmp_path, catalog, media) for media in ("video", "cover"))
    assert inspect_features(video)["verdict"] == (
        "look at it: only 6 of 8 items have pixels, 4 frames of 64 x 64 (`inspect` lists the reasons)"
    )
    found = inspect_features(FeatureFile(subset(cover, tmp_path / "some.h5", GOOD)))
    assert found["verdict"] == "sound: 6 of 6 items have pixels, one frame of 64 x 64"
    assert "effective_rank" not in found
    assert run_pipeline.main(["features", "inspect", str(video.path)]) == 0
    assert "uniform:4" in capsys.readouterr().out
    assert run_pipeline.main(["features", "verify", str(video.path)]) == 0
    raw = bytearray(video.path.read_bytes())
    raw[raw.find(video.mapped()[1].tobytes())] ^= 1
    video.path.write_bytes(raw)
    assert run_pipeline.main(["features", "verify", str(video.path)]) == 2
    with pytest.raises(StoreError, match="holds pixels, and only vectors are exported"):
        export_features(cover, tmp_path / "folder")
    with pytest.raises(StoreError, match=r"holds activations or pixels of shape .*; give a file of vectors"):
        similar(cover, "0", 3)


def test_parts_are_merged(tmp_path: Path, catalog: Catalog) -> None:
    file = made(tmp_path, catalog, "cover")
    one, two = (FeatureFile(subset(file, tmp_path / f"{ids[0]}.h5", ids)) for ids in (["4", "0"], ["1", BAD]))
    merge(tmp_path / "m.h5", {"0": one, BAD: two, "1": two, "4": one}, file.provenance)
    merged = FeatureFile(tmp_path / "m.h5")
    merged.verify()
    assert np.array_equal(merged.mapped(), file.mapped()[file.rows(["0", BAD, "1", "4"])])


def test_rows_that_are_no_pixels_are_refused(tmp_path: Path) -> None:
    def rows(pixels: Any, states: list[int]) -> FeatureRows:
        return FeatureRows(["a", "b"], pixels, np.array(states, np.uint8), [""] * 2, [""] * 2, [""] * 2)

    for shape in ((2, 8), (2, 3, 8), (2, 1, 4, 4), (2, 1, 4, 4, 4), (2, 0, 4, 4, 3)):
        with pytest.raises(StoreError, match=r"pixels are of shape .*; give \(I, T, H, W, 3\)"):
            rows(np.zeros(shape, np.uint8), [0, 0])
    pixels = np.full((2, 1, 4, 4, 3), 9, np.uint8)
    for dtype in (None, "uint8"):
        write_features(tmp_path / "f.h5", rows(pixels, [0, 2]), Provenance("toy", {}), dtype=dtype)
        assert FeatureFile(tmp_path / "f.h5").mapped().sum(axis=(1, 2, 3, 4)).tolist() == [9 * 48, 0]
    with pytest.raises(StoreError, match="vectors are uint8; give float32 to store them as float16"):
        write_features(tmp_path / "f.h5", rows(pixels, [0, 0]), Provenance("toy", {}), dtype="float16")
    with pytest.raises(ConfigError, match="dtype 'uint8' cannot be stored"):
        write_features(
            tmp_path / "f.h5", rows(np.zeros((2, 4), np.float32), [0, 0]), Provenance("toy", {}), dtype="uint8"
        )
