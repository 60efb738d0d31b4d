"""VideoMAE and BERT from transformers; local folders in the hub's layout (config.json, weights, tokenizer files)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from extract.loading import Network, Tokeniser, hashed_words, shipped_folder, unreachable
from features.errors import ConfigError

if TYPE_CHECKING:
    from extract.encoders import EncoderSpec

# Parts of published checkpoints that a plain encoder does not have: pretraining and classification heads.
HEADS = ("decoder.", "encoder_to_decoder.", "mask_token", "classifier.", "fc_norm.", "cls.", "pooler.", "bert.pooler.")


def load_videomae(spec: EncoderSpec, weights: str, seed: int) -> Network:  # noqa: ARG001 (seeded by the caller)
    """Load VideoMAE for the entry's number of frames; sin-cos positions are computed, so any even number loads."""
    from transformers import VideoMAEConfig, VideoMAEModel

    frames = spec.frames.count if spec.frames else 16
    if weights == "random":
        settings = {key: value for key, value in spec.arch.items() if key != "frame_multiple"}
        model = VideoMAEModel(VideoMAEConfig(num_frames=frames, **settings))
    else:
        folder = _folder(spec, weights)
        model = _pretrained(VideoMAEModel, folder, _config(VideoMAEConfig, folder, num_frames=frames))
    return Network(_MeanTokens(model), int(model.config.hidden_size), model)


class _MeanTokens(nn.Module):
    """Mean of the last layer's tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Tensor:
        """Map (B, T, 3, H, W) to (B, F)."""
        tokens: Tensor = self.model(pixel_values=batch).last_hidden_state
        return tokens.mean(dim=1)


def load_bert(spec: EncoderSpec, weights: str, seed: int) -> Network:  # noqa: ARG001 (seeded by the caller)
    """Load a BERT and its tokeniser; pooled by first token or by the mean over real tokens."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    if weights == "random":
        model = BertModel(BertConfig(**spec.arch), add_pooling_layer=False)
        tokenise, name = hashed_words(int(model.config.vocab_size), spec.max_tokens), "hashed words"
    else:
        folder = _folder(spec, weights)
        model = _pretrained(BertModel, folder, _config(BertConfig, folder), add_pooling_layer=False)
        tokeniser = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        tokenise, name = _padded(tokeniser, spec.max_tokens), "of the weights"
    return Network(_PooledText(model, spec.pooling), int(model.config.hidden_size), model, tokenise, name)


class _PooledText(nn.Module):
    """First token, or mean over the tokens that are no padding."""

    def __init__(self, model: nn.Module, pooling: str) -> None:
        super().__init__()
        self.model = model
        self.first = pooling == "first token"

    def forward(self, batch: Tensor) -> Tensor:
        """Map (B, 2, L) token ids and mask to (B, F)."""
        mask = batch[:, 1]
        states: Tensor = self.model(input_ids=batch[:, 0], attention_mask=mask).last_hidden_state
        if self.first:
            return states[:, 0]
        real = mask[..., None].to(states.dtype)
        return (states * real).sum(1) / real.sum(1)


def _padded(tokeniser: Any, max_tokens: int) -> Tokeniser:
    def tokenise(texts: Sequence[str]) -> Tensor:
        batch = tokeniser(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        return torch.stack([batch["input_ids"], batch["attention_mask"]], dim=1)

    return tokenise


def _folder(spec: EncoderSpec, weights: str) -> Path:
    """Return a local folder with the weights: the one given, a package's, or the hub's pinned snapshot."""
    if weights != "pretrained":
        return Path(weights)
    source = spec.weights
    if source is None:
        raise ConfigError(f"{spec.name} has no pretrained weights; use --weights random")
    shipped = shipped_folder(source.package)
    if shipped is not None:
        return shipped
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "*.safetensors", "tokenizer*", "vocab*", "special_tokens_map.json"]
    try:
        return Path(snapshot_download(source.repo, revision=source.revision, allow_patterns=wanted))
    except Exception as error:  # the hub's client raises many kinds
        raise unreachable(spec, error) from error


def _config(kind: Any, folder: Path, **changes: Any) -> Any:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"--weights {folder} has no config.json; give a folder in the hub's layout")
    config = kind.from_pretrained(folder, local_files_only=True)
    for key, value in changes.items():
        setattr(config, key, value)
    return config


def _pretrained(kind: Any, folder: Path, config: Any, **options: Any) -> nn.Module:
    """Load weights from a folder; ConfigError when a part of the encoder is missing or a part has no place in it."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    try:
        logging.set_verbosity_error()  # its report of unused heads is checked below, strictly
        logging.disable_progress_bar()
        model, info = kind.from_pretrained(
            folder, config=config, local_files_only=True, output_loading_info=True, dtype=torch.float32, **options
        )
    except Exception as error:  # a damaged or absent file raises many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ConfigError(f"--weights {folder} cannot be loaded as {kind.__name__}: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    prefix = f"{kind.base_model_prefix}."
    foreign = [key for key in info["unexpected_keys"] if not key.removeprefix(prefix).startswith(HEADS)]
    wrong = sorted([*info["missing_keys"], *foreign, *(str(key) for key in info["mismatched_keys"])])
    if wrong:
        raise ConfigError(
            f"--weights {folder} does not fit {kind.__name__}: {len(wrong)} missing, foreign or misshapen tensors, "
            f"first {wrong[0]}; give weights of this encoder"
        )
    loaded: nn.Module = model
    return loaded
