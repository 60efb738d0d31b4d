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
CHUNK = 8192  # items per step of `table`; bounds the memory of hidden layers at 1M items


@dataclass(frozen=True)
class ItemsConfig:
    """Which item representation a recommender gets, and its options."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Kind = "id"
    """What item vectors are made of. 'id': one learned vector per item. 'v': a frozen vector and a linear projection.
    'dnn': a frozen vector and an MLP. 'id+v': learned and frozen. 'adapter': a side network over frozen layers
    (models/items/adapters.py) and a linear projection. 'top': the last blocks of an encoder, trained, over stored
    activations of the blocks before them, and a linear projection. 'e2e': the same over media. 'v', 'dnn' and 'id+v'
    need vectors (I, F), 'adapter' layers (I, L, F), 'top' activations (I, S, F); others ignore them. Every feature file
    is a part of its own, and so is every encoder and every side feature."""
    dim: int = 64
    """Model width D."""
    mix: bool = False
    """Whether layers (I, L, F) are read instead, and a learned weighted mix of them takes the vector's place; 'v',
    'dnn' and 'id+v' only."""
    inter: bool = False
    """Whether there is a further part, a side network over the layers of all feature files; 'adapter' only."""
    fuse: Fuse = "sum"
    """How several parts become one vector: 'sum' or 'mean' of D-wide parts; 'concat' of P parts of width D / P (same
    width and cost); 'gate', a sum with learned weights per item, all 1 at the start."""
    side: tuple[Side, ...] = ()
    """Categories of items that are parts, too: 'popularity' (10 levels), 'tags'."""
    layers: int = 2
    """Number of extra layers after the projection; 'dnn' only."""
    hidden: int | None = None
    """Width of all layers but the last ('dnn'), the projection included, or of the adapters' bottleneck ('adapter').
    None: the width is D."""
    dropout: float = 0.1
    """Dropout before each extra layer, in [0, 1); 'dnn' only."""
    normalise: Normalise = "standard"
    """How frozen vectors are normalised, once, each modality and each layer separately: 'standard' = mean 0 and
    deviation 1 per dimension over the items that have a vector, 'l2' = length 1 per item, 'none'. For a trained
    encoder's vectors 'standard' takes a shift and one factor from some items before training."""
    init_std: float = 0.02
    """Standard deviation of the entries of item vectors before training, whatever their source."""
    encoder: str | tuple[str, ...] | None = None
    """Name of the encoder that trains, or a list of names. This option and all below are for 'top' and 'e2e' only."""
    top_blocks: int | Literal["all"] = 1
    """Number of the encoder's last blocks that train, T, with all that follows them; 'all': the whole encoder."""
    encoder_lr: float | None = None
    """Learning rate of the encoder; None = that of the rest."""
    weights: str = "pretrained"
    """Weights that the encoder starts from: 'pretrained', 'random', or a file or folder."""
    encoder_seed: int | None = 0
    """Seed for random weights of the encoder. They are the same for every seed of the recipe, as pretrained weights
    are; 'top' refuses a file made with another one. None: the seed in the file for 'top', the recipe's for 'e2e', as in
    runs made before there was this setting."""
    frames: str | None = None
    """Frames of a clip that a video encoder sees, such as 'uniform:8'; None = the encoder's own. 'top' sees those of
    its file."""
    checkpointing: bool = False
    """Whether the blocks' activations are computed again in the backward pass instead of being kept."""
    micro_batch: int | None = None
    """Number of items encoded at a time in training; None = all of a batch. The loss sees the whole batch all the same.
    Each piece is encoded once more in the backward pass."""
    bn_mode: BatchNormMode = "eval"
    """How BatchNorm in the frozen part normalises: 'eval' by its running statistics; 'batch', kind 'e2e' only, by the
    batch at hand while the model trains, and the running statistics follow, as in the code of MicroLens. Encoders
    without BatchNorm take either."""
    encoder_dropout: bool = True
    """Whether dropout and drop-path act in the blocks that train, as their encoder has them."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
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
            raise ValueError(f"items.encoder is {self.encoder!r}; give the name of each encoder, and give it once")
        if isinstance(self.top_blocks, int) and self.top_blocks < 1:
            raise ValueError(f"items.top_blocks is {self.top_blocks}; it must be at least 1, or 'all'")
        if self.encoder_lr is not None and not self.encoder_lr > 0:
            raise ValueError(f"items.encoder_lr is {self.encoder_lr}; it must be above 0, or null for the rest's rate")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"items.micro_batch is {self.micro_batch}; it must be at least 1, or null")

        if self.kind == "top" and self.bn_mode == "batch":
            raise ValueError(
                "items.bn_mode is 'batch', which kind 'top' cannot have: it would make an item's activations depend on "
                "its batch, and stored ones do not; use kind 'e2e', or bn_mode 'eval'"
            )

    @property
    def reads_layers(self) -> bool:
        """Return whether items are made from layers (I, L, F), not from vectors (I, F)."""
        return self.kind == "adapter" or (self.mix and self.kind in CONTENT)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Return the names given under `encoder`."""
        return (self.encoder,) if isinstance(self.encoder, str) else self.encoder or ()


class ItemRepresentation(nn.Module, ABC):
    """Vectors of items, by dense index."""

    fuse: Fuse = "concat"  # how `parts` become one vector; with a single part all ways are the same

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.dim = dim

    @abstractmethod
    def forward(self, items: Tensor) -> Tensor:
        """Return (n, D) float32 vectors of items (n,) int64, with gradients. Pass each item once: it may be costly."""

    @property
    def parts(self) -> tuple[ItemRepresentation, ...]:
        """Return the parts of which the vectors are fused; models with a branch per modality (MMGCN, GRCN) use them."""
        return (self,)

    def everything(self) -> Tensor:
        """Return (I, D) vectors of all items, with gradients, for models that propagate over all of them."""
        return cast(Tensor, self(torch.arange(self.n_items, device=next(self.parameters()).device)))

    @torch.no_grad()
    def table(self) -> Tensor:
        """Return (I, D) vectors of all items as at inference (no dropout, no gradients); keep the training mode."""
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
