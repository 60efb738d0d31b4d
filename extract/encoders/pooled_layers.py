"""Hidden states of several blocks in one pass, each pooled as the encoder pools those of its last block.

They come straight from the blocks, without any final norm, projection or class token of another layer. So the one of
the last block is not the encoder's own vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from extract.encoders.cutting import places, probe
from extract.encoders.encoder import Encoder
from extract.encoders.inputs import Batch
from features.errors import ConfigError

Chosen: TypeAlias = tuple[int, ...] | Literal["all"]


class Layers(nn.Module):
    """The encoder up to the last chosen block.

    Args:
        encoder: the encoder that has the blocks.
        chosen: numbers of the chosen blocks, counted from 1, in ascending order.

    Raises:
        ConfigError: the model's steps are not known, or its pooling only fits its last block.
    """

    def __init__(self, encoder: Encoder, chosen: Sequence[int]) -> None:
        super().__init__()
        parts = encoder.parts()
        if parts.pool is None:
            raise ConfigError(
                f"encoder {encoder.spec.name!r} has no pooling for inner blocks ({encoder.spec.pooling}); "
                "--layers needs an encoder that pools by a mean or takes a token"
            )
        after = places(encoder, parts.steps)
        self._after = [after[number - 1] for number in chosen]
        self._pool = parts.pool
        self.steps = nn.ModuleList(parts.steps[: self._after[-1] + 1])

    def pooled(self, batch: Batch) -> list[Tensor]:
        """Return one tensor (B, F) for each layer; F may differ between them."""
        state: Any = batch
        vectors = []
        for number, step in enumerate(self.steps):
            state = step(state)
            if number in self._after:
                vectors.append(self._pool(state).float())
        return vectors

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, L, F) float32."""
        return torch.stack(self.pooled(batch), dim=1)


def parse_layers(text: str) -> Chosen:
    """Read 'all' or block numbers, such as '3,6,12'; ConfigError otherwise."""
    if text.strip() == "all":
        return "all"
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and word.isascii() for word in words):
        raise ConfigError(f"--layers {text!r} is neither 'all' nor block numbers; give numbers such as 3,6,12")
    return tuple(int(word) for word in words)


def layers_of(encoder: Encoder, chosen: Chosen) -> tuple[Layers, tuple[int, ...], int]:
    """Return the module, the block numbers in ascending order, and F.

    Raises:
        ConfigError: a number has no block or comes twice, or layers have different widths; also as in `Layers`.
    """
    most, name = len(encoder.blocks()), encoder.spec.name
    numbers = tuple(range(1, most + 1)) if chosen == "all" else tuple(sorted(chosen))
    wrong = [number for number in numbers if not 1 <= number <= most]
    if wrong or not numbers or len(set(numbers)) < len(numbers):
        said = ",".join(map(str, numbers)) or "none"
        raise ConfigError(f"--layers {said}, but encoder {name!r} has {most} blocks; name each once, from 1 to {most}")
    module = Layers(encoder, numbers)
    widths = [vectors.shape[1] for vectors in probe(encoder, module.pooled)]
    if len(set(widths)) > 1:
        told = ", ".join(f"{number}: {width}" for number, width in zip(numbers, widths, strict=True))
        raise ConfigError(f"layers of {name!r} have different widths ({told}); choose layers of one width")
    return module, numbers, widths[0]
