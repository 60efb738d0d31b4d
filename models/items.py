"""Where item vectors come from: learned, frozen and projected, or both. The recommender never knows which.

Letters: n items asked for, I items, D model width, F feature width (all modalities together).

Frozen vectors are buffers outside the state dict: a checkpoint holds what was learned, the features are read again from
their file, by fingerprint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from models.seeding import seeded

Kind = Literal["id", "v", "dnn", "id+v"]
Fuse = Literal["sum", "concat"]
Normalise = Literal["none", "l2", "standard"]

CHUNK = 8192  # items per step of `table`: bounds the memory of hidden layers at 1M items


@dataclass(frozen=True)
class ItemsConfig:
    """The switch between item representations.

    Attributes:
        kind: 'id' one learned vector per item; 'v' frozen vector and a linear projection; 'dnn' frozen vector and an
            MLP; 'id+v' both parts. Features are ignored by 'id', needed by all others.
        dim: D.
        fuse: 'id+v' only: 'sum' of two D-wide parts, or 'concat' of two D/2-wide parts (same width and cost).
        layers: 'dnn' only: extra layers after the projection.
        hidden: 'dnn' only: width of the projection and of all layers but the last; None = D.
        dropout: 'dnn' only: before each extra layer, in [0, 1).
        normalise: of the frozen vectors, once, each modality for itself: 'standard' = mean 0 and deviation 1 per
            dimension over the items, 'l2' = length 1 per item, 'none'.
        init_std: standard deviation of item vectors' entries before training, whatever their source.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Kind = "id"
    dim: int = 64
    fuse: Fuse = "sum"
    layers: int = 2
    hidden: int | None = None
    dropout: float = 0.1
    normalise: Normalise = "standard"
    init_std: float = 0.02

    def __post_init__(self) -> None:
        """Refuse values no representation can have."""
        for name, known in (("kind", Kind), ("fuse", Fuse), ("normalise", Normalise)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"items.{name} is {getattr(self, name)!r}; known: {', '.join(get_args(known))}")
        if self.dim < 1 or self.layers < 0 or (self.hidden is not None and self.hidden < 1):
            raise ValueError(f"items: dim {self.dim} and hidden {self.hidden} must be >= 1, layers {self.layers} >= 0")
        if not 0 <= self.dropout < 1 or not self.init_std > 0:
            raise ValueError(f"items: dropout {self.dropout} must be in [0, 1) and init_std {self.init_std} > 0")
        if self.kind == "id+v" and self.fuse == "concat" and self.dim % 2:
            raise ValueError(f"items.dim is {self.dim}; fuse 'concat' splits it in halves: use an even number")


class ItemRepresentation(nn.Module, ABC):
    """Vectors of items, by dense index."""

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.dim = dim

    @abstractmethod
    def forward(self, items: Tensor) -> Tensor:
        """Return (n, D) float32 vectors of items (n,) int64, with graph. Pass each item once: it may be expensive."""

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


class LearnedItems(ItemRepresentation):
    """One learned vector per item (IDRec).

    Entries start normal(0, std). A user vector leaves its LayerNorm with length sqrt(D), so at std 0.02 and D 64 the
    first scores have deviation 0.16: a nearly flat softmax, from which lr 1e-3 moves fast.
    """

    def __init__(self, n_items: int, dim: int, std: float) -> None:
        super().__init__(n_items, dim)
        self.embedding = nn.Embedding(n_items, dim, _weight=torch.zeros(n_items, dim))
        if std > 0:
            nn.init.normal_(self.embedding.weight, std=std)

    def forward(self, items: Tensor) -> Tensor:
        """Return the rows of the table."""
        vectors: Tensor = self.embedding(items)
        return vectors


class FrozenItems(ItemRepresentation):
    """Frozen vectors and a trained map to D: linear ('v', layers None) or an MLP ('dnn').

    The MLP is that of MicroLens (arXiv 2309.15379, Figure 5): a projection with GELU, then k times Dropout-Linear-GELU.
    `layers` is its k, `hidden` None its constant width. Deviation: the projection starts at a scale taken from the
    frozen vectors, so that any encoder's items start with deviation `std`; MicroLens starts xavier-normal.
    """

    def __init__(self, frozen: Tensor, config: ItemsConfig, dim: int) -> None:
        super().__init__(len(frozen), dim)
        self.frozen: Tensor
        self.register_buffer("frozen", frozen, persistent=False)
        length = float(frozen.square().sum(1).mean().sqrt()) or 1.0  # all-zero features: any start will do
        if config.kind != "dnn":
            self.project: nn.Module = _linear(frozen.shape[1], dim, config.init_std / length)
            return
        widths = [config.hidden or dim] * config.layers + [dim]
        # Unit deviation inside; GELU then about halves it, and the last layer brings it to init_std.
        last = 2 * config.init_std
        blocks: list[nn.Module] = [_linear(frozen.shape[1], widths[0], (1.0 if config.layers else last) / length)]
        blocks.append(nn.GELU())
        for index, (inner, outer) in enumerate(pairwise(widths)):
            gain = 1.6 if index < config.layers - 1 else 1.6 * last  # 1 / root mean square of GELU(normal) = 1.53
            blocks += [nn.Dropout(config.dropout), _linear(inner, outer, gain / inner**0.5), nn.GELU()]
        self.project = nn.Sequential(*blocks)

    def forward(self, items: Tensor) -> Tensor:
        """Return the projected frozen vectors."""
        vectors: Tensor = self.project(self.frozen[items])
        return vectors


class FusedItems(ItemRepresentation):
    """A learned and a projected frozen part, summed or side by side ('id+v').

    The learned part starts at zero: an item that training never showed keeps a learned part of exactly zero and is
    placed by its content alone, where a random start would add noise to it that nothing ever removes. Learned parts of
    seen items leave zero with the first gradient, which does not depend on their value.
    """

    def __init__(self, learned: LearnedItems, content: FrozenItems, fuse: Fuse) -> None:
        super().__init__(learned.n_items, learned.dim if fuse == "sum" else learned.dim + content.dim)
        self.learned = learned
        self.content = content
        self.fuse = fuse

    def forward(self, items: Tensor) -> Tensor:
        """Return the fused parts."""
        learned, content = self.learned(items), self.content(items)
        vectors: Tensor = learned + content if self.fuse == "sum" else torch.cat([learned, content], dim=1)
        return vectors


def build_items(
    config: ItemsConfig, n_items: int, features: Mapping[str, Tensor], generator: torch.Generator
) -> ItemRepresentation:
    """Build the representation a config names, on the CPU.

    Args:
        config: the switch.
        n_items: I.
        features: modality -> (I, F) float32, rows in item order; several are normalised each and put side by side.
        generator: source of the initial weights (CPU).

    Raises:
        ValueError: features that are absent where the kind needs them, or whose shape or values do not fit.
    """
    for name, matrix in features.items():
        if matrix.ndim != 2 or len(matrix) != n_items:
            raise ValueError(f"features {name!r} have shape {tuple(matrix.shape)}; needed: ({n_items}, F)")
        if not bool(torch.isfinite(matrix.sum())):
            raise ValueError(f"features {name!r} hold values that are not finite; verify the feature file")
    if config.kind != "id" and not features:
        raise ValueError(f"items.kind is {config.kind!r} but no features are given; name a feature file or use 'id'")
    with seeded(generator):
        if config.kind == "id":
            return LearnedItems(n_items, config.dim, config.init_std)
        frozen = torch.cat([normalise(matrix, config.normalise) for matrix in features.values()], dim=1)
        if config.kind != "id+v":
            return FrozenItems(frozen, config, config.dim)
        width = config.dim if config.fuse == "sum" else config.dim // 2
        return FusedItems(LearnedItems(n_items, width, std=0.0), FrozenItems(frozen, config, width), config.fuse)


def normalise(matrix: Tensor, how: Normalise) -> Tensor:
    """Return frozen vectors (I, F) as float32, normalised; zero rows and constant dimensions become zero, never NaN."""
    matrix = matrix.float()
    if how == "none":
        return matrix
    if how == "l2":
        return nn.functional.normalize(matrix, dim=1)
    deviation, mean = torch.std_mean(matrix, dim=0, correction=0)
    # A constant dimension's deviation is rounding noise (1e-7 of its mean), which division would blow up to 1.
    constant = deviation <= 1e-6 * mean.abs()
    return (matrix - mean) / deviation.masked_fill(constant, torch.inf)


def _linear(inner: int, outer: int, std: float) -> nn.Linear:
    layer = nn.Linear(inner, outer)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
