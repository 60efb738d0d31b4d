"""CLIP's two towers from open_clip. Its tokeniser ships inside the library."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from extract.loading import Network, load_strictly, read_checkpoint, unreachable

if TYPE_CHECKING:
    from extract.encoders import EncoderSpec


def load_clip_image(spec: EncoderSpec, weights: str, seed: int) -> Network:  # noqa: ARG001 (seeded by the caller)
    """Load the image tower with its projection."""
    visual = _clip(spec, weights).visual
    return Network(visual, int(visual.output_dim), visual)


def load_clip_text(spec: EncoderSpec, weights: str, seed: int) -> Network:  # noqa: ARG001 (seeded by the caller)
    """Load the text tower with its projection; the image tower is dropped."""
    import open_clip

    model = _clip(spec, weights)
    model.visual = nn.Identity()
    tokeniser: Any = open_clip.SimpleTokenizer(context_length=int(model.context_length))

    def tokenise(texts: Sequence[str]) -> Tensor:
        tokens = tokeniser(list(texts))
        return torch.stack([tokens, (tokens != 0).long()], dim=1)

    width = model.text_projection.shape[1]
    return Network(_Text(model), int(width), model, tokenise, "open_clip's byte pairs")


class _Text(nn.Module):
    """CLIP's text encoding, not normalised; causal, so padding behind the end token changes nothing."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.encode = model.encode_text

    def forward(self, batch: Tensor) -> Tensor:
        """Map (B, 2, L) tokens and mask to (B, F)."""
        vectors: Tensor = self.encode(batch[:, 0])
        return vectors


def _clip(spec: EncoderSpec, weights: str) -> Any:
    import open_clip

    name = spec.arch.get("model")
    if weights == "pretrained" and spec.weights is not None:
        try:
            return open_clip.create_model(name, pretrained=spec.weights.revision)
        except Exception as error:  # network errors come as many kinds
            raise unreachable(spec, error) from error
    logging.disable(logging.WARNING)  # it warns of the random weights that are asked for here
    try:
        model = open_clip.create_model(name, pretrained=None) if name else open_clip.CLIP(**_settings(spec))
    finally:
        logging.disable(logging.NOTSET)
    if weights != "random":
        checkpoint = read_checkpoint(Path(weights))
        wrapped = isinstance(checkpoint, dict) and "state_dict" in checkpoint
        load_strictly(model, checkpoint["state_dict"] if wrapped else checkpoint, f"--weights {weights}")
    return model


def _settings(spec: EncoderSpec) -> dict[str, Any]:
    # open_clip takes its own config objects and writes into them
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    return {
        "embed_dim": spec.arch["embed_dim"],
        "vision_cfg": CLIPVisionCfg(**spec.arch["vision_cfg"]),
        "text_cfg": CLIPTextCfg(**spec.arch["text_cfg"]),
    }
