"""`--batch-size auto`: find a power of two that fits a GPU's memory by trying, and record it.

A batch size may change the last bits of a vector, so a run must keep the one it began with. It is recorded beside the
shards, for restarts and for other workers. On a CPU nothing is tried, because larger batches are not faster there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from extract.encoders.encoder import Encoder
from extract.encoders.inputs import Batch, PixelInput, TextInput, Tokens
from extract.encoders.preprocess import preprocess
from extract.jobs.batches import run_encoder
from extract.jobs.options import CPU_BATCH, ExtractOptions
from extract.jobs.outputs import Output, vector_output

RECORD = "batch-size"
LEAST, MOST = 8, 256
PICTURE = (320, 426)  # height and width of a trial's pictures; preprocessing brings any picture to one size


def settled_batch_size(encoder: Encoder, options: ExtractOptions, folder: Path, output: Output | None = None) -> int:
    """Return the batch size of the run with its shards in `folder`; if none is recorded there, find and record it."""
    output = output or vector_output(encoder)
    if not options.device.startswith("cuda"):
        return CPU_BATCH
    record = folder / RECORD
    if not record.is_file():
        size = largest_batch(lambda count: _try(encoder, output, options, count))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with record.open("x", encoding="ascii", newline="") as handle:
                handle.write(f"{size}\n")
        except FileExistsError:  # another worker was first
            pass
    text = record.read_text(encoding="ascii").strip()
    return int(text) if text.isdecimal() and int(text) else LEAST  # if a crash cut the record off, any size is right


def largest_batch(fits: Callable[[int], bool]) -> int:
    """Return 256 if it fits, otherwise half of the largest of 8, 16 ... that fits, and at least 8.

    The other half is room for the inputs that wait beside a batch.
    """
    size = LEAST
    while size < MOST and fits(2 * size):
        size *= 2
    return size if size == MOST else max(LEAST, size // 2)


def _try(encoder: Encoder, output: Output, options: ExtractOptions, count: int) -> bool:
    """Return whether the encoder, or its prefix, has memory for a batch of `count` items."""
    try:
        run_encoder(output.module, _like(encoder, output, options.device, count), options)
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def _like(encoder: Encoder, output: Output, device: str, count: int) -> Batch:
    spec = encoder.spec
    if isinstance(spec.inputs, TextInput):
        ids = torch.zeros(count, spec.inputs.max_tokens, dtype=torch.int64, device=device)
        tokens = output.recipe.get("tokens", spec.inputs.max_tokens)
        return Tokens(ids, (torch.arange(spec.inputs.max_tokens, device=device) < tokens).expand_as(ids))
    assert isinstance(spec.inputs, PixelInput)
    shape = (*PICTURE, 3) if spec.frames is None else (spec.frames.count, *PICTURE, 3)
    one = preprocess(torch.zeros(shape, dtype=torch.uint8), spec.inputs, device)
    return one.expand(count, *one.shape).clone()
