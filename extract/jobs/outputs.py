"""What is stored of each item: an encoder's vector, the activations below its last blocks, several layers, or pixels.

Letters: B batch, I items, F features, S tokens or positions, L layers, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from extract.encoders.cutting import split_encoder
from extract.encoders.encoder import Encoder
from extract.encoders.inputs import PixelInput
from extract.encoders.pooled_layers import Chosen, layers_of
from extract.jobs.options import ExtractOptions
from extract.media.catalog import Catalog, source
from features.errors import ConfigError

# With these faults an item's activations depend on the other items of its batch.
INEXACT = {
    "batch-norm": "BatchNorm normalises by the batch at hand",
    "random-mask": "the patches an item shows depend on its place in the batch",
}
STEP = 8  # S is a multiple of it, so that slightly longer titles of a grown dataset still fit the file
TITLES_AT_ONCE = 4096


@dataclass(frozen=True)
class Output:
    """What is stored of each item."""

    module: nn.Module
    """Maps a batch to (B, *shape)."""
    shape: tuple[int, ...]
    """Shape of a row: (F,), (S, F), (L, F), or (T, H, W, 3) for pixels."""
    unit: str = ""
    """What S, L or T counts, such as 'tokens'; '' for vectors."""
    mark: str = ""
    """Text that is added to the name of the feature file."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Entries that are added to the recipe; none for vectors."""

    @property
    def pixels(self) -> bool:
        """Return whether uint8 pixels are stored."""
        return len(self.shape) == 4

    @property
    def numbers(self) -> int:
        """Return how many numbers a row has."""
        product = 1
        for size in self.shape:
            product *= size
        return product


def vector_output(encoder: Encoder) -> Output:
    """Return the output (F,) of the whole encoder."""
    return Output(encoder, (encoder.width,))


def activation_output(encoder: Encoder, top_blocks: int, tokens: int | None = None) -> Output:
    """Return the output (S, F) of the part below the last `top_blocks` blocks.

    Args:
        encoder: the encoder to cut.
        top_blocks: how many of the last blocks to leave out, T of `split_encoder`.
        tokens: S of a title encoder; None takes the encoder's limit.

    Raises:
        ConfigError: the errors of `split_encoder`, or a fault makes an item's activations depend on its batch.
    """
    spec = encoder.spec
    fault = next((name for name in spec.faults if name in INEXACT), None)
    if fault is not None:
        raise ConfigError(
            f"--top-blocks {top_blocks} cannot store exact activations of {spec.name!r}: with fault {fault!r} "
            f"{INEXACT[fault]}; leave out the fault, or --recipe microlens"
        )
    prefix, _ = split_encoder(encoder, top_blocks, tokens=tokens)
    recipe: dict[str, Any] = {"top_blocks": top_blocks, "blocks": len(encoder.blocks())}
    if encoder.tokenizer is not None:
        recipe["tokens"] = prefix.shape[0]
    return Output(prefix, prefix.shape, "tokens", f"-top{top_blocks}", recipe)


def layer_output(encoder: Encoder, chosen: Chosen) -> Output:
    """Return the output (L, F) of several blocks, pooled; ConfigError as in `layers_of`."""
    module, numbers, width = layers_of(encoder, chosen)
    recipe = {"layers": list(numbers), "blocks": len(encoder.blocks())}
    return Output(module, (len(numbers), width), "layers", "-layers", recipe)


def pixel_output(encoder: Encoder) -> Output:
    """Return the output (T, H, W, 3) of an entry's input contract; T is 1 for covers."""
    inputs, frames = encoder.spec.inputs, encoder.spec.frames
    assert isinstance(inputs, PixelInput)
    return Output(encoder, (frames.count if frames else 1, inputs.size, inputs.size, 3), "frames")


def asked_for(encoder: Encoder, options: ExtractOptions, catalog: Catalog) -> Output:
    """Return the output that the options ask for; activations of titles are as long as the catalog's longest title."""
    if options.pixels:
        return pixel_output(encoder)
    if options.layers is not None:
        return layer_output(encoder, options.layers)
    if options.top_blocks is None:
        return vector_output(encoder)
    return activation_output(encoder, options.top_blocks, longest_title(encoder, catalog))


def longest_title(encoder: Encoder, catalog: Catalog) -> int | None:
    """Return the number of tokens of a catalog's longest title; None for encoders that read no titles.

    It is rounded up to a multiple of `STEP`, but not beyond the encoder's limit.
    """
    if encoder.tokenizer is None:
        return None
    titles = [item.title for item in catalog.items if item.title and source(item, "title")]
    longest = 1
    for start in range(0, len(titles), TITLES_AT_ONCE):
        mask = encoder.tokenizer.tokenise(titles[start : start + TITLES_AT_ONCE]).mask
        longest = max(longest, int(mask.sum(dim=1).max()))
    return min(-(-longest // STEP) * STEP, getattr(encoder.spec.inputs, "max_tokens", longest))
