"""Where item vectors come from: learned, frozen and projected, categories, or several. No recommender knows which.

Letters: n items asked for, I items, D model width, F feature width of a modality, P parts.

Frozen vectors are buffers outside the state dict: a checkpoint holds what was learned, the features are read again from
their file, by fingerprint. Encoders that train are in models/towers.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from models.representation import CONTENT, TOWERS, Fuse, ItemRepresentation, ItemsConfig, Normalise, linear
from models.seeding import seeded
from models.towers import Tower, TowerItems

__all__ = [
    "Categories",
    "CategoryItems",
    "FrozenItems",
    "FusedItems",
    "ItemRepresentation",
    "ItemsConfig",
    "LearnedItems",
    "build_items",
    "normalise",
]


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

    def everything(self) -> Tensor:
        """Return the table itself."""
        return self.embedding.weight


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
            self.project: nn.Module = linear(frozen.shape[1], dim, config.init_std / length)
            return
        widths = [config.hidden or dim] * config.layers + [dim]
        # Unit deviation inside; GELU then about halves it, and the last layer brings it to init_std.
        last = 2 * config.init_std
        blocks: list[nn.Module] = [linear(frozen.shape[1], widths[0], (1.0 if config.layers else last) / length)]
        blocks.append(nn.GELU())
        for index, (inner, outer) in enumerate(pairwise(widths)):
            gain = 1.6 if index < config.layers - 1 else 1.6 * last  # 1 / root mean square of GELU(normal) = 1.53
            blocks += [nn.Dropout(config.dropout), linear(inner, outer, gain / inner**0.5), nn.GELU()]
        self.project = nn.Sequential(*blocks)

    def forward(self, items: Tensor) -> Tensor:
        """Return the projected frozen vectors."""
        vectors: Tensor = self.project(self.frozen[items])
        return vectors

    def everything(self) -> Tensor:
        """Return all of them, without a copy of the frozen ones."""
        vectors: Tensor = self.project(self.frozen)
        return vectors


@dataclass(frozen=True)
class Categories:
    """The categories of items, item after item.

    Attributes:
        codes: (m,) int64 in [0, size).
        offsets: (I + 1,) int64, where each item's part of `codes` starts; an item may have none.
        size: how many categories there are.
    """

    codes: Tensor
    offsets: Tensor
    size: int


class CategoryItems(ItemRepresentation):
    """The mean of the learned vectors of an item's categories; zero where it has none (MicroLens, Table 11)."""

    codes: Tensor
    offsets: Tensor

    def __init__(self, categories: Categories, dim: int, std: float) -> None:
        super().__init__(len(categories.offsets) - 1, dim)
        self.register_buffer("codes", categories.codes, persistent=False)
        self.register_buffer("offsets", categories.offsets, persistent=False)
        self.embedding = nn.Parameter(torch.empty(categories.size, dim).normal_(std=std))

    def forward(self, items: Tensor) -> Tensor:
        """Return the means."""
        counts = self.offsets[items + 1] - self.offsets[items]
        rows = torch.repeat_interleave(counts)
        within = torch.arange(len(rows), device=items.device) - (counts.cumsum(0) - counts)[rows]
        codes = self.codes[self.offsets[items][rows] + within]
        total = self.embedding.new_zeros(len(items), self.dim).index_add(0, rows, self.embedding[codes])
        return total / counts.clamp(min=1)[:, None]


class FusedItems(ItemRepresentation):
    """Several parts: learned, projected frozen ones, categories.

    A learned part beside content starts at zero: an item that training never showed keeps a learned part of exactly
    zero and is placed by its content alone, where a random start would add noise to it that nothing ever removes.
    Learned parts of seen items leave zero with the first gradient, which does not depend on their value.
    """

    def __init__(self, parts: Sequence[ItemRepresentation], fuse: Fuse) -> None:
        super().__init__(parts[0].n_items, sum(part.dim for part in parts) if fuse == "concat" else parts[0].dim)
        self.members = nn.ModuleList(parts)
        self.fuse = fuse
        self.gate = nn.Linear(self.dim * len(parts), len(parts)) if fuse == "gate" else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    @property
    def parts(self) -> tuple[ItemRepresentation, ...]:
        """Return the parts."""
        return tuple(cast(ItemRepresentation, member) for member in self.members)

    def forward(self, items: Tensor) -> Tensor:
        """Return the fused parts."""
        return self._fused([part(items) for part in self.parts])

    def everything(self) -> Tensor:
        """Return the fused parts of all items."""
        return self._fused([part.everything() for part in self.parts])

    def _fused(self, vectors: list[Tensor]) -> Tensor:
        if self.fuse == "concat":
            return torch.cat(vectors, dim=1)
        stacked = torch.stack(vectors, dim=1)  # (n, P, D)
        if self.gate is None:
            return stacked.sum(1) if self.fuse == "sum" else stacked.mean(1)
        weights = len(vectors) * self.gate(torch.cat(vectors, dim=1)).softmax(1)
        gated: Tensor = (weights[:, :, None] * stacked).sum(1)
        return gated


def build_items(
    config: ItemsConfig,
    n_items: int,
    features: Mapping[str, Tensor],
    generator: torch.Generator,
    sides: Mapping[str, Categories] | None = None,
    towers: Mapping[str, Tower] | None = None,
) -> ItemRepresentation:
    """Build the representation a config names, on the CPU.

    Args:
        config: the switch.
        n_items: I.
        features: modality -> (I, F) float32, rows in item order; each is normalised and is a part of its own.
        generator: source of the initial weights (CPU).
        sides: the categories of each name in `config.side`.
        towers: encoders to train, on the CPU, by a name for messages; kinds 'top' and 'e2e'. Each is a part of its own.

    Raises:
        ValueError: features, towers or categories that are absent where they are needed, or that do not fit; a width
            that 'concat' cannot share out evenly.
    """
    for name, matrix in features.items():
        if matrix.ndim != 2 or len(matrix) != n_items:
            raise ValueError(f"features {name!r} have shape {tuple(matrix.shape)}; needed: ({n_items}, F)")
        if not bool(torch.isfinite(matrix.sum())):
            raise ValueError(f"features {name!r} hold values that are not finite; verify the feature file")
    if config.kind in TOWERS and not towers:
        raise ValueError(f"items.kind is {config.kind!r} but no encoder is given; name one under items.encoder")
    if config.kind in CONTENT and not features:
        raise ValueError(f"items.kind is {config.kind!r} but no features are given; name a feature file or use 'id'")
    absent = [name for name in config.side if name not in (sides or {})]
    if absent:
        raise ValueError(f"items.side names {absent[0]!r}, but the dataset has none; remove it from items.side")
    with seeded(generator):
        parts = _parts(config, n_items, features, sides or {}, towers or {})
        return parts[0] if len(parts) == 1 else FusedItems(parts, config.fuse)


def _parts(
    config: ItemsConfig,
    n_items: int,
    features: Mapping[str, Tensor],
    sides: Mapping[str, Categories],
    towers: Mapping[str, Tower],
) -> list[ItemRepresentation]:
    learned, content = config.kind in ("id", "id+v"), config.kind in CONTENT
    modalities = len(features) if content else len(towers) if config.kind in TOWERS else 0
    count = learned + modalities + len(config.side)
    if config.fuse == "concat" and config.dim % count:
        raise ValueError(f"items.dim is {config.dim}; fuse 'concat' shares it out among {count} parts: use a multiple")
    width = config.dim // count if config.fuse == "concat" else config.dim
    parts: list[ItemRepresentation] = []
    if learned:
        parts.append(LearnedItems(n_items, width, std=0.0 if modalities else config.init_std))
    # parts that are summed start small enough for the sum to start at init_std
    share = modalities**0.5 if config.fuse in ("sum", "gate") and modalities else 1.0
    scaled = replace(config, init_std=config.init_std / share)
    if content:
        parts += [FrozenItems(normalise(matrix, config.normalise), scaled, width) for matrix in features.values()]
    elif config.kind in TOWERS:
        parts += [TowerItems(name, tower, scaled, n_items, width) for name, tower in towers.items()]
    parts += [CategoryItems(sides[name], width, config.init_std) for name in config.side]
    return parts


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
