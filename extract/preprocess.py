"""Frames and covers to the encoder's input, from its entry alone: plain tensor operations on any device.

`preprocess` does all of it; `crop` stops at 8-bit pixels, which are stored, and `normalise` goes on from there.

No image processor of a library is used: their defaults differ from their checkpoints' (VideoMAE) and from each other.
Letters: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

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
    return _by_chunk(pixels, device, lambda images: _normalised(_fitted(images, inputs), inputs))


def crop(pixels: NDArray[np.uint8] | Tensor, inputs: PixelInput, device: torch.device | str = "cpu") -> Tensor:
    """Resize and crop, and round to the nearest of 256 levels (ties to even): (T, size, size, 3) or (size, size, 3)
    uint8. Arguments and errors are those of `preprocess`.
    """
    return _by_chunk(
        pixels, device, lambda images: _fitted(images, inputs).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    )


def normalise(pixels: Tensor, inputs: PixelInput) -> Tensor:
    """Return (..., 3, H, W) float32 of pixels (..., H, W, 3) uint8 that `crop` gave, on their device.

    In memory the channels stay innermost, as behind `preprocess`: convolutions then round alike.
    """
    return _normalised(pixels.movedim(-1, -3).float(), inputs)


def _by_chunk(
    pixels: NDArray[np.uint8] | Tensor, device: torch.device | str, work: Callable[[Tensor], Tensor]
) -> Tensor:
    height, width = pixels.shape[-3:-1]
    if max(height, width) > MAX_SHAPE * min(height, width):  # its resized long side would fill the memory
        raise MediaError(f"{width}x{height} pixels: one side is over {MAX_SHAPE} times the other")
    images = torch.as_tensor(pixels, device=device)
    if images.ndim == 3:
        return work(images[None])[0]
    return torch.cat([work(part) for part in torch.split(images, CHUNK_FRAMES)])


def _fitted(images: Tensor, inputs: PixelInput) -> Tensor:
    """Return (n, 3, size, size) float32 in [0, 255], resized and cropped."""
    values = images.permute(0, 3, 1, 2).float()
    height, width = _target(values.shape[-2], values.shape[-1], inputs)
    if (height, width) != values.shape[-2:]:
        values = functional.interpolate(values, (height, width), mode=inputs.interpolation, antialias=True)
        values = values.clamp(0, 255)  # bicubic overshoots
    top, left = round((height - inputs.size) / 2), round((width - inputs.size) / 2)
    return values[..., top : top + inputs.size, left : left + inputs.size]


def _normalised(values: Tensor, inputs: PixelInput) -> Tensor:
    if isinstance(inputs, WrappedInput):
        values = (2 * values.round() + 1).remainder(256)
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
