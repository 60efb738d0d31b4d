"""One encoder's rows of one shard: inputs in, batches through the encoder, feature rows out.

Letters: B batch, F feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from extract.encoders.encoder import Encoder
from extract.encoders.inputs import Batch, Tokens
from extract.encoders.preprocess import view_of
from extract.jobs.options import ExtractOptions
from extract.jobs.outputs import Output, vector_output
from extract.jobs.reading import Source
from extract.media.decoding.errors import one_line
from features.errors import ConfigError
from features.precision import to_disk
from features.store import FeatureRows, State

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class _Row:
    item: str
    stamp: str
    digest: str
    state: State
    reason: str


class Feeder:
    """Turns the sources of one shard into feature rows of one encoder.

    A batch is made of `batch_size` consecutive rows, failed ones included. So a shard has the same batches every time,
    and a shard made again after a crash has the same bytes.

    Args:
        encoder: the encoder, on its device.
        options: batch size, device, precision and dtype.
        output: what is stored of each item; None stores its vector.
    """

    def __init__(self, encoder: Encoder, options: ExtractOptions, output: Output | None = None) -> None:
        self._encoder = encoder
        self._output = output or vector_output(encoder)
        self._options = options
        self._view = view_of(encoder.spec, cropped=self._output.pixels)
        self._rows: list[_Row] = []
        self._inputs: list[Tensor | str] = []
        self._places: list[int] = []
        self._made: list[tuple[list[int], Tensor]] = []

    def add(self, item: str, stamp: str, source: Source) -> bool:
        """Take the next row, and run the batch if this row fills it; return whether it did."""
        row = _Row(item, stamp, source.digest, source.state, source.reason)
        if row.state == State.DONE:
            self._inputs.append(self._input(source))
            self._places.append(len(self._rows))
        self._rows.append(row)
        full = len(self._rows) % self._options.batch_size == 0
        if full:
            self._run()
        return full

    def _input(self, source: Source) -> Tensor | str:
        if self._view is None:
            return source.title
        pixels = source.views[self._view].to(self._options.device, non_blocking=True)
        return pixels.reshape(self._output.shape) if self._output.pixels else pixels  # a cover is one frame

    def _run(self) -> None:
        if self._inputs:  # vectors stay on the device, so that nothing waits for the GPU before the end of the shard
            made = self._forward(self._inputs)
            self._made.append((self._places, made if made.ndim == 2 else made.cpu()))
        self._inputs, self._places = [], []

    def _forward(self, inputs: Sequence[Tensor | str]) -> Tensor:
        """Return (B, F) or (B, S, F) float32; a batch that does not fit the GPU's memory is run half by half."""
        try:
            return run_encoder(self._output.module, self._batch(inputs), self._options)
        except torch.OutOfMemoryError as error:
            if len(inputs) == 1:
                raise ConfigError(
                    f"encoder {self._encoder.spec.name!r} does not fit into the memory of {self._options.device} even "
                    "with one item at a time; use fewer --frames, --precision bf16 or another --device"
                ) from error
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = one_line(error)
            raise ConfigError(f"--compile failed for {self._encoder.spec.name!r} ({reason}); leave it out") from error
        torch.cuda.empty_cache()
        half = len(inputs) // 2
        return torch.cat([self._forward(inputs[:half]), self._forward(inputs[half:])])

    def _batch(self, inputs: Sequence[Tensor | str]) -> Batch:
        if self._encoder.tokenizer is None:
            return torch.stack([entry for entry in inputs if isinstance(entry, Tensor)])
        tokens = self._encoder.tokenizer.tokenise([entry for entry in inputs if isinstance(entry, str)])
        return Tokens(tokens.ids.to(self._options.device), tokens.mask.to(self._options.device))

    def finish(self) -> FeatureRows:
        """Run the last batch and return all rows: float32 vectors, or uint8 pixels.

        A row whose vector does not fit the type on disk becomes a failed row.
        """
        self._run()
        shape = (len(self._rows), *self._output.shape)
        rows: NDArray[Any] = np.zeros(shape, np.uint8) if self._output.pixels else np.full(shape, np.nan, np.float32)
        for places, made in self._made:
            rows[places] = (made if self._output.pixels else made.float()).cpu().numpy()
        if not self._output.pixels:
            self._fail_what_does_not_fit(rows)
        return FeatureRows(
            ids=[row.item for row in self._rows],
            vectors=rows,
            states=np.array([row.state for row in self._rows], dtype=np.uint8),
            reasons=[row.reason for row in self._rows],
            stamps=[row.stamp for row in self._rows],
            digests=[row.digest for row in self._rows],
        )

    def _fail_what_does_not_fit(self, rows: NDArray[Any]) -> None:
        dtype = self._options.disk_dtype
        stored = to_disk(rows, dtype)
        lost = np.zeros(len(rows), bool)
        if self._encoder.tokenizer is not None and rows.ndim == 3:  # a token of zeros would be read as padding
            lost = ((rows != 0).any(2) & ~(stored.values != 0).any(2)).any(1)
        for place, row in enumerate(self._rows):
            if row.state == State.DONE and (lost[place] or not stored.good[place]):
                rows[place] = np.nan
                what = "vector is not finite" if not stored.good[place] else "a token becomes all zeros, like padding,"
                row.state, row.reason = State.FAILED, f"{what} in {dtype}; try --dtype float32"


def run_encoder(module: nn.Module, batch: Batch, options: ExtractOptions) -> Tensor:
    """Return (B, ...): a batch run through an encoder or its prefix, in the precision of the options."""
    with torch.inference_mode(), _precision(options):
        rows: Tensor = module(batch)
        return rows


def _precision(options: ExtractOptions) -> AbstractContextManager[Any]:
    if options.precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(options.device).type, AUTOCAST[options.precision])
