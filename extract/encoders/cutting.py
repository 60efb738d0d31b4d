"""Cuts an encoder in two before its last blocks: a frozen prefix, whose activations can be stored, and a top to train.

The two halves do step by step what the library's forward does, with the library's own modules. The contract test
compares them with the library's forward for every encoder and every cut. Between the halves there is one tensor
(B, S, F): B batch, S tokens or positions, F features per token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from extract.encoders.encoder import Encoder
from extract.encoders.inputs import Batch, PixelInput, Tokens
from extract.encoders.parts import Cut, Parts, Words
from features.errors import ConfigError

PIXEL_CHANNELS = -3  # dimension of frames and covers that holds their channels
LANES = 16  # float32 numbers that AVX-512 adds at once


class Packing(Protocol):
    """A way to turn the state between the halves into one tensor, and back without loss."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return (S, F)."""

    def pack(self, state: Any) -> Tensor:
        """Return (B, S, F)."""

    def unpack(self, activations: Tensor) -> Any:
        """Return the state."""


@dataclass(frozen=True)
class OneTensor:
    """Packs a map (B, ..., C, ...) as (B, positions, C), or tokens as they are. The state may also hold `constants`."""

    inner: tuple[int, ...]
    channels: int
    constants: tuple[Any, ...] | None

    @property
    def shape(self) -> tuple[int, int]:
        """Return (S, F)."""
        width = self.inner[self.channels]
        return int(torch.Size(self.inner).numel()) // width, width

    def pack(self, state: Any) -> Tensor:
        """Return (B, S, F)."""
        tensor: Tensor = state if self.constants is None else state[0]
        return tensor.movedim(self._dimension, -1).reshape(len(tensor), *self.shape)

    def unpack(self, activations: Tensor) -> Any:
        """Return the state. A map keeps its channels innermost in memory, as `preprocess` leaves them."""
        places = [size for place, size in enumerate(self.inner) if place != self.channels]
        tensor = activations.reshape(len(activations), *places, self.shape[1])
        tensor = tensor.movedim(-1, self._dimension)
        return tensor if self.constants is None else (tensor, *self.constants)

    @property
    def _dimension(self) -> int:
        return self.channels + 1


@dataclass(frozen=True)
class SideBySide:
    """Packs a list of maps of different shapes, flattened one after the other: (B, 1, numbers)."""

    inner: tuple[tuple[int, ...], ...]

    @property
    def _sizes(self) -> list[int]:
        return [int(torch.Size(shape).numel()) for shape in self.inner]

    @property
    def shape(self) -> tuple[int, int]:
        """Return (1, F)."""
        return 1, sum(self._sizes)

    def pack(self, state: Any) -> Tensor:
        """Return (B, 1, F)."""
        return torch.cat([tensor.flatten(1) for tensor in state], dim=1)[:, None]

    def unpack(self, activations: Tensor) -> Any:
        """Return the list of maps."""
        flat = torch.split(activations.flatten(1), self._sizes, dim=1)
        return [part.reshape(len(part), *shape) for part, shape in zip(flat, self.inner, strict=True)]


@dataclass(frozen=True)
class Padded:
    """Packs the tokens of titles, padded with rows of zeros. They also mark a title's end: no token is all zeros.

    If there is no prefix, token ids are stored instead, as id + 1 in float32.
    """

    shape: tuple[int, int]
    """Tokens per title and numbers per token, (S, F)."""
    context: int
    """Number of tokens that the model always sees. 0 stands for the length of the longest title, rounded up to a
    multiple of `LANES`: processors add that many numbers at once, so sums over more zeros have the same bits."""
    ids: bool
    """Whether token ids are stored instead of states."""
    limit: int
    """Largest number of tokens that the model sees."""

    def pack(self, state: Any) -> Tensor:
        """Return (B, S, F); ValueError for a title longer than S."""
        values, mask = state
        if bool(mask[:, self.shape[0] :].any()):
            raise ValueError(f"a title has {int(mask.sum(1).max())} tokens, but only {self.shape[0]} are kept")
        states = (values + 1)[..., None].float() if self.ids else values
        states = states.masked_fill(~mask[..., None], 0)[:, : self.shape[0]]
        return functional.pad(states, (0, 0, 0, self.shape[0] - states.shape[1]))

    def unpack(self, activations: Tensor) -> Any:
        """Return the state, as long as the prefix saw these titles."""
        mask = self._mask(activations)
        length = self._length(mask)
        missing = length - activations.shape[1]
        states = functional.pad(activations, (0, 0, 0, missing)) if missing > 0 else activations[:, :length]
        states = states.contiguous()  # as blocks give them; otherwise the gradient of a bias is summed in another order
        mask = functional.pad(mask, (0, missing)) if missing > 0 else mask[:, :length]
        if self.ids:
            return Tokens((states[..., 0].round().long() - 1).clamp(min=0), mask)
        return Words(states, mask)

    def padded(self, titles: Tokens) -> Tokens:
        """Return the tokens of a batch, padded to the length that the model sees."""
        missing = max(0, self._length(titles.mask) - titles.mask.shape[1])
        return Tokens(functional.pad(titles.ids, (0, missing)), functional.pad(titles.mask, (0, missing)))

    def _length(self, mask: Tensor) -> int:
        longest = int(mask.any(dim=0).nonzero().max()) + 1
        return self.context or max(longest, min(-(-longest // LANES) * LANES, self.limit))

    def lengths(self, titles: Tokens | Tensor) -> Tensor:
        """Return the number of tokens in each title, (B,) int64, from its tokens or from its activations (B, S, F)."""
        mask = self._mask(titles) if isinstance(titles, Tensor) else titles.mask
        return mask.sum(dim=1)

    @staticmethod
    def _mask(activations: Tensor) -> Tensor:
        mask = (activations != 0).any(dim=-1)
        mask[:, 0] = True  # an item without a vector is read as zeros: as a title of one token its numbers stay finite
        return mask


class Prefix(nn.Module):
    """The frozen part: it has no gradients, and `train` does not change its mode."""

    def __init__(self, steps: Sequence[nn.Module], packing: Packing) -> None:
        super().__init__()
        self.steps = nn.Sequential(*steps).requires_grad_(False)
        self.packing = packing

    @property
    def shape(self) -> tuple[int, int]:
        """Return (S, F)."""
        return self.packing.shape

    def train(self, mode: bool = True) -> Prefix:  # noqa: ARG002
        """Change nothing: the prefix keeps its mode."""
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Return activations (B, S, F) float32 for a batch that the encoder takes.

        Pixels are laid out in memory with their channels innermost, as stored activations are. Otherwise convolutions
        would round in another order, and an item must give the same bits on either side of a cut and in every batch.
        """
        alone = isinstance(batch, Tensor) and len(batch) == 1 and batch.device.type == "cpu"
        if isinstance(batch, Tokens):
            assert isinstance(self.packing, Padded)
            batch = self.packing.padded(batch)
        else:
            if alone:  # oneDNN uses other convolutions for one item than for several
                batch = torch.cat([batch] * 2)
            batch = batch.movedim(PIXEL_CHANNELS, -1).contiguous().movedim(-1, PIXEL_CHANNELS)
        with torch.no_grad():
            activations = self.packing.pack(self.steps(batch)).float()
        return activations[:1] if alone else activations


class Top(nn.Module):
    """The last blocks and all that follows them. Its parameters are the encoder's own, with gradients switched on."""

    def __init__(self, steps: Sequence[nn.Module], packing: Packing) -> None:
        super().__init__()
        self.steps = nn.Sequential(*steps).requires_grad_(True)
        self.packing = packing

    def forward(self, activations: Tensor) -> Tensor:
        """Return (B, W) float32, W the encoder's width, from activations (B, S, F) float32."""
        vectors: Tensor = self.steps(self.packing.unpack(activations))
        return vectors.float()


def split_encoder(encoder: Encoder, count: Cut, *, tokens: int | None = None) -> tuple[Prefix, Top]:
    """Return (prefix, top): two modules on the encoder's own weights that together are the encoder.

    Args:
        encoder: the encoder to cut.
        count: T, the number of blocks in `top`, which also holds all that follows them. With 'all' the prefix only
            packs the preprocessed batch.
        tokens: S for title encoders, if no title is longer; by default the entry's limit.

    Raises:
        ConfigError: T is below 1 or above the number of blocks, the encoder has no block list, or its steps are not
            known.
    """
    parts = encoder.parts()
    cut = 0 if count == "all" else _place(encoder, parts.steps, count)
    packing = _packing(encoder, parts, cut, tokens)
    prefix, top = Prefix(parts.steps[:cut], packing), Top(parts.steps[cut:], packing)
    library = {id(module) for module in encoder.model.modules()}  # these keep their modes: a fault may have set them
    for module in (*prefix.modules(), *top.modules()):
        if id(module) not in library:
            module.training = False
    return prefix, top


def _place(encoder: Encoder, steps: Sequence[nn.Module], count: int) -> int:
    """Return the index of the step that holds the first of the last `count` blocks."""
    most, name = len(encoder.blocks()), encoder.spec.name
    if not most:
        raise ConfigError(f"encoder {name!r} has no block list and cannot be cut; choose one that `encoders` lists")
    if not 1 <= count <= most:
        raise ConfigError(f"top_blocks is {count}, but encoder {name!r} has {most} blocks; use 1 to {most}")
    return places(encoder, steps)[-count]


def places(encoder: Encoder, steps: Sequence[nn.Module]) -> list[int]:
    """Return the index of the step that holds each block, in forward order."""
    home = {id(module): number for number, step in enumerate(steps) for module in step.modules()}
    return [home[id(block)] for block in encoder.blocks()]


def _packing(encoder: Encoder, parts: Parts, cut: int, tokens: int | None) -> Packing:
    state = _state_after(encoder, parts.steps, cut)
    if isinstance(state, Tokens | Words):
        limit = getattr(encoder.spec.inputs, "max_tokens", 0)
        width = 1 if isinstance(state, Tokens) else state.states.shape[-1]
        return Padded((tokens or limit, width), parts.context, isinstance(state, Tokens), limit)
    if isinstance(state, list):
        return SideBySide(tuple(tuple(tensor.shape[1:]) for tensor in state))
    tensor, *constants = state if isinstance(state, tuple) else (state,)
    inner = tuple(tensor.shape[1:])
    dimension = -1 if len(inner) == 2 else PIXEL_CHANNELS if cut == 0 else parts.channels
    channels = dimension - 1 if dimension > 0 else len(inner) + dimension
    return OneTensor(inner, channels, tuple(constants) if isinstance(state, tuple) else None)


def probe(encoder: Encoder, run: Callable[[Batch], Any]) -> Any:
    """Return what `run` gives for one item. Pixels are fake: nothing is computed, because only shapes are wanted."""
    mode = _fake(encoder)
    with mode, torch.no_grad():
        return run(_one_item(encoder))


def _fake(encoder: Encoder) -> Any:
    """Return the mode in which one item runs through an encoder: titles, which cost little, are computed."""
    return FakeTensorMode(allow_non_fake_inputs=True) if encoder.tokenizer is None else contextlib.nullcontext()


def _one_item(encoder: Encoder) -> Batch:
    """Return one title's tokens, or black pixels."""
    spec = encoder.spec
    device = next(encoder.model.parameters()).device
    if encoder.tokenizer is not None:
        tokens = encoder.tokenizer.tokenise(["a"])
        return Tokens(tokens.ids.to(device), tokens.mask.to(device))
    assert isinstance(spec.inputs, PixelInput)
    frames = () if spec.frames is None else (spec.frames.count,)
    return torch.zeros(1, *frames, 3, spec.inputs.size, spec.inputs.size, device=device)


@dataclass(frozen=True)
class _Walk:
    """One item's way through an encoder, as far as cuts have asked for it."""

    device: torch.device
    mode: Any
    states: list[Any]
    """The batch, and what the first steps have given, one after the other."""


_WALKS: WeakKeyDictionary[Encoder, _Walk] = WeakKeyDictionary()


def _state_after(encoder: Encoder, steps: Sequence[nn.Module], count: int) -> Any:
    """Return what the first `count` steps give for one item.

    The way is kept with the encoder: fake BatchNorm costs more than a real one, and training cuts an encoder twice.
    """
    device = next(encoder.model.parameters()).device
    walk = _WALKS.get(encoder)
    if walk is None or walk.device != device:
        mode = _fake(encoder)
        with mode:
            walk = _WALKS[encoder] = _Walk(device, mode, [_one_item(encoder)])
    with walk.mode, torch.no_grad():
        for step in steps[len(walk.states) - 1 : count]:
            state = walk.states[-1]
            walk.states.append(step([*state] if isinstance(state, list) else state))  # SlowFast changes its list
    return walk.states[count]
