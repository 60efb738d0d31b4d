"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018, arXiv 1808.09781).

From the paper: learned positions (section III-A), causal self-attention and the feed-forward layer (III-B), blocks
(III-C), tied item vectors (III-D). Defaults follow the benchmark MicroLens (arXiv 2309.15379, released code): LayerNorm
after each residual, inner width 4 D, softmax over the batch at all positions. With `norm: pre`, `inner: 1` and `heads:
1` the blocks are the paper's.

Deviations from the paper: the loss (there: binary cross entropy with one negative); several heads; positions are
counted from the newest item, so that a shorter history needs no padding.

Deviations from MicroLens: linear layers of the attention have biases; LayerNorm's eps is 1e-5 (there: 1e-6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.shared.recommender import TrainingFacts
from models.shared.representation import ItemRepresentation
from models.shared.sequential import SequentialConfig, SequentialRecommender


@dataclass(frozen=True)
class Config(SequentialConfig):
    """Options of SASRec; the width D is that of the item representation."""

    layers: int = 2
    """Number of blocks."""
    heads: int = 2
    """Number of attention heads; D must be a multiple of it."""
    inner: int = 4
    """Width of the feed-forward layer, in multiples of D."""
    dropout: float = 0.1
    """Dropout on the input, on attention weights and after both sublayers, in [0, 1)."""
    norm: Literal["post", "pre"] = "post"
    """Where LayerNorm stands: 'post' (after each residual) or 'pre' (before each sublayer and once at the end)."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation of the feed-forward layer: 'relu' or 'gelu'."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if min(self.layers, self.heads, self.inner) < 1:
            raise ValueError(f"sasrec: layers {self.layers}, heads {self.heads} and inner {self.inner} must be >= 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"sasrec: dropout is {self.dropout}; it must be in [0, 1)")
        if self.norm not in ("post", "pre") or self.activation not in ("relu", "gelu"):
            raise ValueError(f"sasrec: norm is {self.norm!r} (post, pre), activation {self.activation!r} (relu, gelu)")


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each with dropout, residual and LayerNorm."""

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.pre = config.norm == "pre"
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.up = nn.Linear(dim, config.inner * dim)
        self.down = nn.Linear(config.inner * dim, dim)
        self.activation = functional.relu if config.activation == "relu" else functional.gelu
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])

    def forward(self, states: Tensor, visible: Tensor, slots: Tensor) -> Tensor:
        """Return the next states (R, D) of the real slots.

        Args:
            states: (R, D), those of the R real slots.
            visible: (B, 1, L, L) bool, whether the query's slot (row) sees the key's slot (column).
            slots: (R,) int64, where each real slot stands among all B x L.
        """
        for norm, sublayer in zip(self.norms, (self._attend, self._feed), strict=True):
            change = sublayer(norm(states) if self.pre else states, visible, slots)
            states = states + functional.dropout(change, self.dropout, self.training)
            states = states if self.pre else norm(states)
        return states

    def newest(self, states: Tensor, visible: Tensor, slots: Tensor, last: Tensor) -> Tensor:
        """Return (B, D), what `forward` gives for the newest slot of each history, without dropout.

        Args:
            states: (R, D), those of the R real slots.
            visible: (B, 1, 1, L) bool, what the newest slots see.
            slots: (R,) int64, as in `forward`.
            last: (B,) int64, the rows of the newest slots in `states`.
        """
        dim, own = states.shape[1], states[last]
        keys = self.norms[0](states) if self.pre else states
        weight, bias = self.qkv.weight, self.qkv.bias
        query = functional.linear(keys[last], weight[:dim], bias[:dim]).view(len(last), 1, self.heads, -1)
        padded = states.new_zeros(visible.shape[0] * visible.shape[-1], 2 * dim)
        padded = padded.index_copy(0, slots, functional.linear(keys, weight[dim:], bias[dim:]))
        key, value = padded.view(len(last), -1, 2, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query.transpose(1, 2), key, value, attn_mask=visible)
        own = own + self.out(mixed.transpose(1, 2).reshape(len(last), dim))
        own = own if self.pre else self.norms[0](own)
        change = self._feed(self.norms[1](own) if self.pre else own, visible, slots)
        result: Tensor = own + change if self.pre else self.norms[1](own + change)
        return result

    def _attend(self, states: Tensor, visible: Tensor, slots: Tensor) -> Tensor:
        batch, length, dim = visible.shape[0], visible.shape[-1], states.shape[1]
        projected = self.qkv(states)
        padded = projected.new_zeros(batch * length, 3 * dim).index_copy(0, slots, projected)
        query, key, value = padded.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch * length, dim)[slots])
        return out

    def _feed(self, states: Tensor, _: Tensor, __: Tensor) -> Tensor:
        out: Tensor = self.down(self.activation(self.up(states)))
        return out


class SASRec(SequentialRecommender):
    """Blocks of causal self-attention over the history."""

    config_class = Config
    paper = "Kang & McAuley, ICDM 2018, arXiv 1808.09781"

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        if items.dim % config.heads:
            raise ValueError(f"sasrec: items.dim {items.dim} is no multiple of heads {config.heads}; change either")
        self.positions = nn.Parameter(torch.empty(config.max_length, items.dim))
        self.norm = nn.LayerNorm(items.dim)
        self.blocks = nn.ModuleList([Block(items.dim, config) for _ in range(config.layers)])
        nn.init.normal_(self.positions, std=0.02)
        for block in self.blocks:
            for layer in block.children():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_normal_(layer.weight)
                    nn.init.zeros_(layer.bias)

    def encode(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return (B, L, D) states of the histories; zero in padded slots."""
        slots = mask.flatten().nonzero()[:, 0]
        states = self.states(vectors, mask, slots)
        return states.new_zeros(mask.numel(), states.shape[1]).index_copy(0, slots, states).view(vectors.shape)

    def states(self, vectors: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """Return the states (Q, D) of the real slots.

        Most histories are short, so everything but the attention itself runs on the real slots alone.
        """
        states, visible = self._start(vectors, mask, places)
        for block in self.blocks:
            states = block(states, visible, places)
        return self.norm(states) if self.config.norm == "pre" else states

    def newest(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return (B, D) states of the last slots; the last block computes only these."""
        if self.training or not bool(mask[:, -1].all()):  # dropout, or a history without an item
            return super().newest(vectors, mask)
        slots = mask.flatten().nonzero()[:, 0]
        states, visible = self._start(vectors, mask, slots)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        for block in self.blocks[:-1]:
            states = block(states, visible, slots)
        states = last.newest(states, visible[:, :, -1:], slots, mask.sum(1).cumsum(0) - 1)
        return self.norm(states) if self.config.norm == "pre" else states

    def _start(self, vectors: Tensor, mask: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the blocks take beside the real slots (R,): states (R, D), and what sees what (B, 1, L, L)."""
        batch, length, dim = vectors.shape
        states = (vectors + self.positions[-length:]).view(batch * length, dim)[slots]
        if self.config.norm == "post":
            states = self.norm(states)
        states = functional.dropout(states, self.config.dropout, self.training)
        causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=mask.device)  # some kernels give NaN where a row has no key
        return states, (causal & mask[:, None, :] | itself)[:, None]


MODEL = SASRec
