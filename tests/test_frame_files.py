"""Files of decoded frames and covers: made like any feature file, read by h5py, extracted from, and trained on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import run_pipeline
from extract import extractor, pixel_media
from extract.catalog import Catalog, build_catalog
from extract.decoders import read_auto, read_cover
from extract.encoder import PixelInput
from extract.encoders import ENCODERS
from extract.extractor import extract, extract_all, prepare_all
from extract.farm import Order, work
from extract.faults import with_faults
from extract.frames import parse_frame_policy
from extract.options import ExtractOptions
from extract.preprocess import crop, normalise, preprocess
from features.errors import ConfigError, StoreError
from features.export import export_features
from features.inspect import inspect_features
from features.merge import merge
from features.provenance import Provenance
from features.store import FeatureFile, FeatureRows, State, write_features
from pipelines.experiment import open_run, run_recipe
from pipelines.media import StoredPixels
from pipelines.retrieve import similar
from tests.media import pictures, write_clip, write_cover
from tests.small import item_ids, recipe, small_dataset, write_vectors
from tests.test_towers_runs import losses, trained, without_key_bias

COUNT, BAD = 7, "2"
GOOD = [str(number) for number in range(COUNT) if str(number) != BAD]
SPEC = {"video": ENCODERS["videomae-tiny"], "cover": ENCODERS["resnet-tiny"]}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return write_media(tmp_path_factory.mktemp("media"), [str(number) for number in range(COUNT)], broken=BAD)


def write_media(folder: Path, ids: list[str], *, broken: str = "") -> Catalog:
    for place in ("videos", "covers"):
        (folder / place).mkdir(parents=True)
    for kind, item in enumerate(ids):
        write_clip(folder / "videos" / f"{item}.mp4", pictures(12, size=(80, 120), kind=kind))
        write_cover(folder / "covers" / f"{item}.png", kind=kind, size=(100, 70))
    if broken:
        for path in (folder / "videos" / f"{broken}.mp4", folder / "covers" / f"{broken}.png"):
            path.write_bytes(b"")
    return build_catalog("toy", [*ids, "nothing"], videos=folder / "videos", covers=folder / "covers")


def options(out: Path, **changes: Any) -> ExtractOptions:
    run = ExtractOptions(
        out, weights="random", dtype="float32", pixels=True, batch_size=2, shard_size=3, max_failed=0.5
    )
    return replace(run, **changes)


def made(out: Path, catalog: Catalog, media: str, **changes: Any) -> FeatureFile:
    return FeatureFile(extract(catalog, SPEC[media], options(out, **changes)).path)


def source(catalog: Catalog, item: str, media: str) -> Path:
    entry = next(entry for entry in catalog.items if entry.id == item)
    path = entry.video if media == "video" else entry.cover
    assert isinstance(path, Path)
    return path


def decoded(catalog: Catalog, item: str, media: str) -> np.ndarray[Any, Any]:
    path = source(catalog, item, media)
    if media == "cover":
        return read_cover(path)
    policy = SPEC["video"].frames
    assert policy is not None
    return read_auto(path, policy).frames


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
    assert file.path.name.startswith(f"toy.{media}-64px.")
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
    assert recipe == {"dtype": "uint8", "decoder": "auto" if media == "video" else None}
    assert file.provenance.weights_sha256 == ""
    plain = extract(catalog, SPEC[media], options(tmp_path, pixels=False))
    assert FeatureFile(plain.path).columns.digests == file.columns.digests
    assert FeatureFile(plain.path).columns.stamps == file.columns.stamps
    assert FeatureFile(plain.path).columns.reasons == file.columns.reasons


def test_encoders_of_one_contract_share_a_file(tmp_path: Path, catalog: Catalog) -> None:
    names = ["videomae-tiny", "r3d-tiny", "resnet-tiny", "resnet50-tiny", "clip-tiny-image"]
    reports = extract_all(catalog, [ENCODERS[name] for name in names], options(tmp_path))
    assert [report.encoder for report in reports] == ["video-64px", "cover-64px", "cover-64px"]
    assert len({report.path for report in reports}) == 3
    contracts = [FeatureFile(report.path).provenance.recipe["pixels"] for report in reports]
    assert [contract["interpolation"] for contract in contracts] == ["bilinear", "bilinear", "bicubic"]
    again = extract(catalog, ENCODERS["resnet50-tiny"], options(tmp_path))
    assert again.unchanged
    assert again.path == reports[1].path


def test_broken_off_and_with_other_workers_the_bytes_are_the_same(tmp_path: Path, catalog: Catalog) -> None:
    def stop(done: int, total: int) -> None:
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
    assert lines[0].startswith("video-64px: 8 items x 4 frames x 64 x 64 pixels x 3 bytes = 393.2 kB; free in ")
    assert lines[1].startswith("cover-64px: 8 items x 1 frames x 64 x 64 pixels x 3 bytes = 98.3 kB; free in ")
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


def subset(file: FeatureFile, path: Path, ids: list[str], **changes: Any) -> Path:
    """Write some rows of a file of pixels; `changes` replace parts of the provenance."""
    rows = file.rows(ids).tolist()
    texts = [[getattr(file.columns, name)[row] for row in rows] for name in ("reasons", "stamps", "digests")]
    vectors = np.array(file.mapped()[rows])
    write_features(
        path, FeatureRows(ids, vectors, file.columns.states[rows], *texts), replace(file.provenance, **changes)
    )
    return path


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


# As media for extraction.


def from_pixels(catalog: Catalog, file: FeatureFile, media: str) -> Catalog:
    ids = [item.id for item in catalog.items]
    return build_catalog("toy", ids, **{f"{media}s": file.path})  # type: ignore[arg-type]


@pytest.mark.parametrize("media", ["video", "cover"])
def test_vectors_of_stored_pixels_are_those_of_the_pixels(media: str, tmp_path: Path, catalog: Catalog) -> None:
    inputs = SPEC[media].inputs
    assert isinstance(inputs, PixelInput)
    inputs = replace(inputs, resize=72)  # what is stored must not be resized and cropped once more
    spec = replace(SPEC[media], inputs=inputs)
    file = FeatureFile(extract(catalog, spec, options(tmp_path)).path)
    stored = from_pixels(catalog, file, media)
    assert stored.count_missing()[media] == 1  # type: ignore[index]
    run = options(tmp_path, pixels=False)
    report, plain = extract(stored, spec, run), extract(catalog, spec, run)
    encoder = spec.backend(spec, "random", 0)
    with torch.inference_mode():
        pixels = torch.stack([crop(decoded(catalog, item, media), inputs) for item in GOOD])
        expected = encoder(normalise(pixels, inputs)).numpy()
    got = FeatureFile(report.path).read(GOOD)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(got, FeatureFile(plain.path).read(GOOD), rtol=1e-4, atol=1e-5)  # rounding is seen
    assert report.bad == plain.bad
    recipe = dict(FeatureFile(report.path).provenance.recipe)
    assert (recipe.pop("stored"), recipe.pop("stored_fingerprint")) == ("pixels", file.provenance.fingerprint)
    assert recipe == FeatureFile(plain.path).provenance.recipe | {"decoder": None}
    assert extract(stored, spec, run).unchanged


def test_rows_whose_pixels_changed_are_made_again(tmp_path: Path) -> None:
    catalog = write_media(tmp_path / "media", ["0", "1", "2"])
    run = options(tmp_path, pixels=False)
    file = made(tmp_path, catalog, "cover")
    extract(from_pixels(catalog, file, "cover"), SPEC["cover"], run)
    write_cover(source(catalog, "1", "cover"), kind=4, size=(90, 90))
    old = from_pixels(catalog, file, "cover")
    again = made(tmp_path, catalog, "cover")
    assert again.path == file.path
    pixel_media._mapped.cache_clear()  # as in a worker that has not read from it yet
    with pytest.raises(StoreError, match=r"was replaced while it was read; run `extract` again"):
        extract(old, SPEC["cover"], replace(run, out=tmp_path / "elsewhere"))
    report = extract(from_pixels(catalog, again, "cover"), SPEC["cover"], run)
    assert report.new_rows == 1


def test_another_contract_is_refused_with_both_values(tmp_path: Path, catalog: Catalog) -> None:
    file = made(tmp_path, catalog, "video")
    stored, run = from_pixels(catalog, file, "video"), options(tmp_path / "out", pixels=False)
    for name, changes, said in (
        ("videomae-tiny", {"frames": parse_frame_policy("middle:2")}, r"\(frames uniform:4, not middle:2\)"),
        ("slowfast-tiny", {}, r"frames uniform:4, not uniform:8"),
        ("videomae-tiny", {"faults": ("squash",)}, r"\(mode crop, not stretch; resize 64, not None\)"),
    ):
        with pytest.raises(
            ConfigError, match=rf"that encoder '{name}' does not take {said if '(' in said else '.*' + said}"
        ):
            extract(stored, ENCODERS[name], replace(run, **changes))
    with pytest.raises(
        ConfigError, match=r"is a feature file of pixels of videos; as covers it must hold their pixels"
    ):
        build_catalog("toy", None, covers=file.path)
    vectors = write_vectors(tmp_path / "vectors.h5", "toy", ["0"])
    with pytest.raises(ConfigError, match=r"is a feature file of vectors; as videos it must .*`extract --pixels`"):
        build_catalog("toy", None, videos=vectors)
    with pytest.raises(StoreError, match="belongs to dataset 'toy', not 'other'"):
        build_catalog("other", None, videos=file.path)
    assert not (tmp_path / "out").exists()


# As media for training.


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
        r"video-64px\..* holds pixels that encoder 'slowfast-tiny' does not take \(.*frames uniform:4, not uniform:8\)",
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
    foreign = subset(FeatureFile(cover), tmp_path / "foreign.h5", item_ids(), dataset="other")
    refused(data, changes("e2e", "resnet-tiny", foreign), r"belongs to dataset 'other', not 'small'")


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
        (["--covers", str(stored["videomae-tiny"])], "is a feature file of pixels of videos; as covers"),
    ):
        capsys.readouterr()
        assert run_pipeline.main([*line, *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert said in lines[0]
    assert not (tmp_path / "out").exists()
