"""From pixels to what an encoder takes, by its entry alone: plain torch on whatever device the frames are.

No library's own processor is used: their defaults change between releases and differ from the checkpoints' settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from extract.encoders import EncoderSpec


def preprocess(frames: Tensor, spec: EncoderSpec) -> Tensor:
    """Return (N, 3, crop, crop) float32: short side resized (antialiased), centre cropped, normalised.

    Args:
        frames: (N, H, W, 3) uint8 RGB in [0, 255].
        spec: resize, crop, interpolation, mean and std.
    """
    pixels = frames.permute(0, 3, 1, 2).float().div_(255)
    height, width = pixels.shape[2:]
    scale = spec.resize / min(height, width)
    size = (max(round(height * scale), spec.crop), max(round(width * scale), spec.crop))
    if size != (height, width):
        pixels = functional.interpolate(
            pixels, size=size, mode=spec.interpolation, antialias=True, align_corners=False
        ).clamp_(0, 1)  # bicubic overshoots
    top, left = (size[0] - spec.crop) // 2, (size[1] - spec.crop) // 2
    pixels = pixels[:, :, top : top + spec.crop, left : left + spec.crop]
    mean = torch.tensor(spec.mean, device=pixels.device)[:, None, None]
    std = torch.tensor(spec.std, device=pixels.device)[:, None, None]
    return (pixels - mean) / std
