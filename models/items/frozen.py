"""Items from frozen vectors, or from a learned mix of frozen layers, and a trained map to D.

Letters: n items asked for, I items, D model width, F feature width of a modality, L layers.

Frozen vectors are buffers outside the state dict. A checkpoint holds what was learned; the features are read again from
their file, by fingerprint.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.shared.representation import ItemRepresentation, ItemsConfig, Normalise, linear


class LayerMix(nn.Module):
    """A weighted mix of layers (ELMo, Peters et al., NAACL 2018, arXiv 1802.05365, equation 1).

        mix(h) = gamma * sum over l of s_l h_l,    s = softmax(w)

    w starts at zero, so the mix points where the mean does. gamma starts so that the mix is as long as the layers are:
    a mean is shorter, and what follows would learn more slowly from it than from one layer. Deviations: no decay pulls
    the weights towards the mean (vectors never decay here); layers are normalised as `items.normalise` says (there:
    LayerNorm, or none).
    """

    def __init__(self, frozen: Tensor) -> None:
        """Take layers (n, L, F) on which the start of gamma is measured."""
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(frozen.shape[1]))
        self.gamma = nn.Parameter(torch.tensor(start_length(frozen.flatten(0, 1)) / start_length(frozen.mean(1))))

    def shares(self) -> Tensor:
        """Return the weights s (L,), which sum to 1."""
        return self.weights.softmax(0)

    def forward(self, layers: Tensor) -> Tensor:
        """Return the mix (n, F) of layers (n, L, F)."""
        return self.gamma * torch.einsum("l,nlf->nf", self.shares(), layers)


class FrozenItems(ItemRepresentation):
    """Frozen vectors and a trained map to D: linear ('v') or an MLP ('dnn').

    The MLP is that of MicroLens (arXiv 2309.15379, Figure 5): a projection with GELU, then k times Dropout-Linear-GELU.
    `layers` is its k; with `hidden: null` the width is constant, as there. Deviation: the projection starts at a scale
    measured on the frozen vectors, so that any encoder's items start with deviation `init_std`; MicroLens starts
    xavier-normal.

    With frozen layers (I, L, F), a learned mix of them takes the place of the vectors.
    """

    def __init__(self, frozen: Tensor, config: ItemsConfig, dim: int, present: Tensor | None = None) -> None:
        """Take normalised vectors (I, F) or layers (I, L, F); `present` (I,) bool marks items that have their own."""
        super().__init__(len(frozen), dim)
        self.frozen: Tensor
        self.register_buffer("frozen", frozen, persistent=False)
        own = own_rows(frozen, present)
        self.mix = LayerMix(own) if frozen.ndim == 3 else None
        length = start_length(own.flatten(0, -2))
        inner = frozen.shape[-1]
        if config.kind != "dnn":
            self.project: nn.Module = linear(inner, dim, config.init_std / length)
            return
        widths = [config.hidden or dim] * config.layers + [dim]
        # Deviation 1 inside. GELU about halves it, and the last layer brings it to init_std.
        last = 2 * config.init_std
        blocks: list[nn.Module] = [linear(inner, widths[0], (1.0 if config.layers else last) / length), nn.GELU()]
        for index, (inner, outer) in enumerate(pairwise(widths)):
            gain = 1.6 if index < config.layers - 1 else 1.6 * last  # 1 / root mean square of GELU(normal) = 1.53
            blocks += [nn.Dropout(config.dropout), linear(inner, outer, gain / inner**0.5), nn.GELU()]
        self.project = nn.Sequential(*blocks)

    def content(self, items: Tensor) -> Tensor:
        """Return what is projected (n, F): the frozen vectors, or the mix of the layers."""
        vectors = self.frozen[items]
        return vectors if self.mix is None else self.mix(vectors)

    def forward(self, items: Tensor) -> Tensor:
        """Return the projected frozen vectors."""
        vectors: Tensor = self.project(self.content(items))
        return vectors

    def everything(self) -> Tensor:
        """Return those of all items, without copying the frozen ones."""
        vectors: Tensor = self.project(self.frozen if self.mix is None else self.mix(self.frozen))
        return vectors


def start_length(vectors: Tensor) -> float:
    """Return the root mean square length of vectors (n, F), or 1 where it is 0: then any start will do."""
    return float(vectors.square().sum(1).mean().sqrt()) or 1.0


def own_rows(matrix: Tensor, present: Tensor | None) -> Tensor:
    """Return the rows that `present` (I,) bool marks; all of them where it is None or marks none."""
    if present is None or bool(present.all()) or not bool(present.any()):
        return matrix
    return matrix[present]


def normalise(matrix: Tensor, how: Normalise, present: Tensor | None = None) -> Tensor:
    """Return frozen vectors (I, F) or layers (I, L, F) as float32, normalised.

    Args:
        matrix: the vectors or layers; every layer is normalised separately.
        how: see `ItemsConfig.normalise`. Zero rows and constant dimensions become zero, never NaN.
        present: (I,) bool, the items whose vectors are their own; mean and deviation are taken over them. None: all.
    """
    matrix = matrix.float()
    if how == "none":
        return matrix
    if how == "l2":
        return nn.functional.normalize(matrix, dim=-1)
    deviation, mean = torch.std_mean(own_rows(matrix, present), dim=0, correction=0)
    # A constant dimension's deviation is rounding noise (1e-7 of its mean), which division would blow up to 1.
    constant = deviation <= 1e-6 * mean.abs()
    return (matrix - mean) / deviation.masked_fill(constant, torch.inf)
