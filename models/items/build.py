"""Where item vectors come from: learned, frozen and projected, categories, or several. No recommender knows which.

Letters: n items asked for, I items, D model width, F feature width of a modality, L layers, P parts.

Frozen vectors are in frozen.py, side adapters in adapters.py, encoders that train in towers.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from models.items.adapters import AdapterItems, InterItems
from models.items.frozen import FrozenItems, normalise
from models.items.towers import Tower, TowerItems
from models.shared.host_copy import host_copy
from models.shared.representation import CONTENT, TOWERS, Fuse, ItemRepresentation, ItemsConfig
from models.shared.seeding import seeded

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

    Entries start at normal(0, std). A user vector leaves its LayerNorm with length sqrt(D), so at std 0.02 and D 64 the
    first scores have deviation 0.16. This is a nearly flat softmax, from which lr 1e-3 moves fast.
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


@dataclass(frozen=True)
class Categories:
    """The categories of all items."""

    codes: Tensor
    """Category numbers, item after item, (m,) int64 in [0, size)."""
    offsets: Tensor
    """Where each item's part of `codes` starts, (I + 1,) int64; the part may be empty."""
    size: int
    """Number of categories."""


class CategoryItems(ItemRepresentation):
    """The mean of the learned vectors of an item's categories; zero where it has none (MicroLens, Table 11)."""

    codes: Tensor
    offsets: Tensor

    def __init__(self, categories: Categories, dim: int, std: float) -> None:
        super().__init__(len(categories.offsets) - 1, dim)
        self.register_buffer("codes", categories.codes, persistent=False)
        self.register_buffer("offsets", categories.offsets, persistent=False)
        self._counts = categories.offsets.diff()  # stays on the CPU
        self.embedding = nn.Parameter(torch.empty(categories.size, dim).normal_(std=std))

    def forward(self, items: Tensor) -> Tensor:
        """Return the means (n, D)."""
        counts = self.offsets[items + 1] - self.offsets[items]
        total = int(self._counts[host_copy(items)].sum())
        rows = torch.repeat_interleave(counts, output_size=total)
        within = torch.arange(len(rows), device=items.device) - (counts.cumsum(0) - counts)[rows]
        codes = self.codes[self.offsets[items][rows] + within]
        sums = self.embedding.new_zeros(len(items), self.dim).index_add(0, rows, self.embedding[codes])
        return sums / counts.clamp(min=1)[:, None]


class FusedItems(ItemRepresentation):
    """Several parts fused into one vector: learned, frozen and projected, categories.

    A learned part beside content starts at zero. So an item that training never showed keeps a learned part of exactly
    zero and is placed by its content alone; a random start would add noise that nothing ever removes. Learned parts of
    seen items leave zero with the first gradient, which does not depend on their value.
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
        """Return the parts that are fused."""
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
    present: Mapping[str, Tensor] | None = None,
) -> ItemRepresentation:
    """Build the representation that a config names, on the CPU.

    Args:
        config: which representation to build, and its options.
        n_items: I.
        features: modality -> (I, F) float32, or (I, L, F) where `config.reads_layers`; rows in item order. Each is
            normalised and is a part of its own.
        generator: source of the initial weights (CPU).
        sides: the categories of each name in `config.side`.
        towers: encoders to train, on the CPU, by a name for messages; for kinds 'top' and 'e2e'. Each is a part of its
            own.
        present: modality -> (I,) bool, the items whose vectors are their own and no filling; only those are measured. A
            modality that is not named has all.

    Raises:
        ValueError: features, towers or categories are absent where they are needed, or do not fit; 'concat' cannot
            share the width out evenly.
    """
    _check_features(config, n_items, features)
    if config.kind in TOWERS and not towers:
        raise ValueError(f"items.kind is {config.kind!r} but no encoder is given; name one under items.encoder")
    if config.kind in CONTENT and not features:
        raise ValueError(f"items.kind is {config.kind!r} but no features are given; name a feature file or use 'id'")
    absent = [name for name in config.side if name not in (sides or {})]
    if absent:
        raise ValueError(f"items.side names {absent[0]!r}, but the dataset has none; remove it from items.side")
    with seeded(generator):
        parts = _parts(config, n_items, features, present or {}, sides or {}, towers or {})
        return parts[0] if len(parts) == 1 else FusedItems(parts, config.fuse)


def _check_features(config: ItemsConfig, n_items: int, features: Mapping[str, Tensor]) -> None:
    needed = f"({n_items}, L, F)" if config.reads_layers else f"({n_items}, F)"
    for name, matrix in features.items():
        if matrix.ndim != (3 if config.reads_layers else 2) or len(matrix) != n_items:
            raise ValueError(f"features {name!r} have shape {tuple(matrix.shape)}; needed: {needed}")
        if not bool(torch.isfinite(matrix.sum())):
            raise ValueError(f"features {name!r} hold values that are not finite; verify the feature file")


def _parts(
    config: ItemsConfig,
    n_items: int,
    features: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    sides: Mapping[str, Categories],
    towers: Mapping[str, Tower],
) -> list[ItemRepresentation]:
    learned, content = config.kind in ("id", "id+v"), config.kind in CONTENT
    inter = config.inter and config.kind == "adapter"
    modalities = len(features) + inter if content else len(towers) if config.kind in TOWERS else 0
    count = learned + modalities + len(config.side)
    if config.fuse == "concat" and config.dim % count:
        below = max(count, config.dim // count * count)
        above = below + count
        raise ValueError(
            f"items.dim is {config.dim}; fuse 'concat' shares it out evenly among {count} parts: use {below} or {above}"
        )
    width = config.dim // count if config.fuse == "concat" else config.dim
    parts: list[ItemRepresentation] = []
    if learned:
        parts.append(LearnedItems(n_items, width, std=0.0 if modalities else config.init_std))
    # parts that are summed start small enough for the sum to start at init_std
    share = modalities**0.5 if config.fuse in ("sum", "gate") and modalities else 1.0
    scaled = replace(config, init_std=config.init_std / share)
    if content:
        parts += _content(scaled, features, present, width)
    elif config.kind in TOWERS:
        parts += [TowerItems(name, tower, scaled, n_items, width) for name, tower in towers.items()]
    parts += [CategoryItems(sides[name], width, config.init_std) for name in config.side]
    return parts


def _content(
    config: ItemsConfig, features: Mapping[str, Tensor], present: Mapping[str, Tensor], width: int
) -> list[ItemRepresentation]:
    """Return one part per modality, and the one they make together where `config.inter` asks for it."""
    frozen = [(normalise(matrix, config.normalise, present.get(name)), name) for name, matrix in features.items()]
    if config.kind != "adapter":
        return [FrozenItems(matrix, config, width, present.get(name)) for matrix, name in frozen]
    intra = [AdapterItems(matrix, config, width, present.get(name)) for matrix, name in frozen]
    return [*intra, InterItems(intra, config, width)] if config.inter else list(intra)
