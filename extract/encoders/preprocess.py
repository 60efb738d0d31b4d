"""Turns frames and covers into an encoder's input by its entry alone, with plain tensor operations on any device.

`preprocess` does all of it. `crop` stops at 8-bit pixels, which are stored, and `normalise` goes on from there. Each
frame is computed by itself. So `Inputs`, which gets a few frames at a time, gives the same bits as `preprocess`, which
gets all of them.

No library's image processor is used: their defaults differ from their checkpoints' (VideoMAE) and from each other.
Letters: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from extract.encoders.inputs import PixelInput, WrappedInput
from extract.encoders.spec import EncoderSpec
from extract.media.frames import FramePolicy, FrameUnion, frame_indices
from features.errors import MediaError

CHUNK_FRAMES, CHUNK_BYTES = (
    8,
    2**24,
)  # per step; bytes are of 8-bit pixels, four times as many in float32
MAX_SHAPE = 20  # longer side divided by shorter side


def preprocess(pixels: NDArray[np.uint8] | Tensor, inputs: PixelInput, device: torch.device | str = "cpu") -> Tensor:
    """Resize, crop and normalise.

    Args:
        pixels: (T, H, W, 3) or (H, W, 3) uint8 RGB in [0, 255], on any device.
        inputs: the encoder's input contract.
        device: where to compute.

    Returns:
        (T, 3, size, size) or (3, size, size) float32, normalised by mean and std of values in [0, 1].

    Raises:
        MediaError: one side is over 20 times as long as the other.
    """
    return _by_chunk(pixels, device, lambda images: _normalised(_fitted(images, inputs), inputs))


def crop(pixels: NDArray[np.uint8] | Tensor, inputs: PixelInput, device: torch.device | str = "cpu") -> Tensor:
    """Resize, crop, and round to the nearest of 256 levels (ties to even).

    Returns (T, size, size, 3) or (size, size, 3) uint8. Arguments and errors are those of `preprocess`.
    """
    return _by_chunk(
        pixels, device, lambda images: _fitted(images, inputs).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    )


def normalise(pixels: Tensor, inputs: PixelInput) -> Tensor:
    """Return (..., 3, H, W) float32 for pixels (..., H, W, 3) uint8 that `crop` gave, on their device.

    In memory the channels stay innermost, as `preprocess` leaves them, so that convolutions round alike.
    """
    return _normalised(pixels.movedim(-1, -3).float(), inputs)


def chunk_frames(height: int, width: int) -> int:
    """Return how many frames of this size are computed at a time."""
    return max(1, min(CHUNK_FRAMES, CHUNK_BYTES // (3 * height * width)))


@dataclass(frozen=True)
class View:
    """What an encoder sees of a source."""

    inputs: PixelInput
    """Input contract of the encoder."""
    frames: FramePolicy | None = None
    """Which frames of a video it sees; None for a cover."""
    cropped: bool = False
    """Whether pixels stay as `crop` gives them, instead of as `preprocess` does."""

    def made(self, pixels: NDArray[np.uint8] | Tensor, device: torch.device | str) -> Tensor:
        """Return the view of some pixels: (T, 3, size, size) float32, or (T, size, size, 3) uint8 if cropped."""
        return (crop if self.cropped else preprocess)(pixels, self.inputs, device)


def view_of(spec: EncoderSpec, *, cropped: bool) -> View | None:
    """Return what an encoder sees of its media; None if it reads titles."""
    return View(spec.inputs, spec.frames, cropped) if isinstance(spec.inputs, PixelInput) else None


class Inputs:
    """Makes an encoder's view of a clip whose frames come a few at a time.

    Args:
        view: what an encoder sees of a video.
        union: policies whose frames will come, each frame once.
        total: number of frames in the clip.
        device: where to compute and where the view will be.
    """

    def __init__(self, view: View, union: FrameUnion, total: int, device: torch.device | str) -> None:
        assert view.frames is not None
        self._view, self._device = view, device
        coming = frame_indices(union, total)
        wanted, self._places = np.unique(frame_indices(view.frames, total), return_inverse=True)
        self._taken = np.isin(coming, wanted)
        self._seen = 0
        self._parts: list[Tensor] = []

    def take(self, frames: Tensor) -> None:
        """Take the next frames, (n, H, W, 3) uint8."""
        mine = np.flatnonzero(self._taken[self._seen : self._seen + len(frames)])
        self._seen += len(frames)
        if len(mine):
            part = frames if len(mine) == len(frames) else frames[torch.from_numpy(mine).to(frames.device)]
            self._parts.append(self._view.made(part, self._device))

    def finish(self) -> Tensor:
        """Return the view, with each frame as often as the policy picks it."""
        made = torch.cat(self._parts)
        if np.array_equal(self._places, np.arange(len(made))):
            return made
        return made[torch.from_numpy(self._places).to(made.device)]


def _by_chunk(
    pixels: NDArray[np.uint8] | Tensor, device: torch.device | str, work: Callable[[Tensor], Tensor]
) -> Tensor:
    height, width = pixels.shape[-3:-1]
    if max(height, width) > MAX_SHAPE * min(height, width):  # the resized long side would fill the memory
        raise MediaError(f"{width}x{height} pixels: one side is over {MAX_SHAPE} times the other")
    images = torch.as_tensor(pixels, device=device)
    if images.ndim == 3:
        return work(images[None])[0]
    return torch.cat([work(part) for part in torch.split(images, chunk_frames(height, width))])


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
