"""Cached activations: their size, what rounding them does to vectors, and the top's cost beside the whole encoder's.

    python benchmarks/prefix.py --data DIR --encoder minilm --top 1,2,3 --items 512

For each cut, the activations of some items of a dataset are extracted as float32, float16 and int8, as by `extract
--top-blocks`, read back, and sent through the top. Printed per cut and type:

- bytes per item;
- activations: 1 - cosine between those computed and those read back, mean and largest, as the file records it;
- vectors: the largest 1 - cosine and the largest relative difference (norm of the difference / norm) between those from
  the top and those from the whole encoder;
- seconds per 1,000 items of the top and of the encoder: forward passes only, in one process, on inputs in memory,
  medians over `--rounds`.
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

from extract.encoders.cutting import split_encoder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from extract.encoders.encoder import Encoder
from extract.encoders.inputs import Batch, PixelInput
from extract.encoders.registry import get_encoder
from extract.jobs.extractor import extract
from extract.jobs.options import ExtractOptions
from extract.jobs.outputs import longest_title
from extract.media.catalog import Catalog
from features.errors import FreezeframeError
from features.precision import DISK_TYPES
from features.store import FeatureFile, State
from pipelines.console import table
from pipelines.data.detection import read_dataset
from pipelines.feature_files.extraction import dataset_catalog

BATCH = 16


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    spec = get_encoder(arguments.encoder)
    encoder = spec.backend(spec, arguments.weights, 0)
    whole = dataset_catalog(read_dataset(arguments.data))
    catalog = whole.only([item.id for item in whole.items][: arguments.items])
    columns = ["top", "tokens x width", "type", "bytes per item", "activations: mean", "max", "vectors: 1 - cosine"]
    columns += ["relative", "top s/1,000", "encoder s/1,000"]
    rows = []
    for count in (int(word) for word in arguments.top.split(",")):
        rows += _cut(encoder, catalog, count, arguments)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads, torch {torch.__version__}"
    table(f"{arguments.encoder}, {arguments.weights} weights, {len(catalog.items)} items; {machine}", columns, rows)


def _cut(encoder: Encoder, catalog: Catalog, count: int, arguments: argparse.Namespace) -> list[list[str]]:
    prefix, top = split_encoder(encoder, count, tokens=longest_title(encoder, catalog))
    times = _times(encoder, prefix, top, catalog, arguments.rounds)
    rows, vectors = [], _vectors(encoder, catalog, arguments)
    for dtype in ("float32", "float16", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            options = ExtractOptions(
                Path(folder),
                weights=arguments.weights,
                dtype=dtype,  # type: ignore[arg-type]
                top_blocks=count,
                max_failed=1.0,
                batch_size=BATCH,
            )
            file = FeatureFile(extract(catalog, encoder.spec, options).path)
            made = torch.cat([top(part) for part in torch.from_numpy(file.read(_done(file))).split(BATCH)])
        error = file.cosine_error
        assert error is not None
        size = prefix.shape[0] * prefix.shape[1] * DISK_TYPES[dtype].itemsize
        cosine = (1 - torch.cosine_similarity(made.double(), vectors.double())).max()
        relative = ((made - vectors).norm(dim=1) / vectors.norm(dim=1)).max()
        row = [str(count), f"{prefix.shape[0]} x {prefix.shape[1]}", dtype, f"{size:,}"]
        row += [f"{error.mean:.1e}", f"{error.max:.1e}", f"{max(float(cosine), 0):.1e}", f"{float(relative):.1e}"]
        rows.append([*row, *(f"{seconds:.2f}" for seconds in times)])
    return rows


def _done(file: FeatureFile) -> list[str]:
    columns = file.columns
    return [item for item, state in zip(columns.ids, columns.states.tolist(), strict=True) if state == State.DONE]


def _vectors(encoder: Encoder, catalog: Catalog, arguments: argparse.Namespace) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        options = ExtractOptions(
            Path(folder), weights=arguments.weights, dtype="float32", max_failed=1.0, batch_size=BATCH
        )
        file = FeatureFile(extract(catalog, encoder.spec, options).path)
        return torch.from_numpy(file.read(_done(file)))


def _times(
    encoder: Encoder,
    prefix: Callable[[Batch], Tensor],
    top: Callable[[Tensor], Tensor],
    catalog: Catalog,
    rounds: int,
) -> list[float]:
    """Return seconds per 1,000 items of the top and of the encoder."""
    if encoder.tokenizer is not None:
        titles = [item.title or "a" for item in catalog.items][:BATCH]
        inputs: Batch = encoder.tokenizer.tokenise(titles)
    else:
        assert isinstance(encoder.spec.inputs, PixelInput)
        frames = () if encoder.spec.frames is None else (encoder.spec.frames.count,)
        inputs = torch.randn(BATCH, *frames, 3, encoder.spec.inputs.size, encoder.spec.inputs.size)
    states = prefix(inputs)
    return [_median(lambda: top(states), rounds), _median(lambda: encoder(inputs), rounds)]


def _median(run: Callable[[], Tensor], rounds: int) -> float:
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1000 / BATCH


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--top", default="1,2", help="cuts, comma-separated")
    parser.add_argument("--items", type=int, default=512, help="how many items, from the first")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        with torch.inference_mode():
            main()
    except FreezeframeError as error:
        sys.exit(f"error: {error}")
