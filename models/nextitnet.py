"""NextItNet: dilated causal convolutions over the history (Yuan et al., WSDM 2019, arXiv 1808.05163).

From the paper: causal convolutions with growing dilation (section 3.2), in residual blocks of two convolutions with
dilations d and 2 d, each followed by LayerNorm and ReLU (section 3.3, figure 3b). Defaults follow the benchmark
MicroLens (arXiv 2309.15379, released code): kernel 3, dilations 1 and 4, repeated.

Deviations from the paper: input and output share the item vectors (there: a softmax layer of its own); the losses are
those of this package.

Deviations from MicroLens, whose code neither uses its dropout option nor masks padded slots: dropout is on the item
vectors; padded slots are zero after every layer, as causal padding is, so padding changes nothing; LayerNorm's eps is
1e-5 (there: 1e-8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.shared.recommender import TrainingFacts
from models.shared.representation import ItemRepresentation
from models.shared.sequential import SequentialConfig, SequentialRecommender


@dataclass(frozen=True)
class Config(SequentialConfig):
    """Options of NextItNet; the width D is that of the item representation."""

    blocks: int = 2
    """How often the list of dilations is run through."""
    dilations: tuple[int, ...] = (1, 4)
    """Dilation of the first convolution in each residual block; the second has twice as much."""
    kernel: int = 3
    """Number of items that a convolution sees."""
    dropout: float = 0.2
    """Dropout on the item vectors, in [0, 1)."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if min(self.blocks, self.kernel, *self.dilations, len(self.dilations)) < 1:
            raise ValueError(
                f"nextitnet: blocks {self.blocks}, kernel {self.kernel} and dilations {self.dilations} must be >= 1"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"nextitnet: dropout is {self.dropout}; it must be in [0, 1)")


class CausalConvolution(nn.Module):
    """A convolution over a slot and earlier ones, with LayerNorm and ReLU; zero in padded slots."""

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.mix = nn.Linear(kernel * dim, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_normal_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the next states (B, L, D) from states (B, L, D) and mask (B, L, 1) float."""
        length = states.shape[1]
        padded = functional.pad(states, (0, 0, self.dilation * (self.kernel - 1), 0))
        # one product over the kernel's slots side by side: on 10 slots several times as fast as a library's convolution
        seen = torch.cat([padded[:, self.dilation * step :][:, :length] for step in range(self.kernel)], dim=2)
        out: Tensor = functional.relu(self.norm(self.mix(seen))) * mask
        return out


class NextItNet(SequentialRecommender):
    """Residual blocks of dilated causal convolutions over the history."""

    config_class = Config
    paper = "Yuan et al., WSDM 2019, arXiv 1808.05163"

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        dilations = [step for _ in range(config.blocks) for first in config.dilations for step in (first, 2 * first)]
        self.convolutions = nn.ModuleList(
            [CausalConvolution(items.dim, config.kernel, dilation) for dilation in dilations]
        )

    def encode(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return (B, L, D) states; zero in padded slots."""
        real = mask[:, :, None].to(vectors.dtype)
        states = functional.dropout(vectors, self.config.dropout, self.training)
        for first, second in zip(self.convolutions[::2], self.convolutions[1::2], strict=True):
            states = states + second(first(states, real), real)
        return states


MODEL = NextItNet
