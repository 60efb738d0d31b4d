"""Frames and covers to the encoder's input, from its entry alone: plain tensor operations on any device.

No image processor of a library is used: their defaults differ from their checkpoints' (VideoMAE) and from each other.
Letters: T frames, H W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from extract.encoder import PixelInput, WrappedInput
from features.errors import MediaError

CHUNK_FRAMES = 8  # of 1080p in float32: 200 MB at a time
MAX_SHAPE = 20  # longest side over shortest


def preprocess(pixels: NDArray[np.uint8] | Tensor, inputs: PixelInput, device: torch.device | str = "cpu") -> Tensor:
    """Resize, crop and normalise.

    Args:
        pixels: (T, H, W, 3) or (H, W, 3) uint8 RGB in [0, 255], on any device.
        inputs: the encoder's input contract.
        device: where to compute.

    Returns:
        (T, 3, size, size) or (3, size, size) float32, normalised by mean and std of values in [0, 1].

    Raises:
        MediaError: one side is over 20 times the other.
    """
    height, width = pixels.shape[-3:-1]
    if max(height, width) > MAX_SHAPE * min(height, width):  # its resized long side would fill the memory
        raise MediaError(f"{width}x{height} pixels: one side is over {MAX_SHAPE} times the other")
    images = torch.as_tensor(pixels, device=device)
    if images.ndim == 3:
        return _chunk(images[None], inputs)[0]
    return torch.cat([_chunk(part, inputs) for part in torch.split(images, CHUNK_FRAMES)])


def _chunk(images: Tensor, inputs: PixelInput) -> Tensor:
    values = images.permute(0, 3, 1, 2).float()
    height, width = _target(values.shape[-2], values.shape[-1], inputs)
    if (height, width) != values.shape[-2:]:
        values = functional.interpolate(values, (height, width), mode=inputs.interpolation, antialias=True)
        values = values.clamp(0, 255)  # bicubic overshoots
    if isinstance(inputs, WrappedInput):
        values = (2 * values.round() + 1).remainder(256)
    top, left = round((height - inputs.size) / 2), round((width - inputs.size) / 2)
    values = values[..., top : top + inputs.size, left : left + inputs.size]
    mean = values.new_tensor(inputs.mean)[:, None, None] * 255
    std = values.new_tensor(inputs.std)[:, None, None] * 255
    return (values - mean) / std


def _target(height: int, width: int, inputs: PixelInput) -> tuple[int, int]:
    """Return (H, W) after resizing; the long side is rounded down, as torchvision does."""
    if inputs.mode == "stretch":
        return inputs.size, inputs.size
    if height < width:
        return inputs.resize, int(inputs.resize * width / height)
    return int(inputs.resize * height / width), inputs.resize
