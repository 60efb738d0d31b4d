"""The two towers of CLIP (arXiv 2103.00020) from open_clip, each alone: they map covers and titles into one space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extract.encoders.backends.hub import cached, refuse_offline
from extract.encoders.encoder import Encoder
from extract.encoders.inputs import TextInput, Tokenizer, Tokens
from extract.encoders.parts import Parts, Words
from extract.encoders.spec import EncoderSpec
from extract.encoders.weights import check_keys, local_path, no_download, no_pretrained, read_state, seeded
from features.errors import ConfigError

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load_image(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
    """Build the image tower. Its output is the projected vector, (B, F), not normalised to length 1.

    Args:
        spec: the entry; its `arch` holds the arguments of open_clip.CLIP.
        weights: 'pretrained', 'random' or a checkpoint file of the whole CLIP.
        seed: seed for random weights.

    Raises:
        ConfigError: no such weights; StoreError: weights that do not fit.
    """
    model = _clip(spec, weights, seed).visual
    kind = "random" if weights == "random" else "checkpoint"
    parts = _resnet_parts if hasattr(model, "layer1") else _vision_parts
    return Encoder(spec, model, _tower, weights=kind, seed=seed, parts=parts)  # type: ignore[arg-type]


def load_text(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
    """Build the text tower with open_clip's own tokenizer; arguments and output are those of `load_image`."""
    from open_clip.tokenizer import SimpleTokenizer

    if not isinstance(spec.inputs, TextInput):
        raise ConfigError(f"encoder {spec.name!r} reads titles; its entry needs a TextInput")
    model = _clip(spec, weights, seed)
    del model.visual  # half of the weights, never used for titles
    prefix, tokenizer = spec.inputs.prefix, SimpleTokenizer(context_length=spec.inputs.max_tokens)

    def tokenise(titles: Sequence[str]) -> Tokens:
        ids = tokenizer([prefix + title for title in titles])
        # True up to the end mark, which has the largest id and gives the vector; the id for padding also means '!'
        return Tokens(ids, torch.arange(ids.shape[1]) <= ids.argmax(dim=1, keepdim=True))

    return Encoder(
        spec,
        model,
        _text_features,
        weights="random" if weights == "random" else "checkpoint",
        seed=seed,
        tokenizer=Tokenizer("open_clip-bpe", tokenise),
        parts=_text_parts,
    )


def _tower(tower: nn.Module, pixels: Tensor) -> Tensor:
    features: Tensor = tower(pixels)
    return features


def _text_features(model: Any, tokens: Tokens) -> Tensor:
    features: Tensor = model.encode_text(tokens.ids)
    return features


def _clip(spec: EncoderSpec, weights: str, seed: int) -> Any:
    import open_clip

    arch: dict[str, Any] = dict(spec.arch)
    with seeded(seed):
        model = open_clip.CLIP(**arch)
    if weights != "random":
        path = local_path(weights) if weights != "pretrained" else _download(spec)
        _load(model, path)
    return model


def _download(spec: EncoderSpec) -> Path:
    import open_clip

    if spec.weights is None:
        raise no_pretrained(spec.name)
    config = open_clip.get_pretrained_cfg(spec.weights.place.split()[-1], spec.weights.revision)
    repository = str(config.get("hf_hub", "")).strip("/")
    if repository and cached(repository, None, HUB_FILES) is None:
        refuse_offline(spec.name, spec.weights)
    try:
        return Path(open_clip.download_pretrained(config))
    except (OSError, RuntimeError, ValueError) as error:
        raise no_download(spec.name, spec.weights, error) from error


def _load(model: nn.Module, path: Path) -> None:
    """Load a CLIP checkpoint in open_clip's layout; training scripts wrap it in 'state_dict' and prefix 'module.'."""
    state = read_state(path, key="state_dict")
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    own = model.state_dict()
    if "logit_scale" in state and "logit_scale" in own:  # stored as () or (1,); not part of any feature
        state["logit_scale"] = state["logit_scale"].reshape(own["logit_scale"].shape)
    reshaped = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    check_keys(str(path), list(own.keys() - state.keys()), list(state.keys() - own.keys()), reshaped)
    model.load_state_dict({name: tensor.to(torch.float32) for name, tensor in state.items()})


class _Patches(nn.Module):
    """Turns covers into the tokens that the first block sees: a class token and patches, with positions, normed."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.patches, self.norm = tower.conv1, tower.ln_pre
        self.first, self.positions = tower.class_embedding, tower.positional_embedding

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(pixels), 1, -1), patches], dim=1)
        normed: Tensor = self.norm(tokens + self.positions)
        return normed


class _ProjectedClass(nn.Module):
    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.norm, self.projection = tower.ln_post, tower.proj

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.norm(tokens)[:, 0] @ self.projection
        return features


class _WordTokens(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.words, self.positions = model.token_embedding, model.positional_embedding

    def forward(self, tokens: Tokens) -> Words:
        return Words(self.words(tokens.ids) + self.positions, tokens.mask)


class _CausalBlock(nn.Module):
    def __init__(self, block: nn.Module, causal: Tensor) -> None:
        super().__init__()
        self.block = block
        self.register_buffer("causal", causal, persistent=False)

    def forward(self, words: Words) -> Words:
        return Words(self.block(words.states, attn_mask=self.causal), words.mask)


class _ProjectedEnd(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.norm, self.projection = model.ln_final, model.text_projection

    def forward(self, words: Words) -> Tensor:
        features: Tensor = _end(Words(self.norm(words.states), words.mask)) @ self.projection
        return features


def _end(words: Words) -> Tensor:
    rows = torch.arange(len(words.states), device=words.states.device)
    return words.states[rows, words.mask.sum(dim=1) - 1]


def _vision_parts(tower: Any) -> Parts:
    steps = (_Patches(tower), *tower.transformer.resblocks, _ProjectedClass(tower))
    return Parts(steps, pool=lambda tokens: tokens[:, 0])


def _resnet_parts(tower: Any) -> Parts:
    stem = [getattr(tower, f"{kind}{number}") for number in (1, 2, 3) for kind in ("conv", "bn", "act")]
    stages = (*tower.layer1, *tower.layer2, *tower.layer3, *tower.layer4)
    return Parts((*stem, tower.avgpool, *stages, tower.attnpool))


def _text_parts(model: Any) -> Parts:
    blocks = (_CausalBlock(block, model.attn_mask) for block in model.transformer.resblocks)
    return Parts((_WordTokens(model), *blocks, _ProjectedEnd(model)), pool=_end, context=model.context_length)
