"""Items whose encoder trains: its last blocks over stored activations ('top'), or all of it over media ('e2e').

Letters: n items asked for, I items, D model width, W width of an encoder's vectors.

Exactness: a 'top' over the activations that the frozen blocks of an 'e2e' would give is the same function with the same
gradients; what differs is where the inputs come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.representation import ItemRepresentation, ItemsConfig, linear

WITHOUT_GRAPH = 64  # items encoded at a time where nothing is kept for a backward pass, unless `micro_batch` says less
BUCKET = 16  # lengths that count as alike, and are padded to the same
TOGETHER = 32  # items that are encoded together at least, of whatever lengths
SAMPLE = 32  # items that the scale of an encoder's vectors is taken from


class Source(Protocol):
    """Where an encoder's inputs come from: a file of activations, or decoded media."""

    def read(self, items: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return inputs (n, ...) of items (n,) int64, each at most once and ascending, on the device of `items`.

        In the precision in which they are stored: they become float32 at the encoder's door, whole numbers (pixels,
        token ids) stay. What is returned is not written to again. Encoders that take several tensors get them as a
        tuple.
        """


@dataclass(frozen=True)
class Tower:
    """An encoder, or its top, and what it reads.

    Attributes:
        source: of its inputs.
        module: inputs (n, ...) -> (n, W) float32; on the CPU when built.
        trained: the modules inside `module` that train; everything else of it is frozen.
        blocks: modules inside `module`, called one after another, that `checkpointing` goes by.
        lengths: of the inputs of items (n,) int64, (n,) int64 from 1 on, where `source` gives items together as long
            an input as the longest of them needs; None where all inputs are alike.
    """

    source: Source
    module: nn.Module
    trained: tuple[nn.Module, ...]
    blocks: tuple[nn.Module, ...] = ()
    lengths: Callable[[Tensor], Tensor] | None = None


class TowerItems(ItemRepresentation):
    """A trained encoder and a linear map to D, as that of frozen vectors ('v').

    Frozen parts are in eval mode whatever mode the model is in (dropout off, BatchNorm by its running statistics): the
    training code of MicroLens (arXiv 2309.15379) leaves them in training mode, which `bn_mode` 'batch' repeats for
    BatchNorm. What is frozen is no part of the state dict: it comes from the encoder's weights, which the run's record
    names by hash.

    Items of a batch are encoded in groups of like lengths where an input is as long as the longest item needs: the
    vector of an item is the same whatever stands beside it, and padding costs as much as what it pads.

    With `micro_batch` only the vectors of a batch are kept. The backward pass encodes each piece again, from the same
    random state, and carries its part of the loss's gradient on at once: the gradient of the whole batch, with all its
    items as negatives, in the memory of a piece (Gao et al., arXiv 2101.06983).
    """

    shift: Tensor  # (W,)
    gain: Tensor  # ()

    def __init__(self, name: str, tower: Tower, config: ItemsConfig, n_items: int, dim: int) -> None:
        """Take a tower whose `module` is on the CPU, and measure some items' vectors.

        Raises:
            ValueError: vectors that are no (n, W) or not finite; BatchNorm that trains, together with options that
                would let it count items twice.
        """
        super().__init__(n_items, dim)
        self.source, self.tower, self.config = tower.source, tower.module, config
        self._lengths = tower.lengths
        self.lr = config.encoder_lr
        self._trained = tower.trained  # a tuple: their parameters stand in the state dict once, under `tower`
        self._held: Tensor | None = None
        self.tower.requires_grad_(False)
        for module in self._trained:
            module.requires_grad_(True)
        self._refuse_batch_norm(name)
        for block in tower.blocks if config.checkpointing else ():
            _recompute(block)
        self._frozen = self._names_of_frozen()
        self.register_state_dict_post_hook(_leave_out_frozen)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_put_in_frozen)  # type: ignore[no-untyped-call]
        self.train()
        self._measure(name)

    def train(self, mode: bool = True) -> TowerItems:
        """Set the mode of what trains; frozen parts stay in eval mode. No other place decides it."""
        super().train(mode)
        self.tower.eval()
        if self.config.bn_mode == "batch":
            for layer in _batch_norms(self.tower):
                layer.train(mode)
        for module in self._trained:
            module.train(mode)
        return self

    def forward(self, items: Tensor) -> Tensor:
        """Return (n, D) vectors; an item that stands in `items` several times is read and encoded once."""
        if self._held is not None:
            return self._held[items]
        distinct, inverse = torch.unique(items, return_inverse=True)  # ascending
        if not len(distinct):
            return self.shift.new_zeros(0, self.dim)
        pieces = self._pieces(distinct)
        if torch.is_grad_enabled() and self.config.micro_batch and len(pieces) > 1:
            vectors = [checkpoint(self._encode, piece, use_reentrant=False) for piece in pieces]
        else:
            vectors = [self._encode(piece) for piece in pieces]
        if self._lengths is not None:  # pieces do not stand in the order of items
            inverse = torch.argsort(torch.cat(pieces))[inverse]
        return torch.cat(vectors)[inverse]

    def _pieces(self, items: Tensor) -> tuple[Tensor, ...]:
        """Return distinct items in the pieces in which they are encoded, each ascending."""
        most = self.config.micro_batch or len(items)
        if not torch.is_grad_enabled():
            most = min(most, WITHOUT_GRAPH)
        if self._lengths is None:
            return torch.split(items, most)
        groups = by_length(self._lengths(items).to(items.device), most)
        return tuple(items[group] for group in groups)

    def _encode(self, items: Tensor) -> Tensor:
        vectors: Tensor = self.project(self._normalised(self._raw(items)))
        return vectors

    def _raw(self, items: Tensor) -> Tensor:
        inputs: Any = self.source.read(items)
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            inputs = inputs.float()
        vectors: Tensor = self.tower(inputs)
        return vectors

    def _normalised(self, vectors: Tensor) -> Tensor:
        if self.config.normalise == "l2":
            vectors = nn.functional.normalize(vectors, dim=1)
        return (vectors - self.shift) * self.gain

    @torch.no_grad()
    def _measure(self, name: str) -> None:
        """Set shift and gain, and a projection with which items start at `init_std`, from items spread over all."""
        items = torch.linspace(0, self.n_items - 1, min(SAMPLE, self.n_items)).long()
        training = self.training
        self.eval()
        vectors = self._raw(torch.unique(items)).float()
        self.train(training)
        if vectors.ndim != 2 or not bool(torch.isfinite(vectors).all()):
            raise ValueError(
                f"encoder {name!r} gives {tuple(vectors.shape)}, not finite vectors (n, W); check its weights"
            )
        standard = self.config.normalise == "standard"
        shift = vectors.mean(0) if standard else torch.zeros(vectors.shape[1])
        gain = vectors.shape[1] ** 0.5 / _length(vectors - shift) if standard else 1.0
        self.register_buffer("shift", shift)  # in the state dict: the weights they were taken from will have moved on
        self.register_buffer("gain", torch.tensor(gain))
        length = _length(self._normalised(vectors))
        self.project = linear(vectors.shape[1], self.dim, self.config.init_std / length)

    def _refuse_batch_norm(self, name: str) -> None:
        option = "micro_batch" if self.config.micro_batch else "checkpointing" if self.config.checkpointing else ""
        frozen_too = self.config.bn_mode == "batch" and self.config.micro_batch
        part = "whole" if frozen_too else "trained part"
        if option and any(_batch_norms(module) for module in ([self.tower] if frozen_too else self._trained)):
            raise ValueError(
                f"items.{option} encodes items twice, which BatchNorm in the {part} of {name!r} would count twice; "
                f"leave items.{option} out"
            )

    def _names_of_frozen(self) -> tuple[str, ...]:
        """Return the names, as in this module's state dict, of the encoder's tensors that training leaves alone."""
        trained = {id(t) for module in self._trained for t in (*module.parameters(), *module.buffers())}
        if self.config.bn_mode == "batch":
            trained |= {id(t) for layer in _batch_norms(self.tower) for t in layer.buffers()}
        state = self.tower.state_dict(prefix="tower.", keep_vars=True)
        return tuple(name for name, tensor in state.items() if id(tensor) not in trained)


def by_length(lengths: Tensor, most: int) -> list[Tensor]:
    """Return the places 0..n-1 in groups of like lengths, the longest first; each ascending and of at most `most`.

    What has too few of its own length is filled up with shorter ones: small groups cost more than padding.

    Args:
        lengths: (n,) int64.
        most: members of a group, at least 1.
    """
    classes, order = torch.sort(-(-lengths // BUCKET), descending=True, stable=True)
    ends = torch.searchsorted(-classes, -classes, right=True).tolist()  # of the class of each place
    groups, start = [], 0
    while start < len(order):
        end = min(max(ends[start], start + TOGETHER), start + most, len(order))
        groups.append(order[start:end].sort().values)
        start = end
    return groups


def towers_of(model: nn.Module) -> list[TowerItems]:
    """Return the trained encoders inside a model."""
    return [module for module in model.modules() if isinstance(module, TowerItems)]


@contextmanager
def held_tables(model: nn.Module) -> Iterator[None]:
    """Encode all items of every trained encoder once; inside, their vectors are looked up. For evaluation."""
    towers = towers_of(model)
    try:
        for tower in towers:
            tower._held = tower.table()
        yield
    finally:
        for tower in towers:
            tower._held = None


def _length(vectors: Tensor) -> float:
    """Return the root mean square length; 1 where all are zero or alike: any start will do."""
    return float(vectors.square().sum(1).mean().sqrt()) or 1.0


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def _recompute(block: nn.Module) -> None:
    """Let a block keep only its inputs for the backward pass; what is inside is made again there."""
    block.forward = partial(_rerun, block.forward)


def _rerun(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _leave_out_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, TowerItems)
    for name in module._frozen:
        state.pop(prefix + name, None)


def _put_in_frozen(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, TowerItems)
    own = module.tower.state_dict(prefix="tower.")
    for name in module._frozen:
        state.setdefault(prefix + name, own[name])
