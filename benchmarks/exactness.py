"""How exactly an encoder's last blocks train over stored activations, compared with the same blocks end to end.

    python benchmarks/exactness.py --encoders resnet50,videomae-base --cuts 1:1,2:2,1:2 --items 3 --steps 50
    python benchmarks/exactness.py --encoders minilm --weights pretrained --data DIR --items 256 --dtypes float16,int8

A cut T:C trains the last T blocks over a file that `extract` cut below the last C blocks. Items are pictures of noise,
each with its own colour, or titles: made up, or the first ones of the dataset in `--data`. SASRec trains `--steps`
steps in float32 from one seed, once as kind 'top' and once as kind 'e2e'. Printed per cut and type of file:

- vectors: the largest |difference| / |vector| of an item's vector before training;
- losses: the largest relative difference in a step's loss;
- weights: the largest max |difference| / max |entry| of a trained tensor, BatchNorm's statistics included. The biases
  of attention's keys are left out: softmax does not depend on them, and Adam turns rounding errors in their gradients
  into steps;
- worst: the name of that tensor;
- bits: whether losses and all trained tensors are equal bit for bit;
- top s/step, e2e s/step: the seconds that a step takes in each kind, without evaluation.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.difference import Trained, difference, vectors_of
from benchmarks.noise import write_pixels
from extract.encoders.registry import get_encoder
from extract.encoders.spec import EncoderSpec
from extract.jobs.extractor import extract
from extract.jobs.options import ExtractOptions
from extract.media.catalog import build_catalog
from features.errors import FreezeframeError
from pipelines.console import table
from pipelines.data.detection import read_dataset
from pipelines.data.load import load_data
from pipelines.recipe.recipe import build_recipe
from pipelines.runs.inputs import build_model, open_features
from pipelines.towers.media import media_of
from pipelines.towers.open_towers import open_towers
from pipelines.training.fit import Progress, fit

USERS, HISTORY = 24, 5  # HISTORY: interactions of a user; with more than items + 1, no item is left to be a negative
BATCH = 8  # users per step
WORDS = ("steel", "bolt", "glass", "lab", "tape", "red", "small", "pack", "of", "for", "filter", "pump", "valve")


class Corpus:
    """A dataset folder of `items` items for one encoder, and what `extract` makes of it."""

    def __init__(
        self,
        folder: Path,
        spec: EncoderSpec,
        items: int,
        *,
        weights: str = "random",
        titles: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        """Write interactions, and titles or a file of pixels; `seed` draws these and nothing else."""
        self.folder, self.spec, self.weights = folder / "toy", spec, weights
        self.ids = [f"{item:04}" for item in range(items)]
        rng = np.random.default_rng(seed)
        self.folder.mkdir(parents=True)
        rows = ["user\titem\ttimestamp"]
        for user in range(USERS):
            order = rng.permutation(items)
            rows += [f"u{user:02}\t{self.ids[order[time % items]]}\t{time}" for time in range(min(HISTORY, items + 1))]
        rows += [f"z\t{item}\t{time}" for time, item in enumerate(self.ids)]  # every item is a candidate
        (self.folder / "interactions.tsv").write_text("\n".join(rows) + "\n")
        self.titles = dict(zip(self.ids, titles or _titles(rng, items), strict=True))
        self.pixels: Path | None = None
        if spec.modality != "title":
            self.pixels = folder / "pixels.h5"
            write_pixels(self.pixels, spec, self.ids, rng, "toy")
        lines = "".join(f"{item}\t{title}\n" for item, title in self.titles.items())
        (self.folder / "items.tsv").write_text(f"item\ttitle\n{lines}")

    def cut(self, top_blocks: int, dtype: Any = "float32", batch_size: int = 2) -> Path:
        """Return the file of `extract --top-blocks`, made in batches of another size than training's."""
        media = {"titles": self.titles} if self.pixels is None else {f"{self.spec.modality}s": self.pixels}
        options = ExtractOptions(
            self.folder.parent / "features",
            weights=self.weights,
            dtype=dtype,
            top_blocks=top_blocks,
            batch_size=batch_size,
            shard_size=max(batch_size, 64),
            max_failed=0.0,
        )
        return extract(build_catalog("toy", self.ids, **media), self.spec, options).path  # type: ignore[arg-type]

    def train(self, kind: str, top_blocks: int | str, file: Path | None, steps: int, **options: Any) -> Trained:
        """Train SASRec on this corpus for a number of steps."""
        items = {"kind": kind, "dim": 8, "encoder": self.spec.name, "weights": self.weights, "encoder_lr": 1e-4}
        recipe = build_recipe(
            {
                "name": kind,
                "data": {"folder": str(self.folder), "max_length": 4},
                "features": [{"path": str(file or self.pixels)}] if file or self.pixels else [],
                "model": {"name": "sasrec", "dropout": 0.1},
                "items": {**items, "top_blocks": top_blocks, **options},
                "train": {"epochs": steps, "batch_size": BATCH},
            }
        )
        data = load_data(recipe.data)
        files = open_features(recipe, data.split)
        towers = open_towers(recipe, data.split, files, media_of(data.dataset, data.split, recipe.features))
        model = build_model(recipe, data.split, files, {}, towers)
        vectors = vectors_of(model)
        losses: list[float] = []
        times: list[float] = []

        def note(at: Progress) -> None:
            times.append(time.perf_counter())
            if at.record is not None:
                losses.append(at.record.loss)

        per_epoch = -(-len(data.split.train.users) // BATCH)
        epochs = max(1, round(steps / per_epoch))
        config = replace(recipe.train, epochs=epochs, eval_every=epochs)
        fit(model, data.split, config, seed=0, run=None, mask="hide", progress=note)
        gaps = sorted(after - before for before, after in pairwise(times))
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        return Trained(vectors, losses, state, gaps[len(gaps) // 2] if gaps else 0.0)


def _titles(rng: np.random.Generator, items: int) -> list[str]:
    return [" ".join(rng.choice(WORDS, int(rng.integers(1, 13)))) for _ in range(items)]


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    titles = _real_titles(arguments.data, arguments.items) if arguments.data else None
    columns = [
        "encoder",
        "T",
        "cut at",
        "file",
        "vectors",
        "losses",
        "weights",
        "worst",
        "bits",
        "top s/step",
        "e2e s/step",
    ]
    rows = []
    for name in arguments.encoders.split(","):
        rows += _encoder(name, titles, arguments)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads, torch {torch.__version__}"
    table(f"{arguments.weights} weights, {arguments.items} items, {arguments.steps} steps; {machine}", columns, rows)


def _encoder(name: str, titles: list[str] | None, arguments: argparse.Namespace) -> list[list[str]]:
    rows, whole = [], {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder), get_encoder(name), arguments.items, weights=arguments.weights, titles=titles)
        for cut in arguments.cuts.split(","):
            count, cached = map(int, cut.split(":"))
            if count not in whole:
                whole[count] = corpus.train("e2e", count, None, arguments.steps)
            for dtype in arguments.dtypes.split(","):
                top = corpus.train("top", count, corpus.cut(cached, dtype), arguments.steps)
                found = difference(top, whole[count])
                row = [name, str(count), str(cached), dtype, f"{found.vectors:.1e}", f"{found.losses:.1e}"]
                row += [
                    f"{found.weights:.1e}",
                    found.worst if found.weights else "",
                    "equal" if found.bits else "not equal",
                ]
                rows.append([*row, f"{found.top_s:.3f}", f"{found.e2e_s:.3f}"])
                print("\t".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _real_titles(folder: Path, items: int) -> list[str]:
    titles = read_dataset(folder).titles
    plain = (" ".join(title.replace('"', " ").split()) for title in titles.values())  # nothing to quote in a table
    return [title for title in plain if title][:items]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", required=True, help="names, comma-separated")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--cuts", default="1:1,2:2,1:2", help="T:C, comma-separated")
    parser.add_argument("--dtypes", default="float32", help="types of the files, comma-separated")
    parser.add_argument("--data", type=Path, help="dataset folder whose titles are used")
    parser.add_argument("--items", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except FreezeframeError as error:
        sys.exit(f"error: {error}")
