"""Encoders with random weights for tests, what they read, and a BERT folder as on the hub."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from extract.encoders.encoder import Encoder
from extract.encoders.inputs import Batch, PixelInput, Tokens
from extract.encoders.preprocess import preprocess
from extract.encoders.registry import ENCODERS, get_encoder
from extract.encoders.spec import EncoderSpec
from tests.support.media import pictures

TINY = [name for name in ENCODERS if "-tiny" in name]
FULL = [name for name in ENCODERS if "-tiny" not in name]
# one of each family and way to be cut; the others differ in depth and width
FAMILIES = [
    "videomae-base",
    "slowfast-r50",
    "slow-r50",
    "r3d-r50",
    "csn-r101",
    "x3d-xs",
    "mvit-b-16x4",
    "r3d-r18",
    "swin3d-t",
    "resnet50",
    "swin-t",
    "vit-base",
    "vit-mae-base",
    "beit-base",
    "clip-vit-b-32-image",
    "clip-rn50-image",
    "bert-base",
    "minilm",
    "clip-vit-b-32-text",
]
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


def build_without_numbers(name: str) -> Encoder:
    """Return an encoder on the `meta` device: its tensors have shapes and nothing else."""
    if name.startswith("mvit"):  # pytorchvideo computes its widths with tensors
        return build(name).to("meta")
    with mock.patch("extract.encoders.encoder.state_sha256", return_value=""), torch.device("meta"):
        return build(name)


def build_for_few_frames(name: str) -> Encoder:
    """Return an encoder for clips of 4 frames where it can take them: full-size ones cost seconds per frame."""
    spec = get_encoder(name)
    if spec.frames is not None and not name.startswith("mvit"):  # whose table of positions fixes the number
        spec = replace(spec, frames=replace(spec.frames, count=4))
    return spec.backend(spec, "random", 0)


def shape_of_vectors(encoder: Encoder, inputs: Batch) -> tuple[int, ...]:
    """Return the shape of what an encoder on the `meta` device makes of such a batch."""
    there = Tokens(*(part.to("meta") for part in inputs)) if isinstance(inputs, Tokens) else inputs.to("meta")
    with mock.patch.object(Tensor, "__bool__", return_value=False):  # libraries ask whether a mask hides nothing
        return tuple(encode(encoder, there).shape)


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
