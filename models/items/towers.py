"""Items whose encoder trains: its last blocks over stored activations ('top'), or up to all over media ('e2e').

Letters: n items asked for, I items, D model width, W width of an encoder's vectors.

Exactness: a 'top' over the activations that the frozen blocks of an 'e2e' would give is the same function with the same
gradients. They differ only in where the inputs come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.items.frozen import start_length
from models.shared.host_copy import host_copy, sent
from models.shared.process_group import ALONE, Ranks, own_randomness
from models.shared.representation import ItemRepresentation, ItemsConfig, linear

WITHOUT_GRAPH = 64  # items encoded at a time without gradients, unless `micro_batch` is smaller
# Items encoded at a time with gradients, where items have lengths. In a larger group many tensors exceed 32 MB, and
# glibc takes those anew from the system every time.
WITH_GRAPH = 128
SAMPLE = 32  # items on which the scale of an encoder's vectors is measured
# Largest relative difference to a file's vectors; int8 activations move MiniLM's by 0.056 (docs/prefix-cache.md).
OTHER_VECTORS = 0.1
BUCKET = 16  # lengths count as alike if they round up to the same multiple of this
TOGETHER = 32  # items that are encoded together at least, whatever their lengths


class Source(Protocol):
    """Where an encoder's inputs come from: a file of activations, or decoded media."""

    def read(self, items: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the inputs (n, ...) of distinct, ascending items (n,) int64, on the device of `items`.

        `host_copy(items)` gives the items on the CPU; in training nothing waits for it.

        Inputs have the precision in which they are stored: floats become float32 at the encoder's door, and whole
        numbers (pixels, token ids) stay. The caller does not write to what is returned. Encoders that take several
        tensors get a tuple.
        """


@runtime_checkable
class LooksAhead(Protocol):
    """A source that may read inputs before they are asked for."""

    def expect(self, items: Tensor) -> None:
        """Take the items (n,) int64, on the CPU, that are likely to be read next: a hint that changes no result."""


@dataclass(frozen=True)
class Tower:
    """An encoder, or its top, and what it reads."""

    source: Source
    """Source of the encoder's inputs."""
    module: nn.Module
    """Module from inputs (n, ...) to vectors (n, W) float32; on the CPU when built."""
    trained: tuple[nn.Module, ...]
    """Modules inside `module` that train; everything else in it is frozen."""
    blocks: tuple[nn.Module, ...] = ()
    """Modules inside `module`, called one after another, to which `checkpointing` applies."""
    lengths: Callable[[Tensor], Tensor] | None = None
    """Function from items (n,) int64 to the lengths of their inputs, (n,) int64 from 1 on, where `source` pads items
    that are read together to the longest of them; None where all inputs are alike."""


@dataclass
class Meter:
    """What a trained encoder has done since it was last asked."""

    with_graph: int = 0
    """Items encoded with gradients; those that `micro_batch` encodes again for the backward pass count again."""
    without_graph: int = 0
    """Items encoded without gradients, to be looked at only."""
    read_s: float = 0.0
    """Seconds spent on reading inputs."""
    forward_s: float = 0.0
    """Seconds spent in forward passes; on a GPU, on starting them."""


class TowerItems(ItemRepresentation):
    """A trained encoder and a linear map to D like that of frozen vectors ('v').

    Frozen parts are in eval mode whatever mode the model is in (dropout off, BatchNorm by its running statistics). The
    training code of MicroLens (arXiv 2309.15379) leaves them in training mode, which `bn_mode: batch` repeats for
    BatchNorm. Frozen tensors are not in the state dict: they come from the encoder's weights, which the run's record
    names by hash.

    Where a source pads inputs to the longest item, a batch is encoded in groups of similar lengths. The vector of an
    item is the same whatever stands beside it, and padding costs as much as what it pads.

    With `micro_batch` only the vectors of a batch are kept. The backward pass encodes each piece again, from the same
    random state, and carries its part of the loss's gradient on at once. This gives the gradient of the whole batch,
    with all its items as negatives, in the memory of one piece (Gao et al., arXiv 2101.06983).
    """

    shift: Tensor  # (W,) subtracted from the encoder's vectors
    gain: Tensor  # () by which they are then multiplied

    def __init__(self, name: str, tower: Tower, config: ItemsConfig, n_items: int, dim: int) -> None:
        """Take a tower whose `module` is on the CPU, and measure some items' vectors.

        Raises:
            ValueError: the vectors are not (n, W) or not finite; BatchNorm trains, and an option would let it count
                items twice.
        """
        super().__init__(n_items, dim)
        self.name, self.source, self.tower, self.config = name, tower.source, tower.module, config
        self._lengths = tower.lengths
        self.lr = config.encoder_lr
        self.ranks, self._stream = ALONE, 0
        self._trained = tower.trained  # a tuple: the state dict has their parameters once, under `tower`
        self._held: Tensor | None = None
        self.meter = Meter()
        self.tower.requires_grad_(False)
        for module in self._trained:
            module.requires_grad_(True)
        self._refuse_batch_norm()
        for block in tower.blocks if config.checkpointing else ():
            recompute(block)
        self._frozen = self._names_of_frozen()
        self.register_state_dict_post_hook(_leave_out_frozen)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_put_in_frozen)  # type: ignore[no-untyped-call]
        self.train()
        self._measure(name)

    def train(self, mode: bool = True) -> TowerItems:
        """Set the mode of what trains; frozen parts stay in eval mode. Nothing else sets these modes."""
        super().train(mode)
        self.tower.eval()
        if self.config.bn_mode == "batch":
            for layer in batch_norms(self.tower):
                layer.train(mode)
        for module in self._trained:
            module.train(mode)
        return self

    def forward(self, items: Tensor) -> Tensor:
        """Return (n, D) vectors; an item that occurs several times in `items` is read and encoded once."""
        if self._held is not None:
            return self._held[items]
        asked = host_copy(items)
        distinct, inverse = torch.unique(asked, return_inverse=True)  # ascending
        if self.ranks.alone or not len(distinct):
            vectors = self._encode_all(distinct)
        else:
            with own_randomness(items.device, self._stream, int(distinct.sum())):
                own = self._encode_all(self.ranks.share(distinct))
            vectors = self.ranks.gather(own.float(), len(distinct))
        return vectors if torch.equal(distinct, asked) else vectors[sent(inverse, items.device)]

    def share(self, ranks: Ranks, number: int) -> None:
        """Encode only this process's share of the items from now on; see `share_out`."""
        counting = (self.tower,) if self.config.bn_mode == "batch" else self._trained
        if not ranks.alone and any(batch_norms(module) for module in counting):
            part = "" if self.config.bn_mode == "batch" else " in the trained part"
            raise ValueError(
                f"BatchNorm{part} of {self.name!r} would see 1/{ranks.world} of a batch in each of "
                f"{ranks.world} processes; train it with one process"
            )
        self.ranks, self._stream = ranks, number * ranks.world + ranks.rank

    def expect(self, items: Tensor) -> None:
        """Let the source read ahead: the next batch will probably ask for items (n,) int64, on the CPU."""
        if isinstance(self.source, LooksAhead):
            self.source.expect(self.ranks.share(torch.unique(items)))

    @torch.no_grad()
    def project_onto(self, vectors: Tensor, points: Tensor) -> float:
        """Set the map to D by least squares, so that vectors (I, W) land on points (I, D); return the relative error.

        A spread of the items is enough to set the map. Directions in which the vectors differ by rounding alone are
        left out: an encoder that trains does not reproduce them.

        Raises:
            ValueError: the encoder gives other vectors than these.
        """
        self._refuse_other_vectors(vectors)
        some = _spread(len(vectors), 8 * vectors.shape[1])
        inputs, wanted = self._normalised(vectors[some].float()).double(), points[some].double()
        middle, aim = inputs.mean(0), wanted.mean(0)
        # this driver works by singular values and leaves the smallest out
        weight = torch.linalg.lstsq(inputs - middle, wanted - aim, rcond=1e-6, driver="gelsd").solution
        self.project.weight.copy_(weight.T)
        self.project.bias.copy_(aim - middle @ weight)
        reached = inputs @ weight + (aim - middle @ weight)
        return float((reached - wanted).norm() / wanted.norm().clamp(min=1e-12))

    def _refuse_other_vectors(self, vectors: Tensor) -> None:
        some = _spread(self.n_items, SAMPLE)
        training = self.training
        self.eval()
        own = self._raw(some).float()
        self.train(training)
        known = vectors[some].float()
        apart = float((own - known).norm() / known.norm()) if own.shape == known.shape else 1.0
        if not apart <= OTHER_VECTORS:
            raise ValueError(
                f"encoder {self.name!r} gives vectors that differ from the feature file's by {apart:.2g} of their "
                f"length (at most {OTHER_VECTORS:g}); use the weights, frames and pooling that made the file"
            )

    def _encode_all(self, distinct: Tensor) -> Tensor:
        """Return the vectors (n, D), on the module's device, of distinct items (n,) on the CPU."""
        if not len(distinct):
            return self.shift.new_zeros(0, self.dim)
        pieces = self._pieces(distinct)
        if torch.is_grad_enabled() and self.config.micro_batch and len(pieces) > 1:
            vectors = torch.cat([checkpoint(self._encode, piece, use_reentrant=False) for piece in pieces])
        else:
            vectors = torch.cat([self._encode(piece) for piece in self._one_ahead(pieces)])
        # pieces by length do not stand in the order of items
        return vectors if self._lengths is None else vectors[sent(torch.argsort(torch.cat(pieces)), vectors.device)]

    def _pieces(self, items: Tensor) -> tuple[Tensor, ...]:
        """Return distinct items in the pieces that are encoded at a time, each ascending."""
        most = self.config.micro_batch or (len(items) if self._lengths is None else WITH_GRAPH)
        if not torch.is_grad_enabled():
            most = min(most, WITHOUT_GRAPH)
        if self._lengths is None:
            return torch.split(items, most)
        groups = by_length(self._lengths(items), most)
        return tuple(items[group] for group in groups)

    def _one_ahead(self, pieces: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the pieces; before each, let the source look ahead to the one after it."""
        for piece, following in zip_longest(pieces, pieces[1:]):
            if following is not None and isinstance(self.source, LooksAhead):
                self.source.expect(following)
            yield piece

    def _encode(self, items: Tensor) -> Tensor:
        vectors: Tensor = self.project(self._normalised(self._raw(sent(items, self.shift.device))))
        return vectors

    def _raw(self, items: Tensor) -> Tensor:
        began = time.perf_counter()
        inputs: Any = self.source.read(items)
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            inputs = inputs.float()
        read = time.perf_counter()
        vectors: Tensor = self.tower(inputs)
        self.meter.read_s += read - began
        self.meter.forward_s += time.perf_counter() - read
        if torch.is_grad_enabled():
            self.meter.with_graph += len(items)
        else:
            self.meter.without_graph += len(items)
        return vectors

    def _normalised(self, vectors: Tensor) -> Tensor:
        if self.config.normalise == "l2":
            vectors = nn.functional.normalize(vectors, dim=1)
        return (vectors - self.shift) * self.gain

    @torch.no_grad()
    def _measure(self, name: str) -> None:
        """Set shift, gain and a projection with which items start at `init_std`, measured on a spread of items."""
        training = self.training
        self.eval()
        vectors = self._raw(_spread(self.n_items, SAMPLE)).float()
        self.train(training)
        if vectors.ndim != 2 or not bool(torch.isfinite(vectors).all()):
            raise ValueError(
                f"encoder {name!r} gives shape {tuple(vectors.shape)}, but must give finite vectors (n, W); "
                "check its weights"
            )
        standard = self.config.normalise == "standard"
        shift = vectors.mean(0) if standard else torch.zeros(vectors.shape[1])
        gain = vectors.shape[1] ** 0.5 / start_length(vectors - shift) if standard else 1.0
        self.register_buffer("shift", shift)  # in the state dict: training changes the weights they were measured with
        self.register_buffer("gain", torch.tensor(gain))
        length = start_length(self._normalised(vectors))
        self.project = linear(vectors.shape[1], self.dim, self.config.init_std / length)

    def _refuse_batch_norm(self) -> None:
        option = "micro_batch" if self.config.micro_batch else "checkpointing" if self.config.checkpointing else ""
        whole = self.config.bn_mode == "batch" and bool(self.config.micro_batch)
        if option and any(batch_norms(module) for module in ((self.tower,) if whole else self._trained)):
            part = "any part" if whole else "the trained part"
            raise ValueError(
                f"items.{option} encodes items twice, and BatchNorm in {part} of {self.name!r} would count them "
                f"twice; leave items.{option} out"
            )

    def _names_of_frozen(self) -> tuple[str, ...]:
        """Return the names, as in this module's state dict, of the encoder's tensors that do not train."""
        trained = {id(t) for module in self._trained for t in (*module.parameters(), *module.buffers())}
        if self.config.bn_mode == "batch":
            trained |= {id(t) for layer in batch_norms(self.tower) for t in layer.buffers()}
        state = self.tower.state_dict(prefix="tower.", keep_vars=True)
        return tuple(name for name, tensor in state.items() if id(tensor) not in trained)


def towers_of(model: nn.Module) -> list[TowerItems]:
    """Return the trained encoders inside a model."""
    return [module for module in model.modules() if isinstance(module, TowerItems)]


def take_meters(model: nn.Module) -> Meter:
    """Return what all trained encoders inside a model have done, and reset their meters."""
    total = Meter()
    for tower in towers_of(model):
        for name, value in vars(tower.meter).items():
            setattr(total, name, getattr(total, name) + value)
        tower.meter = Meter()
    return total


def share_out(model: nn.Module, ranks: Ranks) -> None:
    """Let every process encode its share of the items that a model asks for; all must ask for the same items.

    Vectors and gradients are those of one process, except for rounding and for dropout inside an encoder, which each
    process draws for itself.

    Raises:
        ValueError: BatchNorm trains, and its statistics would be those of a share.
    """
    for number, tower in enumerate(towers_of(model)):
        tower.share(ranks, number)


@contextmanager
def held_tables(model: nn.Module) -> Iterator[None]:
    """Encode all items of every trained encoder once; inside, look their vectors up. For evaluation.

    Inside another one, those that are held already are used.
    """
    towers = [tower for tower in towers_of(model) if tower._held is None]
    try:
        for tower in towers:
            tower._held = tower.table()
        yield
    finally:
        for tower in towers:
            tower._held = None


def by_length(lengths: Tensor, most: int) -> list[Tensor]:
    """Return the places 0..n-1 in groups of similar lengths, longest first; each ascending and of at most `most`.

    Small groups are topped up with shorter items, because small groups cost more than padding.

    Args:
        lengths: (n,) int64.
        most: largest number of members in a group, at least 1.
    """
    classes, order = torch.sort(-(-lengths // BUCKET), descending=True, stable=True)
    ends = torch.searchsorted(-classes, -classes, right=True).tolist()  # where each place's class ends
    groups, start = [], 0
    while start < len(order):
        end = min(max(ends[start], start + TOGETHER), start + most, len(order))
        groups.append(order[start:end].sort().values)
        start = end
    return groups


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Return the BatchNorm layers inside a module."""
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def recompute(block: nn.Module) -> None:
    """Let a block keep only its inputs for the backward pass, which computes what is inside again."""
    block.forward = partial(_rerun, block.forward)


def _spread(count: int, most: int) -> Tensor:
    """Return at most `most` of the numbers below `count`, ascending and spread over all of them."""
    numbers: Tensor = torch.unique(torch.linspace(0, count - 1, min(most, count)).long())
    return numbers


def _leave_out_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, TowerItems)
    for name in module._frozen:
        state.pop(prefix + name, None)


def _put_in_frozen(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, TowerItems)
    own = module.tower.state_dict(prefix="tower.")
    for name in module._frozen:
        state.setdefault(prefix + name, own[name])


def _rerun(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
