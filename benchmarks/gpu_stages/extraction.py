"""Stage b: items per second of extraction over media that are decoded already, beside the arithmetic's floor.

Columns, per encoder and arithmetic:

- encoder: items/s of the encoder alone, its batch on the device;
- extract: items/s of `extract` over a file of decoded pixels in the page cache (titles: over texts), from reading a row
  to writing its vector; batch size auto;
- one at a time: items/s of a plain loop: one item to the device, normalise or tokenise, encode, vector back;
- share of floor: arithmetic that `extract` did per second, divided by that of a square product in the same arithmetic;
- GPU busy: share of the time in which anything ran on the GPU, during a short extraction under the profiler;
- to device: bytes of input tensors that `extract` moved to the device per second.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_stages.corpus import NAME
from benchmarks.gpu_stages.measuring import Enough, count_flops, now, product_rate, rate, watch
from benchmarks.gpu_stages.reporting import Budget, Report
from benchmarks.gpu_stages.sizes import Sizes
from benchmarks.noise import write_pixels
from extract.encoders.encoder import Encoder
from extract.encoders.inputs import Batch, PixelInput, Tokens
from extract.encoders.preprocess import normalise, view_of
from extract.encoders.registry import get_encoder
from extract.encoders.spec import EncoderSpec
from extract.jobs.batch_size import PICTURE, settled_batch_size
from extract.jobs.batches import run_encoder
from extract.jobs.extractor import extract_all
from extract.jobs.options import ExtractOptions
from extract.media.catalog import Catalog, Item
from extract.media.pixel_media import list_pixels, read_pixels

TITLE = "extraction"
TABLE = "extraction, items per second"
ARITHMETIC = {"float32": "float32", "bf16": "bfloat16"}  # option of `extract` -> kind of product
WORDS = ("steel", "bolt", "glass", "lab", "tape", "red", "small", "pack", "of", "for", "filter", "pump", "valve")
TITLE_WORDS = 12
FLOOR, TIMES = 0.4, 5.0  # goals
WORKERS = 8


def run(report: Report, sizes: Sizes, folder: Path, device: torch.device, budget: Budget) -> None:
    """Fill the report: every encoder in both arithmetics first, then compiled, then resizing and decoding."""
    products = {kind: product_rate(device, kind, sizes) for kind in ARITHMETIC.values()}
    report.facts |= {f"{kind} product (TFLOP/s)": value / 1e12 for kind, value in products.items()}
    benches: list[Bench] = []
    pairs = len(sizes.encoders) * len(ARITHMETIC)
    for name in sizes.encoders:
        with report.row(TABLE, name):
            benches.append(Bench(name, sizes, folder, device, products))
        for precision in ARITHMETIC if benches and benches[-1].spec.name == name else ():
            with report.row(TABLE, f"{name}, {precision}") as row:
                _measure(benches[-1], row, report, budget, 1.6 * pairs, precision)
            pairs -= 1
    ready = {bench.spec.name: bench for bench in benches}
    for number, name in enumerate(sizes.compiled):
        with report.row(TABLE, f"{name}, bf16, --compile") as row:
            seconds = budget.share(len(sizes.compiled) - number + 1.0)
            if name not in ready:
                raise RuntimeError("was not measured without it")
            row["compiling (s)"] = ready[name].compile(sizes.compiler)
            ready[name].fill(row, "bf16", seconds / 3, slow=False)
    for bench in benches:
        if isinstance(bench.spec.inputs, PixelInput):
            with report.row("from decoded frames of 320 x 426 pixels to an encoder's view", bench.spec.name) as row:
                budget.share(1)
                row["items/s"] = bench.resize()
    with report.row("decoding on one core", "H.264 320 x 426, 5 s, 16 frames of it") as row:
        row["clips/s"] = decode(folder, min(2.0, sizes.row_s))


def _measure(bench: Bench, row: dict[str, Any], report: Report, budget: Budget, rows: float, precision: str) -> None:
    bench.fill(row, precision, budget.share(rows) / 3)
    first = bench.spec.name == bench.sizes.encoders[0]
    seen = watch(lambda: bench.extract(precision, row["batch"], 4 * row["batch"], bench.sizes.row_s), bench.device)
    row["GPU busy"] = seen.busy if seen.busy is not None else (seen.why or None)
    if first and precision == "bf16":
        name = f"extraction with {bench.spec.name}, bf16"
        met = report.goal(f"{name}: share of the floor", row["share of floor"], FLOOR, at_most=False)
        times = row["extract"] / row["one at a time"]
        met &= report.goal(f"{name}: times the loop that takes one item at a time", times, TIMES, at_most=False)
        if not met:
            report.profiles[f"extract, {name}"] = seen.operators


class Bench:
    """One encoder with random weights, and items for it."""

    def __init__(self, name: str, sizes: Sizes, folder: Path, device: torch.device, products: dict[str, float]) -> None:
        self.sizes, self.device, self.spec = sizes, device, get_encoder(name)
        self._folder, self._products = folder, products
        self.encoder: Encoder = self.spec.backend(self.spec, "random", 0).to(device)
        if self.encoder.tokenizer is None:
            pixels = folder / f"{name}.h5"
            write_pixels(pixels, self.spec, [str(number) for number in range(sizes.pictures)])
            self.catalog = pixel_catalog(pixels, self.spec, sizes.most_items)
        else:
            self.catalog = title_catalog(sizes.most_items)
        self.flops = count_flops(lambda: self.encoder(self._batch(1)))

    def fill(self, row: dict[str, Any], precision: str, seconds: float, *, slow: bool = True) -> None:
        """Measure one arithmetic; `slow` says whether the plain loop is measured, too."""
        options = self._options(precision, 0)
        batch = self._settled(options)
        row |= {"batch": batch, "GFLOP/item": self.flops / 1e9}
        row["encoder"] = self._alone(batch, options, seconds)
        wanted = int(min(self.sizes.most_items, max(4 * batch, 1.5 * seconds * row["encoder"])))
        row["extract"] = self.extract(precision, batch, wanted, seconds)
        if slow:
            row["one at a time"] = rate(self._one_at_a_time(precision), self.device, seconds / 2)
        row["share of floor"] = row["extract"] * self.flops / self._products[ARITHMETIC[precision]]
        row["to device (GB/s)"] = row["extract"] * self._bytes() / 1e9

    def extract(self, precision: str, batch: int, items: int, seconds: float) -> float:
        """Return items/s of the verb `extract`; it ends when all items are done or the time is over."""
        out = self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        options = replace(self._options(precision, batch), out=out)
        catalog = replace(self.catalog, items=self.catalog.items[:items])
        marks: list[tuple[float, int]] = []

        def mark(done: int, wanted: int, failed: int) -> None:
            if failed:
                raise RuntimeError(f"{failed} of {wanted} items failed")
            if not marks or time.perf_counter() - marks[0][0] > seconds:
                marks.append((now(self.device), done))
                if len(marks) > 1:
                    raise Enough

        spec = replace(self.spec, backend=lambda *_: self.encoder)
        with suppress(Enough):
            extract_all(catalog, [spec], options, progress=mark)
            marks.append((now(self.device), items))
        (began, first), (ended, last) = marks[0], marks[-1]
        return (last - first) / (ended - began)

    def compile(self, backend: str) -> float:
        """Compile the encoder; return the seconds of the first batch."""
        self.encoder.compile(backend=backend)
        began = time.perf_counter()
        options = self._options("bf16", 0)
        run_encoder(self.encoder, self._batch(self._settled(options)), options)
        return now(self.device) - began

    def _alone(self, batch: int, options: ExtractOptions, seconds: float) -> float:
        """Return items/s of the encoder over a batch that is on the device."""
        inputs = self._batch(batch)
        return batch * rate(lambda: run_encoder(self.encoder, inputs, options), self.device, seconds)

    def _settled(self, options: ExtractOptions) -> int:
        """Return the size of `--batch-size auto`, found once for each arithmetic."""
        record = self._folder / f"{self.spec.name}-{options.precision}"
        return min(settled_batch_size(self.encoder, options, record), self.sizes.most_batch)

    def resize(self) -> float:
        """Return items/s from frames in memory to what the encoder sees, item by item, copies to the device included.

        It is one reader's work; several read at once.
        """
        view = view_of(self.spec, cropped=False)
        assert view is not None
        count = self.spec.frames.count if self.spec.frames else 0
        shape = (count, *PICTURE, 3) if count else (*PICTURE, 3)
        frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        if self.device.type == "cuda":
            frames = frames.pin_memory()
        return rate(
            lambda: view.made(frames.to(self.device, non_blocking=True), self.device),
            self.device,
            min(1.0, self.sizes.row_s),
        )

    def _options(self, precision: Any, batch: int) -> ExtractOptions:
        workers = WORKERS if self.device.type == "cuda" else 2
        return ExtractOptions(
            self._folder, weights="random", batch_size=batch, precision=precision, device=str(self.device),
            workers=workers,
        )  # fmt: skip

    def _one_at_a_time(self, precision: str) -> Callable[[], Tensor]:
        """Return a loop's body: what scripts do with one item."""
        options, place = self._options(precision, 1), 0
        if self.encoder.tokenizer is None:
            held = [read_pixels(item.video or item.cover) for item in self.catalog.items[: self.sizes.pictures]]

        def body() -> Tensor:
            nonlocal place
            place += 1
            if self.encoder.tokenizer is not None:
                batch = self._tokens([self.catalog.items[place % len(self.catalog.items)].title])
            else:
                pixels = torch.from_numpy(held[place % len(held)]).to(self.device)
                batch = normalise(pixels, self.spec.inputs)[None]
            return run_encoder(self.encoder, batch, options).cpu()

        return body

    def _batch(self, count: int) -> Batch:
        if self.encoder.tokenizer is not None:
            return self._tokens([item.title for item in (self.catalog.items * count)[:count]])
        pixels = np.stack([read_pixels(item.video or item.cover) for item in self.catalog.items[:1]])
        one = normalise(torch.from_numpy(pixels).to(self.device), self.spec.inputs)
        return one.repeat(count, *[1] * (one.ndim - 1))

    def _tokens(self, titles: Any) -> Tokens:
        assert self.encoder.tokenizer is not None
        tokens = self.encoder.tokenizer.tokenise(titles)
        return Tokens(tokens.ids.to(self.device), tokens.mask.to(self.device))

    def _bytes(self) -> int:
        """Return the bytes of an item's input tensors as they are moved to the device."""
        if self.encoder.tokenizer is not None:
            tokens = self._tokens([self.catalog.items[0].title])
            return tokens.ids.nbytes + tokens.mask.nbytes
        first = self.catalog.items[0]
        return int(read_pixels(first.video or first.cover).nbytes)


def pixel_catalog(pixels: Path, spec: EncoderSpec, count: int) -> Catalog:
    """Return a catalog of `count` items over a file of pixels; items beyond its rows repeat them."""
    entries = list(list_pixels(pixels, f"{spec.modality}s").values())
    video = spec.modality == "video"
    items = [
        Item(str(number), entry if video else None, None if video else entry, None)
        for number in range(count)
        for entry in [entries[number % len(entries)]]
    ]
    return Catalog(NAME, tuple(items))


def title_catalog(count: int) -> Catalog:
    """Return a catalog of drawn titles of 12 words."""
    rng = np.random.default_rng(0)
    words = rng.choice(WORDS, (count, TITLE_WORDS)).tolist()
    return Catalog(NAME, tuple(Item(str(number), None, None, " ".join(text)) for number, text in enumerate(words)))


def decode(folder: Path, seconds: float) -> float:
    """Return clips per second of decoding in this process; ModuleNotFoundError without PyAV, which writes the clip."""
    from extract.media.decoders import get_decoder
    from extract.media.frames import FramePolicy
    from pipelines.data.synthetic import write_clip

    path = folder / "clip.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    still = np.kron(noise, np.ones((32, 32, 1), np.uint8))[: PICTURE[0], : PICTURE[1]]
    frames = np.stack([np.roll(still, 2 * number, axis=1) for number in range(125)])
    write_clip(path, frames, rate=25)
    read = get_decoder("auto")
    return rate(lambda: read(path, FramePolicy("uniform", 16)), torch.device("cpu"), seconds)
