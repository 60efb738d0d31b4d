"""What goes into the store: an encoder's vector, the activations below its last blocks, several layers, or its input.

Letters: B batch, I items, F features, S tokens or positions, L layers, T frames, H W pixels.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from extract.media.catalog import Catalog, source
from extract.encoders.encoder import Encoder, PixelInput
from extract.encoders.pooled_layers import Chosen, layers_of
from extract.jobs.options import ExtractOptions
from features.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from extract.jobs.sharding import Work

# In these an item's activations depend on the others of its batch.
INEXACT = {
    "batch-norm": "BatchNorm normalises by the batch at hand",
    "random-mask": "the patches an item shows depend on its place in the batch",
}
STEP = 8  # tokens: a slightly longer title in a grown dataset still fits the file
TITLES_AT_ONCE = 4096


@dataclass(frozen=True)
class Output:
    """What is stored of each item.

    Attributes:
        module: from a batch to (B, *shape).
        shape: of a row: (F,), (S, F), (L, F), or (T, H, W, 3) of pixels.
        unit: what S, L or T counts; '' for vectors.
        mark: what it adds to the name of the file.
        recipe: what it adds to the recipe; nothing for vectors.
    """

    module: nn.Module
    shape: tuple[int, ...]
    unit: str = ""
    mark: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pixels(self) -> bool:
        """Return whether uint8 pixels are stored."""
        return len(self.shape) == 4

    @property
    def numbers(self) -> int:
        """Return the numbers of a row."""
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
        encoder: what is cut.
        top_blocks: T of `Encoder.split`.
        tokens: S of a title encoder; its limit without it.

    Raises:
        ConfigError: as `Encoder.split`, or a fault that makes an item's activations depend on its batch.
    """
    spec = encoder.spec
    fault = next((name for name in spec.faults if name in INEXACT), None)
    if fault is not None:
        raise ConfigError(
            f"--top-blocks {top_blocks} cannot store exact activations of {spec.name!r}: with fault {fault!r} "
            f"{INEXACT[fault]}; leave out the fault, or --recipe microlens"
        )
    prefix, _ = encoder.split(top_blocks, tokens=tokens)
    recipe: dict[str, Any] = {"top_blocks": top_blocks, "blocks": len(encoder.blocks())}
    if encoder.tokenizer is not None:
        recipe["tokens"] = prefix.shape[0]
    return Output(prefix, prefix.shape, "tokens", f"-top{top_blocks}", recipe)


def layer_output(encoder: Encoder, chosen: Chosen) -> Output:
    """Return the output (L, F) of several blocks, pooled; ConfigError as `extract.encoders.pooled_layers.layers_of`."""
    module, numbers, width = layers_of(encoder, chosen)
    recipe = {"layers": list(numbers), "blocks": len(encoder.blocks())}
    return Output(module, (len(numbers), width), "layers", "-layers", recipe)


def pixel_output(encoder: Encoder) -> Output:
    """Return the output (T, H, W, 3) of an entry's input contract; T is 1 for covers."""
    inputs, frames = encoder.spec.inputs, encoder.spec.frames
    assert isinstance(inputs, PixelInput)
    return Output(encoder, (frames.count if frames else 1, inputs.size, inputs.size, 3), "frames")


def asked_for(encoder: Encoder, options: ExtractOptions, catalog: Catalog) -> Output:
    """Return what the options ask for; titles are padded to the longest of the catalog."""
    if options.pixels:
        return pixel_output(encoder)
    if options.layers is not None:
        return layer_output(encoder, options.layers)
    if options.top_blocks is None:
        return vector_output(encoder)
    return activation_output(encoder, options.top_blocks, longest_title(encoder, catalog))


def longest_title(encoder: Encoder, catalog: Catalog) -> int | None:
    """Return the tokens of a catalog's longest title, up to a multiple of 8 and the limit; None for other encoders."""
    if encoder.tokenizer is None:
        return None
    titles = [item.title for item in catalog.items if item.title and source(item, "title")]
    longest = 1
    for start in range(0, len(titles), TITLES_AT_ONCE):
        mask = encoder.tokenizer.tokenise(titles[start : start + TITLES_AT_ONCE]).mask
        longest = max(longest, int(mask.sum(dim=1).max()))
    return min(-(-longest // STEP) * STEP, getattr(encoder.spec.inputs, "max_tokens", longest))


def announce(works: Sequence[Work]) -> list[str]:
    """Return a line per encoder whose activations or pixels are to be stored, with their size and the disk's room."""
    lines = []
    for work in _large(works):
        items = len(work.job.wanted.ids)
        lines.append(
            f"{work.encoder.spec.name}: {items} items x {_row_in_words(work)} = {_readable(_bytes(work, items))}; "
            f"free in {work.options.out}: {_readable(_free(work.options.out))}"
        )
    return lines


def _row_in_words(work: Work) -> str:
    count, *rest = work.output.shape
    if work.output.pixels:
        return f"{count} {work.output.unit} x {rest[0]} x {rest[1]} pixels x 3 bytes"
    return f"{count} {work.output.unit} x {rest[0]} numbers x {work.dtype.itemsize} bytes"


def check_room(works: Sequence[Work]) -> None:
    """Raise StoreError when activations or pixels do not fit: the shards, and beside them the file they become."""
    large = _large(works)
    if not large:
        return
    need = sum(_bytes(work, len(work.job.pending)) for work in large)
    need += max(_bytes(work, len(work.job.wanted.ids)) for work in large)  # one file is merged at a time
    out = large[0].options.out
    if need > _free(out):
        smaller = "a smaller --dtype, or a smaller --top-blocks of an encoder that narrows"
        if large[0].output.pixels:
            smaller = "or fewer --frames"
        raise StoreError(
            f"{announce(works)[0]}; the shards and the file made of them need {_readable(need)} at once. Use another "
            f"--out, --items with those that are trained on, {smaller}"
        )


def _large(works: Sequence[Work]) -> list[Work]:
    return [work for work in works if work.output.unit and not work.job.unchanged]


def _bytes(work: Work, rows: int) -> int:
    return rows * work.output.numbers * work.dtype.itemsize


def _free(folder: Path) -> int:
    """Return the free bytes where a folder is or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _readable(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
