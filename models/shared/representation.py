"""The contract of item representations, and the settings that choose one. The kinds are in models/items/.

Letters: n items asked for, I items, D model width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn

Kind = Literal["id", "v", "dnn", "id+v", "adapter", "top", "e2e"]
Fuse = Literal["sum", "concat", "mean", "gate"]
Normalise = Literal["none", "l2", "standard"]
Side = Literal["popularity", "tags"]
BatchNormMode = Literal["eval", "batch"]

CONTENT = ("v", "dnn", "id+v", "adapter")  # kinds made from frozen vectors or layers
TOWERS = ("top", "e2e")  # kinds that train an encoder
CHUNK = 8192  # items per step of `table`: bounds the memory of hidden layers at 1M items


@dataclass(frozen=True)
class ItemsConfig:
    """The switch between item representations."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Kind = "id"
    """'id' one learned vector per item; 'v' frozen vector and a linear projection; 'dnn' frozen vector and an MLP;
    'id+v' learned and frozen; 'adapter' a side network over frozen layers (models/items/adapters.py) and a linear
    projection; 'top' the last blocks of an encoder, trained, over stored activations of the blocks before them, and
    a linear projection; 'e2e' the same over media. 'v', 'dnn' and 'id+v' need vectors (I, F), 'adapter' layers (I,
    L, F), 'top' activations (I, S, F); others ignore them. Every feature file is a part of its own, and so is every
    encoder and every side feature."""
    dim: int = 64
    """D."""
    mix: bool = False
    """'v', 'dnn' and 'id+v' only: read layers (I, L, F) instead, and learn a weighted mix of them in the vector's
    place."""
    inter: bool = False
    """'adapter' only: a further part, a side network over the layers of all feature files."""
    fuse: Fuse = "sum"
    """How several parts become one vector: 'sum' or 'mean' of D-wide parts, 'concat' of P parts of width D / P (same
    width and cost), 'gate' a sum with learned weights per item, all 1 at the start."""
    side: tuple[Side, ...] = ()
    """Categories of items that are parts, too: 'popularity' (10 levels), 'tags'."""
    layers: int = 2
    """'dnn' only: extra layers after the projection."""
    hidden: int | None = None
    """'dnn': width of the projection and of all layers but the last; 'adapter': of the adapters' bottleneck; None = D.
    """
    dropout: float = 0.1
    """'dnn' only: before each extra layer, in [0, 1)."""
    normalise: Normalise = "standard"
    """Of the frozen vectors, once, each modality and each layer for itself: 'standard' = mean 0 and deviation 1 per
    dimension over the items that have one, 'l2' = length 1 per item, 'none'. Of a trained encoder's vectors
    'standard' takes a shift and one factor from some items before training."""
    init_std: float = 0.02
    """Standard deviation of item vectors' entries before training, whatever their source."""
    encoder: str | tuple[str, ...] | None = None
    """'top' and 'e2e' only, as all below: the encoder's name, or a list of names."""
    top_blocks: int | Literal["all"] = 1
    """T, how many of its last blocks train, with all that follows them; 'all': the whole encoder."""
    encoder_lr: float | None = None
    """Its learning rate; None = that of the rest."""
    weights: str = "pretrained"
    """What it starts from: 'pretrained', 'random', or a file or folder."""
    encoder_seed: int | None = 0
    """Seed for random weights of the encoder, the same for every seed of the recipe, as pretrained weights are; 'top'
    refuses a file of another one. None: the seed in the file for 'top', the recipe's for 'e2e', as in runs made
    before there was this setting."""
    frames: str | None = None
    """Which frames of a clip a video encoder sees, such as 'uniform:8'; None = its own. Those of 'top' are its file's.
    """
    checkpointing: bool = False
    """Make its blocks' activations again in the backward pass instead of keeping them."""
    micro_batch: int | None = None
    """Items that are encoded at a time in training; None = all of a batch. The loss sees the whole batch all the same:
    each piece is encoded once more in the backward pass."""
    bn_mode: BatchNormMode = "eval"
    """Of BatchNorm in the frozen part: 'eval' normalises by its running statistics; 'batch', kind 'e2e' only, by the
    batch at hand while the model trains, and lets the running ones follow, as the code of MicroLens does. Encoders
    without BatchNorm take either."""
    encoder_dropout: bool = True
    """Whether dropout and drop-path act in the blocks that train, as their encoder has them."""

    def __post_init__(self) -> None:
        """Refuse values no representation can have."""
        choices = (("kind", Kind), ("fuse", Fuse), ("normalise", Normalise), ("bn_mode", BatchNormMode))
        for name, known in choices:
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"items.{name} is {getattr(self, name)!r}; known: {', '.join(get_args(known))}")
        if self.dim < 1 or self.layers < 0 or (self.hidden is not None and self.hidden < 1):
            raise ValueError(f"items: dim {self.dim} and hidden {self.hidden} must be >= 1, layers {self.layers} >= 0")
        if not 0 <= self.dropout < 1 or not self.init_std > 0:
            raise ValueError(f"items: dropout {self.dropout} must be in [0, 1) and init_std {self.init_std} > 0")
        for side in self.side:
            if side not in get_args(Side) or self.side.count(side) > 1:
                raise ValueError(
                    f"items.side is {list(self.side)}; each of {', '.join(get_args(Side))} may stand in it once"
                )
        self._refuse_tower()

    def _refuse_tower(self) -> None:
        if self.kind in TOWERS and not self.encoders:
            raise ValueError(f"items.kind is {self.kind!r}, which trains an encoder; name it under items.encoder")
        if not all(self.encoders) or len(set(self.encoders)) < len(self.encoders):
            raise ValueError(f"items.encoder is {self.encoder!r}; each encoder has a name and stands in it once")
        if isinstance(self.top_blocks, int) and self.top_blocks < 1:
            raise ValueError(f"items.top_blocks is {self.top_blocks}; it must be at least 1, or 'all'")
        if self.encoder_lr is not None and not self.encoder_lr > 0:
            raise ValueError(f"items.encoder_lr is {self.encoder_lr}; it must be above 0, or null for that of the rest")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"items.micro_batch is {self.micro_batch}; it must be at least 1, or null")

        if self.kind == "top" and self.bn_mode == "batch":
            raise ValueError(
                "items.bn_mode is 'batch', which kind 'top' cannot have: it would make an item's activations depend on "
                "its batch, and stored ones do not; use kind 'e2e', or bn_mode 'eval'"
            )

    @property
    def reads_layers(self) -> bool:
        """Return whether the items are made from layers (I, L, F), not vectors (I, F)."""
        return self.kind == "adapter" or (self.mix and self.kind in CONTENT)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Return the names under `encoder`."""
        return (self.encoder,) if isinstance(self.encoder, str) else self.encoder or ()


class ItemRepresentation(nn.Module, ABC):
    """Vectors of items, by dense index."""

    fuse: Fuse = "concat"  # how `parts` become one vector; of a single part any is the same

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.dim = dim

    @abstractmethod
    def forward(self, items: Tensor) -> Tensor:
        """Return (n, D) float32 vectors of items (n,) int64, with graph. Pass each item once: it may be expensive."""

    @property
    def parts(self) -> tuple[ItemRepresentation, ...]:
        """Return what the vectors are fused from; models with a branch per modality (MMGCN, GRCN) use the parts."""
        return (self,)

    def everything(self) -> Tensor:
        """Return (I, D) vectors of all items, with graph: for models that propagate over all of them."""
        return cast(Tensor, self(torch.arange(self.n_items, device=next(self.parameters()).device)))

    @torch.no_grad()
    def table(self) -> Tensor:
        """Return (I, D) vectors of all items as at inference (no dropout, no graph); training mode is kept."""
        training = self.training
        self.eval()
        try:
            everything = torch.arange(self.n_items, device=next(self.parameters()).device)
            return torch.cat([self(chunk) for chunk in torch.split(everything, CHUNK)])
        finally:
            self.train(training)


def linear(inner: int, outer: int, std: float) -> nn.Linear:
    """Return a linear layer with weights normal(0, std) and biases 0."""
    layer = nn.Linear(inner, outer)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
