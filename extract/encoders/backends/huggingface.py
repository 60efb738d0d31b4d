"""Video, image and text encoders from the library transformers (5.x)."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from extract.encoders.backends.huggingface_parts import (
    image_parts,
    keep_positions,
    masked_mean,
    shuffle_noise,
    text_parts,
    video_parts,
)
from extract.encoders.backends.huggingface_weights import from_hub, place, pretrained, settled
from extract.encoders.encoder import Encoder
from extract.encoders.hashed_words import hashed_words
from extract.encoders.inputs import TextInput, Tokenizer, Tokens
from extract.encoders.spec import EncoderSpec
from extract.encoders.weights import seeded
from features.errors import ConfigError


def load_videomae(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
    """Build VideoMAE (arXiv 2203.12602) whose output is the mean of its last tokens, (B, 768).

    Only the number of frames is set here; everything else follows the checkpoint's own config, `use_mean_pooling`
    above all: a fresh config would skip the final LayerNorm of a pre-trained checkpoint. Positions are sines and
    cosines, so other numbers of frames load as well.

    Args:
        spec: the entry; its `arch` holds arguments of VideoMAEConfig for random weights.
        weights: 'pretrained', 'random' or a folder with config.json and model.safetensors.
        seed: seed for random weights.

    Raises:
        ConfigError: no such weights, or an odd number of frames; StoreError: weights that do not fit.
    """
    from transformers import VideoMAEConfig, VideoMAEModel

    count = spec.frames.count if spec.frames is not None else 0
    if weights == "random":
        config = VideoMAEConfig(**{**spec.arch, "num_frames": count})
        _check_frames(spec, count, config.tubelet_size)
        with seeded(seed):
            model = VideoMAEModel(config)
    else:
        folder, revision = place(spec, weights)
        config = from_hub(spec, weights, lambda: VideoMAEConfig.from_pretrained(folder, revision=revision))
        config.num_frames = count
        _check_frames(spec, count, config.tubelet_size)
        model = pretrained(spec, weights, VideoMAEModel, folder, {"config": config, "revision": revision})
    if "no-last-norm" in spec.faults:
        model.layernorm = None
    return Encoder(
        settled(spec, config),
        model,
        _video_mean,
        weights="random" if weights == "random" else "checkpoint",
        seed=seed,
        parts=video_parts,
    )


def _check_frames(spec: EncoderSpec, count: int, tubelet: int) -> None:
    if count < tubelet or (count % tubelet and "dropped-frame" not in spec.faults):
        raise ConfigError(
            f"encoder {spec.name!r} got {count} frames but joins every {tubelet} into one token and would silently "
            f"drop the rest; use a multiple of {tubelet}, such as --frames uniform:16"
        )


def _video_mean(model: Any, clips: Tensor) -> Tensor:
    features: Tensor = model(pixel_values=clips).last_hidden_state.mean(dim=1)
    return features


def load_image(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
    """Build an image transformer that gives its class token, or the mean of its tokens if trained so (Swin, BEiT).

    Args:
        spec: the entry; its `arch` holds 'model' (Swin, ViT, ViTMAE or Beit) and, for random weights, arguments of the
            model's config.
        weights: 'pretrained', 'random' or a folder with config.json and model.safetensors.
        seed: seed for random weights.

    Raises:
        ConfigError: no such weights; StoreError: weights that do not fit.
    """
    import transformers

    arch: dict[str, Any] = {key: list(value) if isinstance(value, tuple) else value for key, value in spec.arch.items()}
    family = arch.pop("model")
    config_class = getattr(transformers, f"{family}Config")
    model_class = getattr(transformers, f"{family}Model")
    pooled = "mean" in spec.pooling
    arguments = {} if family == "ViTMAE" else {"add_pooling_layer": pooled}
    if weights == "random":
        config = config_class(**arch)
        with seeded(seed):
            model = model_class(config, **arguments)
    else:
        folder, revision = place(spec, weights)
        config = from_hub(spec, weights, lambda: config_class.from_pretrained(folder, revision=revision))
        if family == "ViTMAE":
            config.mask_ratio = arch["mask_ratio"]
        model = pretrained(spec, weights, model_class, folder, {"config": config, "revision": revision, **arguments})
    if config.image_size != getattr(spec.inputs, "size", 0):
        raise ConfigError(
            f"weights for {spec.name!r} take images of {config.image_size} px, but its entry makes {spec.inputs}; "
            "give weights for the same size"
        )
    if family == "Beit":
        keep_positions(model)
    return Encoder(
        settled(spec, config),
        model,
        _pooled_image if pooled else _unshuffled if family == "ViTMAE" else _class_token,
        weights="random" if weights == "random" else "checkpoint",
        seed=seed,
        parts=image_parts(model),
    )


def _class_token(model: Any, images: Tensor) -> Tensor:
    features: Tensor = model(pixel_values=images).last_hidden_state[:, 0]
    return features


def _unshuffled(model: Any, images: Tensor) -> Tensor:
    features: Tensor = model(pixel_values=images, noise=shuffle_noise(model, images)).last_hidden_state[:, 0]
    return features


def _pooled_image(model: Any, images: Tensor) -> Tensor:
    features: Tensor = model(pixel_values=images).pooler_output
    return features


def load_text(spec: EncoderSpec, weights: str, seed: int) -> Encoder:
    """Build a text encoder: `spec.pooling` 'cls' gives the first token, 'masked mean' the mean of the title's tokens.

    With a folder (BERT, XLM-R, MPNet, sentence-transformers and the like) the width and the pooling are that folder's.

    Args:
        spec: the entry; its `arch` holds arguments of BertConfig for random weights, whose tokenizer hashes words.
        weights: 'pretrained', 'random' or a folder with config.json, weights and tokenizer files.
        seed: seed for random weights.

    Raises:
        ConfigError: no such weights or tokenizer; StoreError: weights that do not fit.
    """
    from transformers import BertConfig, BertModel

    if not isinstance(spec.inputs, TextInput):
        raise ConfigError(f"encoder {spec.name!r} reads titles; its entry needs a TextInput")
    if weights == "random":
        config = BertConfig(**spec.arch)
        with seeded(seed):
            model = BertModel(config, add_pooling_layer=False)
        tokenizer = hashed_words(spec.inputs, config.vocab_size)
    else:
        spec, config, model, tokenizer = _text_checkpoint(spec, spec.inputs, weights)
    features = {"cls": _first_token, "masked mean": _masked_mean}[spec.pooling]
    return Encoder(
        settled(spec, config),
        model,
        features,
        weights="random" if weights == "random" else "checkpoint",
        seed=seed,
        tokenizer=tokenizer,
        parts=text_parts(model, spec.pooling),
    )


def _text_checkpoint(
    spec: EncoderSpec, inputs: TextInput, weights: str
) -> tuple[EncoderSpec, Any, nn.Module, Tokenizer]:
    from transformers import AutoModel, AutoTokenizer

    folder, revision = place(spec, weights)
    config = from_hub(spec, weights, lambda: _text_config(folder, revision))
    library_class = AutoModel._model_mapping[type(config)]
    arguments: dict[str, Any] = {"config": config, "revision": revision}
    if "add_pooling_layer" in inspect.signature(library_class.__init__).parameters:
        arguments["add_pooling_layer"] = False  # its weights are absent from sentence encoders and never used here
    model = pretrained(spec, weights, library_class, folder, arguments)
    tokenizer = from_hub(spec, weights, lambda: AutoTokenizer.from_pretrained(folder, revision=revision, config=config))
    if Path(folder).is_dir():
        spec = replace(spec, pooling=_folder_pooling(Path(folder), spec.pooling))
    return spec, config, model, _library_tokenizer(tokenizer, inputs)


def _text_config(folder: str, revision: str | None) -> Any:
    """Return a checkpoint's config. Old ones that do not name their model type (BERT miniatures) are read as BERT's."""
    from transformers import AutoConfig, BertConfig

    try:
        return AutoConfig.from_pretrained(folder, revision=revision)
    except ValueError as error:
        if "model_type" not in str(error):
            raise
        return BertConfig.from_pretrained(folder, revision=revision)


def _folder_pooling(folder: Path, default: str) -> str:
    """Return the pooling a sentence-transformers folder was trained with; `default` for a plain folder."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return default
    settings = json.loads(file.read_text(encoding="utf-8"))
    chosen = sorted(name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True)
    known = {"pooling_mode_mean_tokens": "masked mean", "pooling_mode_cls_token": "cls"}
    mode = settings.get("pooling_mode")
    if mode in ("mean", "cls"):  # sentence-transformers 5.x writes one word
        return "masked mean" if mode == "mean" else "cls"
    if len(chosen) != 1 or chosen[0] not in known:
        raise ConfigError(f"{file} asks for {', '.join(chosen) or mode}; use a model with mean or cls pooling")
    return known[chosen[0]]


def _library_tokenizer(tokenizer: Any, inputs: TextInput) -> Tokenizer:
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    lower = getattr(tokenizer, "do_lower_case", None)
    mark = hashlib.blake2b(vocabulary, digest_size=8).hexdigest()

    def tokenise(titles: Sequence[str]) -> Tokens:
        texts = [inputs.prefix + title for title in titles]
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=inputs.max_tokens, return_tensors="pt")
        return Tokens(encoded["input_ids"], encoded["attention_mask"].bool())

    return Tokenizer(f"{type(tokenizer).__name__}:lower={lower}:{mark}", tokenise)


def _first_token(model: Any, tokens: Tokens) -> Tensor:
    features: Tensor = model(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state[:, 0]
    return features


def _masked_mean(model: Any, tokens: Tokens) -> Tensor:
    states: Tensor = model(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
    return masked_mean(states, tokens.mask)
