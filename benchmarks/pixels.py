"""Files of pixels: their size, what rounding to 8 bits costs, and what reading them saves.

    python benchmarks/pixels.py --videos DIR --encoder videomae-base --weights random

Some videos or covers are extracted twice: from their files, and from what `extract --pixels` makes of them. Printed:

- bytes per item;
- levels: the largest difference between inputs made from the file of pixels and from the media, in 8-bit levels;
- vectors: 1 - cosine, mean and largest, and the largest relative difference (norm of the difference / norm);
- media s/1,000 and pixels s/1,000: seconds to make the encoder's inputs of 1,000 items, one after another in this
  process, medians over `--rounds`. Media are decoded, resized and normalised. Pixels are read and normalised; the
  system has their file in memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from extract.encoders.inputs import PixelInput
from extract.encoders.preprocess import preprocess
from extract.encoders.registry import get_encoder
from extract.encoders.spec import EncoderSpec
from extract.jobs.extractor import extract
from extract.jobs.options import ExtractOptions
from extract.media.catalog import Catalog, build_catalog, source
from extract.media.covers.image import read_cover
from extract.media.decoders import read_auto
from features.errors import FreezeframeError
from features.store import FeatureFile, State
from pipelines.console import table
from pipelines.towers.media import StoredPixels

DATASET = "pixels"


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    spec = get_encoder(arguments.encoder)
    folders = {"videos": arguments.videos, "covers": arguments.covers}
    every = build_catalog(DATASET, None, **folders)
    catalog = every.only([item.id for item in every.items if source(item, spec.modality)][: arguments.items])
    with tempfile.TemporaryDirectory() as folder:
        options = ExtractOptions(Path(folder), weights=arguments.weights, dtype="float32", max_failed=1.0)
        pixels = FeatureFile(extract(catalog, spec, _with_pixels(options)).path)
        stored = build_catalog(DATASET, [item.id for item in catalog.items], **{f"{spec.modality}s": pixels.path})
        exact, rounded = (FeatureFile(extract(media, spec, options).path) for media in (catalog, stored))
        row = _row(spec, catalog, pixels, exact, rounded, arguments.rounds)
    columns = [
        "items",
        "bytes per item",
        "levels",
        "vectors: mean",
        "max",
        "relative",
        "media s/1,000",
        "pixels s/1,000",
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads, torch {torch.__version__}"
    table(f"{spec.name}, {arguments.weights} weights; {machine}", columns, [row])


def _with_pixels(options: ExtractOptions) -> ExtractOptions:
    return ExtractOptions(options.out, pixels=True, max_failed=1.0)


def _row(
    spec: EncoderSpec, catalog: Catalog, pixels: FeatureFile, exact: FeatureFile, rounded: FeatureFile, rounds: int
) -> list[str]:
    columns = pixels.columns
    done = [item for item, state in zip(columns.ids, columns.states.tolist(), strict=True) if state == State.DONE]
    one, two = (torch.from_numpy(file.read(done)).double() for file in (exact, rounded))
    cosine = (1 - torch.cosine_similarity(one, two)).clamp(min=0)
    relative = ((one - two).norm(dim=1) / one.norm(dim=1)).max()
    read, decode = _readers(spec, catalog, pixels, done)
    assert isinstance(spec.inputs, PixelInput)
    scale = 255 * torch.tensor(spec.inputs.std)[:, None, None]
    levels = max(float(((read(place) - decode(place)) * scale).abs().max()) for place in range(len(done)))
    size = int(pixels.mapped()[0].nbytes)
    costs = [f"{float(cosine.mean()):.1e}", f"{float(cosine.max()):.1e}", f"{float(relative):.1e}"]
    times = [f"{_seconds(make, len(done), rounds):.2f}" for make in (decode, read)]
    return [str(len(done)), f"{size:,}", f"{levels:.3f}", *costs, *times]


def _readers(
    spec: EncoderSpec, catalog: Catalog, pixels: FeatureFile, done: list[str]
) -> tuple[Callable[[int], Tensor], Callable[[int], Tensor]]:
    """Return what makes one item's input from the file of pixels, and from its media."""
    media = StoredPixels(pixels, done, spec)
    paths = {item.id: source(item, spec.modality) for item in catalog.items}

    def decode(place: int) -> Tensor:
        path = paths[done[place]]
        assert isinstance(path, Path)
        assert isinstance(spec.inputs, PixelInput)
        return preprocess(read_cover(path) if spec.frames is None else read_auto(path, spec.frames).frames, spec.inputs)

    return lambda place: media.read(torch.tensor([place]))[0], decode


def _seconds(make: Callable[[int], Tensor], count: int, rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for place in range(count):
            make(place)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1000 / count


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of videos")
    parser.add_argument("--covers", type=Path, help="folder of covers")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--items", type=int, default=512, help="how many items, from the first")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except FreezeframeError as error:
        sys.exit(f"error: {error}")
