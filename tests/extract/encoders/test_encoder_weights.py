"""Weights of video and cover encoders: files, folders as on the hub, and what is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from extract.encoders.backends.hub import PROXIES
from extract.encoders.backends.pytorchvideo_zoo import two_paths
from extract.encoders.registry import ENCODERS, get_encoder
from extract.media.frames import FramePolicy
from features.errors import ConfigError, StoreError, shortened
from tests.support.encoding import TINY, encode, pixels, save_bert
from tests.support.library_models import HUB, IMAGE, stock_model


def test_unknown_encoders_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'videomae-base'"):
        get_encoder("videomae-bse")


@pytest.mark.parametrize("name", TINY)
def test_tiny_encoders_have_no_pretrained_weights(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no pretrained weights; use .*`items.weights: random`"):
        ENCODERS[name].backend(ENCODERS[name], "pretrained", 0)


@pytest.mark.parametrize("name", TINY)
def test_a_path_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no/such/weights.*; check the path"):
        ENCODERS[name].backend(ENCODERS[name], "no/such/weights", 0)


FILE_LOADED = [name for name in TINY if not name.startswith(("videomae", "bert", "minilm")) and name not in IMAGE]


@pytest.mark.parametrize("name", FILE_LOADED)
def test_state_dict_files_load_and_wrong_ones_are_refused(tmp_path: Path, name: str) -> None:
    torch.manual_seed(5)
    state = stock_model(name).state_dict()
    wrapped = {"model_state": state} if name == "slowfast-tiny" or name in HUB else state
    torch.save(wrapped, tmp_path / "good.pth")
    encoder = ENCODERS[name].backend(ENCODERS[name], str(tmp_path / "good.pth"), 0)
    assert encoder.warning == ""
    assert encoder.recipe()["weights"] == "checkpoint"
    assert "seed" not in encoder.recipe()
    prefix = "visual." if "clip" in name and "image" in name else ""
    for key, value in encoder.model.state_dict().items():
        assert torch.equal(value, state[prefix + key])
    one = next(key for key in state if key.endswith("weight"))
    wrong: dict[str, Any] = {
        "other names": {f"model.{key}": value for key, value in state.items()},
        "one missing": {key: value for key, value in state.items() if key != one},
        "one more": {**state, "surplus.weight": torch.zeros(2)},
        "other shape": {**state, one: torch.zeros(3, 3)},
    }
    for kind, content in wrong.items():
        torch.save(content, tmp_path / "wrong.pth")
        with pytest.raises(StoreError, match="do not fit the encoder") as caught:
            ENCODERS[name].backend(ENCODERS[name], str(tmp_path / "wrong.pth"), 0)
        assert ("surplus" if kind == "one more" else one.split(".")[-1]) in str(caught.value)


@pytest.mark.parametrize("name", ["bert-base", "videomae-base", "clip-vit-b-32-text"])
def test_offline_is_told_at_once_and_the_cache_asked_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """The hub's client would try again for half a minute."""
    asked: list[str] = []

    def no_route(address: tuple[str, int], **_: Any) -> None:
        raise OSError(113, "No route to host")

    def in_cache(repository: str, file: str, **_: Any) -> None:
        asked.append(file)

    for proxy in PROXIES:
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr("socket.create_connection", no_route)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", in_cache)
    began = time.perf_counter()
    with pytest.raises(
        ConfigError, match=r"not in the local cache, and \S+ cannot be reached: No route to host; fetch"
    ):
        ENCODERS[name].backend(ENCODERS[name], "pretrained", 0)
    assert asked
    assert time.perf_counter() - began < 10


def test_weights_in_the_hubs_cache_are_read_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_bert(tmp_path / "snapshot", hidden=512)
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(tmp_path / "snapshot" / "config.json")
    )
    monkeypatch.setattr("extract.encoders.backends.huggingface_weights.refuse_offline", pytest.fail)
    encoder = ENCODERS["bert-small"].backend(ENCODERS["bert-small"], "pretrained", 0)
    same = ENCODERS["bert-small"].backend(ENCODERS["bert-small"], str(tmp_path / "snapshot"), 0)
    assert encoder.weights_sha256 == same.weights_sha256


@pytest.mark.parametrize(
    ("name", "download"),
    [
        ("videomae-base", "transformers.VideoMAEConfig.from_pretrained"),
        ("bert-base", "transformers.AutoConfig.from_pretrained"),
        ("resnet18", "torchvision.models.ResNet18_Weights.get_state_dict"),
        ("slowfast-r50", "torch.hub.load_state_dict_from_url"),
        ("clip-vit-b-32-text", "open_clip.download_pretrained"),
    ],
)
def test_without_a_network_the_way_round_is_named(monkeypatch: pytest.MonkeyPatch, name: str, download: str) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(download, unreachable)
    for module in ("huggingface_weights", "openclip"):  # else a machine without a network hears so before
        monkeypatch.setattr(f"extract.encoders.backends.{module}.refuse_offline", lambda *_: None)
    source = ENCODERS[name].weights
    assert source is not None
    with pytest.raises(ConfigError) as caught:
        ENCODERS[name].backend(ENCODERS[name], "pretrained", 0)
    message = str(caught.value)
    assert "\n" not in message
    for part in (repr(name), source.place, source.revision, "no route to host", "`--weights PATH` (in a recipe"):
        assert part in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("No route\nto host.", "No route to host"),
        ("We could not connect to the hub. Check your connection, or read on", "We could not connect to the hub"),
        ("Error. A sentence that goes on for longer than fits", "Error. A sentence that goes on for ..."),
        ("x" * 50, "x" * 36 + " ..."),
    ],
)
def test_reasons_of_libraries_end_with_a_sentence_or_a_word(text: str, said: str) -> None:
    assert shortened(text, 40) == said


def test_weights_files_run_no_code(tmp_path: Path) -> None:
    torch.save({"weight": Path("x")}, tmp_path / "odd.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("odd.pth", "text.pth"):
        with pytest.raises(StoreError, match="cannot be read"):
            ENCODERS["resnet-tiny"].backend(ENCODERS["resnet-tiny"], str(tmp_path / name), 0)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(StoreError, match="no state dict"):
        ENCODERS["resnet-tiny"].backend(ENCODERS["resnet-tiny"], str(tmp_path / "list.pth"), 0)


def save_videomae(folder: Path, **changes: Any) -> Any:
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    config = VideoMAEConfig(
        **{
            **ENCODERS["videomae-tiny"].arch,
            "num_frames": 8,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
        },
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    for key, value in changes.items():
        setattr(config, key, value)
    model = VideoMAEForPreTraining(config).eval()
    model.save_pretrained(folder)
    return model


def test_videomae_folder_as_on_the_hub(tmp_path: Path) -> None:
    """A pre-training checkpoint: decoder left aside, its final LayerNorm applied, another number of frames."""
    stock = save_videomae(tmp_path)
    stock.videomae.layernorm.weight.data.fill_(2.0)
    stock.save_pretrained(tmp_path)
    spec = replace(ENCODERS["videomae-base"], frames=FramePolicy("uniform", 8), inputs=ENCODERS["videomae-tiny"].inputs)
    encoder = spec.backend(spec, str(tmp_path), 0)
    assert encoder.width == 48
    clips = torch.stack([pixels(encoder.spec, kind) for kind in range(2)])
    with torch.inference_mode():
        direct = stock.videomae(clips, bool_masked_pos=None).last_hidden_state.mean(1)
    torch.testing.assert_close(encode(encoder, clips), direct, atol=1e-5, rtol=0)
    four = spec.backend(replace(spec, frames=FramePolicy("uniform", 4)), str(tmp_path), 0)
    assert encode(four, clips[:, :4]).shape == (2, 48)


def test_videomae_refuses_an_odd_number_of_frames(tmp_path: Path) -> None:
    save_videomae(tmp_path)
    odd = replace(ENCODERS["videomae-base"], frames=FramePolicy("middle", 5))
    for weights in ("random", str(tmp_path)):
        with pytest.raises(ConfigError, match="got 5 frames"):
            odd.backend(odd, weights, 0)


def test_slowfast_takes_the_papers_five_frames() -> None:
    spec = replace(ENCODERS["slowfast-tiny"], frames=FramePolicy("middle", 5))
    encoder = spec.backend(spec, "random", 0)
    clips = pixels(spec, 0)[None]
    slow, fast = two_paths(clips)
    assert torch.equal(slow[0, :, 1], clips[0, 4])  # first and last, as in MicroLens' code
    assert (slow.shape[2], fast.shape[2]) == (2, 5)
    assert encode(encoder, clips).shape == (1, 288)
    few = replace(spec, frames=FramePolicy("middle", 3))
    with pytest.raises(ConfigError, match="at least 4"):
        few.backend(few, "random", 0)


@pytest.mark.parametrize("name", ["c2d-tiny", "i3d-r50"])
def test_networks_that_halve_time_need_two_frames(name: str) -> None:
    spec = replace(ENCODERS[name], frames=FramePolicy("middle", 1))
    with pytest.raises(ConfigError, match=rf"encoder '{name}' got 1 frame; .* at least 2"):
        spec.backend(spec, "random", 0)


def test_mvit_takes_its_own_number_of_frames_alone() -> None:
    spec = replace(ENCODERS["mvit-b-16x4"], frames=FramePolicy("middle", 5))
    with pytest.raises(ConfigError, match=r"'mvit-b-16x4' got 5 frames; .* takes 16 .* --frames uniform:16"):
        spec.backend(spec, "random", 0)


@pytest.mark.parametrize(
    ("name", "tiny"),
    [("swin-t", "swin-tiny"), ("vit-base", "vit-tiny"), ("vit-mae-base", "vit-mae-tiny"), ("beit-base", "beit-tiny")],
)
def test_image_transformer_folders_as_on_the_hub(tmp_path: Path, name: str, tiny: str) -> None:
    """A folder with the head it was trained with loads into the full entry; one of another model is refused."""
    import transformers

    arch = dict(ENCODERS[tiny].arch)
    family = arch.pop("model")
    config = getattr(transformers, f"{family}Config")(**arch)
    kind = "ForPreTraining" if family == "ViTMAE" else "ForImageClassification"
    torch.manual_seed(7)
    whole = getattr(transformers, family + kind)(config).eval()
    whole.save_pretrained(tmp_path / "good")
    spec = replace(ENCODERS[name], inputs=ENCODERS[tiny].inputs, width=ENCODERS[tiny].width)
    encoder = spec.backend(spec, str(tmp_path / "good"), 0)
    assert encoder.warning == ""
    body = getattr(whole, {"Swin": "swin", "Beit": "beit"}.get(family, "vit"))
    images = torch.stack([pixels(ENCODERS[tiny], kind) for kind in range(2)])
    with torch.inference_mode():
        out = body(images)
    direct = out.pooler_output if family in ("Swin", "Beit") else out.last_hidden_state[:, 0]
    torch.testing.assert_close(encode(encoder, images), direct, atol=1e-5, rtol=0)
    other = getattr(transformers, f"{family}Model")(type(config)(**{**arch, "patch_size": 8}))
    other.save_pretrained(tmp_path / "other")
    state = other.state_dict()
    torch.save(dict(list(state.items())[2:]), tmp_path / "other" / "pytorch_model.bin")
    (tmp_path / "other" / "model.safetensors").unlink()
    with pytest.raises(StoreError, match="do not fit the encoder"):
        spec.backend(spec, str(tmp_path / "other"), 0)


def test_slowfast_slow_path_is_every_fourth_frame() -> None:
    slow, fast = two_paths(torch.arange(32.0).reshape(1, 32, 1, 1, 1).expand(1, 32, 3, 2, 2))
    assert torch.equal(slow[0, 0, :, 0, 0], torch.linspace(0, 31, 8).long().float())
    assert fast.shape == (1, 3, 32, 2, 2)
