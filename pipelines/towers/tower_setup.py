"""How the part of an encoder that trains is set up: its dropout, and which code computes its attention."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from models.shared.representation import ItemsConfig


def set_up(trained: Sequence[nn.Module], items: ItemsConfig, *, titles: bool) -> None:
    """Set up modules before they train.

    Args:
        trained: those that train; modules outside of them are left alone.
        items: says whether their dropout and drop-path act.
        titles: whether their inputs are titles, padded to like lengths. On a machine without a GPU their attention then
            goes by plain matrix products, which train faster in bfloat16 than the fused kernel; in float32 neither
            leads throughout.
    """
    parts = [module for part in trained for module in part.modules()]
    if not items.encoder_dropout:
        _without_dropout(parts)
    if titles and not torch.cuda.is_available():
        _plain_attention(parts)


def _without_dropout(parts: Sequence[nn.Module]) -> None:
    module: Any
    for module in parts:
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":  # torchvision's drop-path
            module.p = 0.0
        elif isinstance(getattr(module, "drop_prob", None), float):  # that of others
            module.drop_prob = 0.0


def _plain_attention(parts: Sequence[nn.Module]) -> None:
    """Give all parts one configuration of their own; frozen blocks keep theirs, by which files were made."""
    own: dict[int, Any] = {}
    module: Any
    for module in parts:
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == "sdpa":
            if id(config) not in own:
                own[id(config)] = copy.deepcopy(config)
                own[id(config)]._attn_implementation = "eager"
            module.config = own[id(config)]
