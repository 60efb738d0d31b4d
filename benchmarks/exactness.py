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
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from extract.encoders.registry import get_encoder
from extract.encoders.spec import EncoderSpec
from extract.jobs.extractor import extract
from extract.jobs.options import ExtractOptions
from extract.jobs.pixels import Pixels
from extract.media.catalog import build_catalog
from features.errors import FreezeframeError
from features.provenance import Provenance
from features.store import FeatureRows, write_features
from models.items.towers import towers_of
from models.shared.recommender import Recommender
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


@dataclass(frozen=True)
class Difference:
    """How far 'top' is from 'e2e', as described at the top of this file."""

    vectors: float
    losses: float
    weights: float
    bits: bool
    worst: str
    top_s: float
    e2e_s: float


@dataclass(frozen=True)
class Trained:
    """What is kept of a run: vectors before it, the losses of its steps, its tensors after it."""

    vectors: Tensor
    losses: list[float]
    state: dict[str, Tensor]
    step_s: float


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
            _write_pixels(self.pixels, spec, self.ids, rng)
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
        vectors = _vectors(model)
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


def difference(top: Trained, e2e: Trained) -> Difference:
    """Compare two runs."""
    vectors = float(((top.vectors - e2e.vectors).norm(dim=1) / e2e.vectors.norm(dim=1)).max())
    losses = max(abs(one - two) / abs(two) for one, two in zip(top.losses, e2e.losses, strict=True))
    pairs = list(zip(e2e.state.items(), top.state.values(), strict=True))
    bits = top.losses == e2e.losses and all(torch.equal(one, two) for (_, one), two in pairs)
    worst, name = max((_apart(name, one, two), name) for (name, one), two in pairs)
    return Difference(vectors, losses, worst, bits, name, top.step_s, e2e.step_s)


def _apart(name: str, one: Tensor, two: Tensor) -> float:
    first, second = (_seen(name, tensor.double()) for tensor in (one, two))
    if not first.numel() or torch.equal(first, second):
        return 0.0
    return float((first - second).abs().max() / max(float(first.abs().max()), 1e-30))


def _seen(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor without the biases of attention's keys."""
    if name.endswith("key.bias"):
        return tensor[:0]
    return tensor.view(3, -1)[[0, 2]] if name.endswith(("qkv.bias", "in_proj_bias")) else tensor


def _vectors(model: Recommender) -> Tensor:
    """Return the encoder's vectors (I, W) as training starts."""
    (tower,) = towers_of(model)
    model.eval()
    with torch.no_grad():
        parts = torch.arange(tower.n_items).split(16)
        found = torch.cat([tower._raw(part) for part in parts])
    model.train()
    return found


def _titles(rng: np.random.Generator, items: int) -> list[str]:
    return [" ".join(rng.choice(WORDS, int(rng.integers(1, 13)))) for _ in range(items)]


def _write_pixels(path: Path, spec: EncoderSpec, ids: list[str], rng: np.random.Generator) -> None:
    made = Pixels(spec)
    contract = made.recipe()
    size, frames = contract["pixels"]["size"], spec.frames.count if spec.frames else 1
    colours = rng.integers(0, 206, (len(ids), 1, 1, 1, 3))
    noise = rng.integers(0, 50, (len(ids), frames, size, size, 3))
    blank = [""] * len(ids)
    rows = FeatureRows(ids, (colours + noise).astype(np.uint8), np.zeros(len(ids), np.uint8), blank, blank, blank)
    write_features(path, rows, Provenance("toy", contract))


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
