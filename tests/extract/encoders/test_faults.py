"""The benchmark's faults: each does what the released code does, none gets in unasked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from extract.encoders.encoder import Encoder
from extract.encoders.faults import FAULTS, with_faults
from extract.encoders.inputs import PixelInput
from extract.encoders.preprocess import preprocess
from extract.encoders.registry import ENCODERS
from extract.encoders.spec import EncoderSpec
from extract.jobs.extractor import extract
from extract.jobs.options import ExtractOptions
from extract.media.catalog import build_catalog
from extract.media.frames import FramePolicy, frame_indices, parse_frame_policy
from features.errors import ConfigError, MediaError
from features.provenance import fingerprint
from features.store import FeatureFile
from run_pipeline import main
from tests.support.library_models import stock_model
from tests.support.media import pictures, write_clip, write_cover

TINY = [name for name, spec in ENCODERS.items() if spec.weights is None]
ONE_BY_ONE = [
    (name, fault)
    for name in TINY
    for fault, entry in FAULTS.items()
    if entry.concerns(ENCODERS[name]) and "mvit" not in name
]


def build(spec: EncoderSpec) -> Encoder:
    return spec.backend(spec, "random", 0)


def clips(spec: EncoderSpec, count: int = 3) -> Tensor:
    """Return a batch of different clips or covers as the entry wants them."""
    assert isinstance(spec.inputs, PixelInput)
    frames = [pictures(spec.frames.count if spec.frames else 1, kind=kind) for kind in range(count)]
    return torch.stack([preprocess(f if spec.frames else f[0], spec.inputs) for f in frames])


def vectors(encoder: Encoder, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        return encoder(batch)


# Frames.


def stored_frames(total: int, wanted: int, interval: int) -> list[int]:
    """What the released script's counter stores: it starts at 1, grows before it is compared, and counts the read."""
    middle = total // 2
    asked = {middle + (place - wanted // 2) * interval for place in range(wanted)}
    counter, stored = 1, []
    for frame in range(total):
        counter += 1  # after the first read
        if counter in asked:
            stored.append(frame)
    return stored


@pytest.mark.parametrize(("count", "stride"), [(5, 1), (5, 5), (5, 25), (1, 1), (9, 2)])
def test_frames_are_those_the_script_stores(count: int, stride: int) -> None:
    policy = FramePolicy("microlens", count, stride)
    short = 0
    for total in range(1, 301):
        stored = stored_frames(total, count, stride)
        if len(stored) == count:
            assert frame_indices(policy, total).tolist() == stored, total
        else:
            short += 1
            with pytest.raises(MediaError, match=rf"has {total} frames; the benchmark's script needs"):
                frame_indices(policy, total)
    assert 0 < short < 300


def test_the_papers_five_frames() -> None:
    assert frame_indices(FramePolicy("microlens", 5), 100).tolist() == [46, 47, 48, 49, 50]
    assert str(parse_frame_policy("microlens:5x3")) == "microlens:5x3"
    with pytest.raises(ConfigError, match="'microlens' takes an odd number"):
        parse_frame_policy("microlens:4")


# Pixels.


def test_pixels_wrap_as_a_uint8_cast_does() -> None:
    """The float pipeline, step by step: to [-1, 1], times 255, cast to bytes, normalised again."""
    spec = with_faults(ENCODERS["videomae-tiny"], ["wrap"])
    assert isinstance(spec.inputs, PixelInput)
    ramp = np.arange(256, dtype=np.uint8)
    image = np.broadcast_to(ramp[:64, None, None], (64, 64, 3)).copy()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for start in range(0, 256, 64):
        pixels = image + np.uint8(start)
        once = (pixels / 255 - 0.5) / 0.5
        again = np.round(once * 255).astype(np.int64).astype(np.uint8)
        expected = ((again / 255 - mean) / std).transpose(2, 0, 1)
        np.testing.assert_allclose(preprocess(pixels, spec.inputs).numpy(), expected, atol=1e-5)


def test_squash_presses_the_whole_frame() -> None:
    spec = with_faults(ENCODERS["videomae-base"], ["squash"])
    assert isinstance(spec.inputs, PixelInput)
    wide = np.zeros((100, 400, 3), np.uint8)
    wide[:, :200] = 255
    made = preprocess(wide, spec.inputs)
    assert made.shape == (3, 224, 224)
    assert made[0, 0, 0] > made[0, 0, -1]
    clean = preprocess(wide, ENCODERS["videomae-base"].inputs)  # type: ignore[arg-type]
    assert (clean[0, :, 60] != made[0, :, 60]).any() or clean.shape == made.shape
    assert with_faults(ENCODERS["r3d-r18"], ["squash"]).inputs.size == 224  # type: ignore[union-attr]


# Encoders.


@pytest.mark.parametrize(("name", "fault"), ONE_BY_ONE, ids=[f"{name}-{fault}" for name, fault in ONE_BY_ONE])
def test_every_fault_changes_vectors_or_frames_and_the_recipe(name: str, fault: str) -> None:
    clean, faulty = ENCODERS[name], with_faults(ENCODERS[name], [fault])
    if "videomae" in name and fault in ("dropped-frame", "five-frames"):  # 5 frames go with a dropped one only
        faulty = with_faults(faulty, ["dropped-frame" if fault == "five-frames" else "five-frames"])
    one, two = build(clean), build(faulty)
    assert one.recipe() != two.recipe()
    assert fault in two.recipe()["faults"]
    assert fault in two.warning
    assert fault not in one.warning
    if fault == "five-frames":
        assert two.spec.frames == FramePolicy("microlens", 5)
    first, second = vectors(one, clips(clean)), vectors(two, clips(faulty))
    assert second.shape == (3, two.width)
    assert torch.isfinite(second).all()
    if first.shape == second.shape and fault not in ("dropped-frame", "five-frames"):
        assert not torch.equal(first, second)


@pytest.mark.parametrize("name", [name for name in TINY if FAULTS["class-scores"].concerns(ENCODERS[name])])
def test_class_scores_are_the_librarys_own(name: str) -> None:
    if "mvit" in name:
        pytest.skip("does not run in the released code")
    encoder = build(with_faults(ENCODERS[name], ["class-scores"]))
    batch = clips(encoder.spec)
    pooled = vectors(build(ENCODERS[name]), batch)
    torch.manual_seed(0)
    model: Any = stock_model(name).eval()
    head = model.blocks[-1].proj
    with torch.inference_mode():
        scores = head(pooled)
        scores = scores.softmax(1) if "r3d50" in name else scores
    assert encoder.width == 400
    torch.testing.assert_close(vectors(encoder, batch), scores, rtol=1e-4, atol=1e-5)


def test_videomae_is_what_a_fresh_config_of_five_frames_gives() -> None:
    """As the released script builds it: VideoMAEConfig(num_frames=5) with its defaults, mean over all tokens."""
    from transformers import VideoMAEConfig, VideoMAEModel

    spec = with_faults(ENCODERS["videomae-tiny"], ["microlens"])
    encoder = build(spec)
    arch = {key: value for key, value in spec.arch.items() if key != "use_mean_pooling"}
    torch.manual_seed(0)
    model = VideoMAEModel(VideoMAEConfig(**arch, num_frames=5)).eval()
    assert model.layernorm is None
    model.load_state_dict(encoder.model.state_dict())
    batch = clips(spec)
    assert batch.shape[1] == 5
    with torch.inference_mode():
        states = model(pixel_values=batch).last_hidden_state
    assert states.shape[1] == 2 * (64 // 16) ** 2
    torch.testing.assert_close(vectors(encoder, batch), states.mean(1))
    changed = batch.clone()
    changed[:, 4] += 1
    assert torch.equal(vectors(encoder, changed), vectors(encoder, batch)), "the fifth frame is dropped"


@pytest.mark.slow
def test_videomae_base_has_392_tokens() -> None:
    spec = with_faults(ENCODERS["videomae-base"], ["microlens"])
    encoder = build(spec)
    model: Any = encoder.model
    with torch.inference_mode():
        states = model(pixel_values=clips(spec, 1)).last_hidden_state
    assert states.shape == (1, 392, 768)


@pytest.mark.parametrize("name", ["slowfast-tiny", "csn-tiny", "r3d-tiny", "resnet-tiny"])
def test_with_batch_norm_a_vector_depends_on_its_company(name: str) -> None:
    clean, faulty = build(ENCODERS[name]), build(with_faults(ENCODERS[name], ["batch-norm"]))
    batch = clips(ENCODERS[name], 4)
    torch.testing.assert_close(vectors(clean, batch)[:2], vectors(clean, batch[:2]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(vectors(faulty, batch)[:2], vectors(faulty, batch[:2]), rtol=1e-2, atol=1e-3)
    assert torch.equal(vectors(faulty, batch), vectors(faulty, batch)), "running statistics carry nothing over"
    norm = next(m for m in faulty.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    assert norm.training
    assert torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))  # type: ignore[arg-type]


def test_a_random_mask_repeats_from_run_to_run() -> None:
    spec = with_faults(ENCODERS["vit-mae-tiny"], ["random-mask"])
    batch = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    first = vectors(build(spec), batch)
    assert torch.equal(first, vectors(build(spec), batch))
    assert not torch.equal(first[0], first[1])  # the same cover twice, other patches


# Choosing.


def test_clean_recipes_hold_the_keys_they_always_held() -> None:
    recipe = build(ENCODERS["slowfast-tiny"]).recipe()
    known = "arch encoder frames inputs modality pooling precision seed tokenizer weights weights_sha256 width"
    assert " ".join(sorted(recipe)) == known
    assert sorted(recipe["inputs"]) == ["interpolation", "mean", "mode", "resize", "size", "std"]
    assert all(spec.faults == () for spec in ENCODERS.values())


@pytest.mark.parametrize(
    ("name", "faults", "expected"),
    [
        ("slowfast-tiny", [], "eb20143194c97458"),
        ("slowfast-tiny", ["microlens"], "c68188d1865621eb"),
        ("resnet-tiny", [], "253994f09ab5d76e"),
        ("resnet-tiny", ["microlens"], "90951f4a091d2c20"),
    ],
)
def test_fingerprints_are_those_from_before_entries_had_a_family(name: str, faults: list[str], expected: str) -> None:
    """The weights' hash is left out: another version of torch may draw other random weights."""
    spec = with_faults(ENCODERS[name], faults)
    recipe = build(spec).recipe()
    assert fingerprint(recipe | {"weights_sha256": ""})[:16] == expected
    assert build(replace(spec, family="another")).recipe() == recipe


def test_faults_go_by_the_family_and_not_by_the_backend() -> None:
    spec = ENCODERS["slowfast-tiny"]
    wrapped = replace(spec, backend=lambda *arguments: spec.backend(*arguments))
    assert with_faults(wrapped, ["microlens"]).faults == with_faults(spec, ["microlens"]).faults
    assert with_faults(replace(spec, family="another"), ["microlens"]).faults == ("five-frames", "squash", "wrap")


def test_microlens_means_all_that_concern_an_encoder() -> None:
    found = {
        name: with_faults(ENCODERS[name], ["microlens"]).faults for name in ("videomae-base", "resnet50", "bert-base")
    }
    assert found["videomae-base"] == ("five-frames", "squash", "wrap", "dropped-frame", "no-last-norm")
    assert found["resnet50"] == ("squash", "half-norm", "batch-norm")
    assert found["bert-base"] == ()


@pytest.mark.parametrize(
    ("name", "faults", "message"),
    [
        ("videomae-tiny", ["wrapp"], "fault 'wrapp' is unknown; did you mean 'wrap'"),
        (
            "videomae-tiny",
            ["class-scores"],
            "does not concern 'videomae-tiny'; those that do: five-frames, squash, wrap",
        ),
        ("minilm-tiny", ["foo"], "fault 'foo' is unknown"),
        ("minilm-tiny", ["wrap"], "'wrap' does not concern 'minilm-tiny'; titles are the same in both recipes"),
        ("mvit-b-16x4", ["microlens"], "'mvit-b-16x4' does not run in the benchmark's released code.*--recipe clean"),
    ],
)
def test_faults_that_cannot_be_are_refused(name: str, faults: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_faults(ENCODERS[name], faults)


@pytest.mark.parametrize("name", [name for name, spec in ENCODERS.items() if spec.modality == "video"])
def test_five_frames_work_or_the_encoder_says_what_it_takes(name: str) -> None:
    """Full entries are only asked where they refuse before they are built."""
    spec = replace(ENCODERS[name], frames=FramePolicy("middle", 5))
    if any(family in name for family in ("videomae", "mvit")):
        with pytest.raises(ConfigError, match=r"got 5 frames.* use .*--frames uniform:\d+"):
            build(spec)
    elif spec.weights is None:
        assert vectors(build(spec), clips(spec, 2)).shape == (2, spec.width)


# Files.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "media" / "videos").mkdir(parents=True)
    (tmp_path / "media" / "covers").mkdir()
    for number in range(4):
        write_clip(tmp_path / "media" / "videos" / f"{number}.mp4", pictures(12, kind=number))
        write_cover(tmp_path / "media" / "covers" / f"{number}.jpg", kind=number)
    write_clip(tmp_path / "media" / "videos" / "short.mp4", pictures(6, kind=9))
    return tmp_path / "media"


def test_recipes_make_files_of_their_own(folder: Path, tmp_path: Path) -> None:
    catalog = build_catalog("media", None, videos=folder / "videos")
    options = ExtractOptions(tmp_path / "out", weights="random", dtype="float32", max_failed=0.3)
    choices = [(), ("microlens",), *((name,) for name in ("five-frames", "squash", "wrap"))]
    made = [extract(catalog, ENCODERS["slowfast-tiny"], replace(options, faults=faults)) for faults in choices]
    assert len({report.fingerprint for report in made}) == len({report.path for report in made}) == len(choices)
    assert [report.path.name.split(".")[1] for report in made] == ["slowfast-tiny", *["slowfast-tiny-microlens"] * 4]
    faulty = FeatureFile(made[1].path)
    assert faulty.provenance.recipe["faults"] == list(with_faults(ENCODERS["slowfast-tiny"], ["microlens"]).faults)
    assert faulty.shape[1] == 400
    assert [item for item, state, _ in made[1].bad] == ["short"]
    assert "the benchmark's script needs 8" in made[1].bad[0][2]
    again = extract(catalog, ENCODERS["slowfast-tiny"], replace(options, faults=("microlens",)))
    assert again.unchanged


def test_the_command_takes_a_recipe_and_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["extract", "--data", str(folder), "--encoders", "videomae-tiny,resnet-tiny", "--weights", "random"]
    line += ["--out", str(tmp_path / "out"), "--max-failed", "0.3"]
    assert main([*line, "--recipe", "microlens", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert all("with its faults: " in report["warning"] for report in made)
    assert main([*line, "--faults", "squash, wrap"]) == 2  # wrap is for videos
    assert "fault 'wrap' does not concern 'resnet-tiny'" in capsys.readouterr().err
    assert main([*line, "--recipe", "microlens", "--faults", "squash"]) == 2
    assert "--recipe microlens has all faults" in capsys.readouterr().err
    (folder / "items.csv").write_text("item,title\n0,a\n1,b\n2,c\n3,d\n")
    titles = [*line[:4], "minilm-tiny", *line[5:]]
    assert main([*titles, "--faults", "wrap"]) == 2
    assert "titles are the same in both recipes" in capsys.readouterr().err
    assert main([*titles, "--recipe", "microlens"]) == 0
    assert main([*line, "--recipe", "microlens", "--frames", "middle:5"]) == 2
    assert "both choose frames" in capsys.readouterr().err
