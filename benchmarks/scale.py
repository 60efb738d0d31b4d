"""One epoch and one evaluation of recipes at the size of MicroLens-100K or -1M, on synthetic interactions.

    python benchmarks/scale.py --out DIR pipelines/recipes/microlens-100k-sasrec-id.yaml ... [--size 1m]

The corpus has the paper's counts (arXiv 2309.15379, Table 1), and popularity falls about as in the paper. Interactions
and vectors (width 768) are drawn, so accuracies mean nothing here. Every recipe runs in its own process, unchanged
except for the folder, the feature file and `--set`: one epoch and the validation after it, without checkpoint and test.
Printed per recipe: seconds of both and of the whole process, and its peak memory.

`--steps N` is for recipes whose epoch would take hours. They train a few steps to warm up and N more, and rank 1,024
users twice and 4,096 once. The seconds of an epoch are then the median of the N steps times the number of steps. Those
of a validation are the first ranking plus what each further user costs. Both are marked with a ~.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from features.provenance import Provenance
from features.store import FeatureRows, State, write_features
from pipelines.data.split import EvalPart
from pipelines.recipe.recipe import load_recipe

CLUSTERS, SHORTEST, WIDTH = 64, 5, 768
FEW, MORE = 1024, 4096  # users that are ranked with --steps
WARM_UP = 2  # steps in which memory is touched for the first time
PATIENCE = 60.0  # s: a recipe that takes longer to rank FEW users does not rank MORE


@dataclass(frozen=True)
class Size:
    """Counts of a corpus."""

    users: int
    items: int
    interactions: int


SIZES = {"100k": Size(100_000, 19_738, 719_405), "1m": Size(1_000_000, 91_402, 9_095_620)}


def main() -> None:
    """Make the corpus once, run the recipes, print a table."""
    parser = argparse.ArgumentParser(description="Seconds and memory of recipes at the benchmark's sizes.")
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder for the corpus")
    parser.add_argument("--size", choices=list(SIZES), default="100k")
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="key=value", help="for all recipes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, help="train this many steps instead of an epoch")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments)
        return
    folder = arguments.out / f"synthetic-{arguments.size}"
    if not (folder / "interactions.parquet").is_file():
        write_corpus(folder, SIZES[arguments.size])
    sys.stdout.write(f"{arguments.size}, {platform.machine()}, {os.cpu_count()} cores, {arguments.device}\n")
    sys.stdout.write("| recipe | changed | epoch (s) | validation (s) | whole run (s) | peak memory (GB) |\n")
    sys.stdout.write("| --- | --- | ---: | ---: | ---: | ---: |\n")
    for recipe in arguments.recipes:
        sys.stdout.write(_row(recipe, folder, arguments) + "\n")
        sys.stdout.flush()


def write_corpus(folder: Path, size: Size) -> None:
    """Write interactions.parquet and features.h5 of a corpus of exactly these counts."""
    rng = np.random.default_rng(0)
    extra = rng.geometric(1 / (1 + size.interactions / size.users - SHORTEST), size.users) - 1
    extra = _exact(extra, size.interactions - size.users * SHORTEST, rng)
    users = np.repeat(np.arange(size.users), extra + SHORTEST)
    cluster = rng.integers(0, CLUSTERS, size.items)
    taste = np.where(rng.random(len(users)) < 0.7, rng.integers(0, CLUSTERS, size.users)[users], -1)
    weights = (1.0 + rng.permutation(size.items)) ** -0.7
    items = np.empty(len(users), dtype=np.int64)
    for kind in range(-1, CLUSTERS):
        here, pool = np.flatnonzero(taste == kind), np.flatnonzero((cluster == kind) | (kind == -1))
        items[here] = rng.choice(pool, len(here), p=weights[pool] / weights[pool].sum())
    items[rng.permutation(len(items))[: size.items]] = np.arange(size.items)  # every item occurs
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"user": users.astype(str), "item": items.astype(str), "timestamp": np.arange(len(users))}
    vectors = rng.standard_normal((CLUSTERS, WIDTH))[cluster] + rng.standard_normal((size.items, WIDTH))
    empty = [""] * size.items
    states = np.full(size.items, State.DONE, dtype=np.uint8)
    rows = FeatureRows(list(np.arange(size.items).astype(str)), vectors.astype(np.float32), states, empty, empty, empty)
    write_features(folder / "features.h5", rows, Provenance(folder.name, {"encoder": "drawn"}), dtype="float16")
    pl.DataFrame(columns).write_parquet(folder / "interactions.parquet")


def _exact(counts: np.ndarray[Any, np.dtype[np.int64]], total: int, rng: np.random.Generator) -> Any:
    """Return counts, some of them changed by one until they add up to `total`."""
    while (missing := total - int(counts.sum())) != 0:
        able = np.flatnonzero(counts > 0) if missing < 0 else np.arange(len(counts))
        chosen = rng.permutation(able)[: abs(missing)]
        counts[chosen] += np.sign(missing)
    return counts


def _row(recipe: Path, folder: Path, arguments: argparse.Namespace) -> str:
    loaded = load_recipe(recipe, arguments.overrides)
    changes = [f"data.folder={folder}", "train.epochs=1"]
    changes += [f"features.{number}.path={folder / 'features.h5'}" for number in range(len(loaded.features))]
    command = [sys.executable, __file__, "-", "--measure", str(recipe), "--out", str(arguments.out)]
    command += ["--steps", str(arguments.steps)] if arguments.steps else []
    command += ["--device", arguments.device, "--set", *arguments.overrides, *changes]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    start = f"| {loaded.name} | {' '.join(arguments.overrides) or '-'} |"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]
        return f"{start} failed: {last} | | {seconds:.0f} | |"
    found = json.loads(done.stdout.splitlines()[-1])
    about = "~" if arguments.steps else ""
    times = f"{about}{found['epoch_s']:.0f} ({found['steps']} steps) | {about}{found['valid_s']:.0f}"
    return f"{start} {times} | {seconds:.0f} | {found['peak_bytes'] / 2**30:.1f} |"


class Enough(Exception):  # noqa: N818
    """Raised when the steps that were asked for are done."""


def measure(arguments: argparse.Namespace) -> None:
    """Train an epoch and validate, or train some steps and rank some users, in this process; print a line of JSON."""
    from pipelines.data.load import load_data
    from pipelines.data.side_features import side_features
    from pipelines.device import resolve_device
    from pipelines.runs.inputs import build_model, open_features
    from pipelines.training.fit import Progress, fit

    recipe, device = load_recipe(arguments.measure, arguments.overrides), resolve_device(arguments.device)
    data = load_data(recipe.data)
    sides = side_features(recipe.items.side, data.split, data.dataset)
    model = build_model(recipe, data.split, open_features(recipe, data.split), sides)
    marks = []
    steps = 0

    def mark(at: Progress) -> None:
        nonlocal steps
        steps = at.steps
        marks.append(time.perf_counter())
        if arguments.steps and len(marks) > WARM_UP + arguments.steps:
            raise Enough

    mask = recipe.evaluate.mask
    found: dict[str, float] = {}
    with suppress(Enough):
        done = fit(model, data.split, recipe.train, seed=0, run=None, mask=mask, device=device, progress=mark)
        train_s = sum(epoch.train_s for epoch in done.history)  # none where nothing is trained
        found = {"epoch_s": train_s, "valid_s": done.seconds - train_s}
    if arguments.steps:
        found = {
            "epoch_s": statistics.median(np.diff(marks)[WARM_UP:]) * steps,
            "valid_s": _validation(model, data.split, mask, device),
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps(found | {"steps": steps, "peak_bytes": peak}) + "\n")


def _validation(model: Any, split: Any, mask: Any, device: Any) -> float:
    """Return about how long a validation would take, estimated from some users."""
    from pipelines.ranking.full_ranking import evaluate

    whole = split.valid

    def timed(users: int) -> float:
        bounds = whole.seen_offsets[: users + 1]
        numbers, items, real, targets = (
            array[:users] for array in (whole.users, whole.items, whole.mask, whole.targets)
        )
        part = EvalPart(numbers, items, real, targets, whole.seen[: int(bounds[-1])], bounds)
        began = time.perf_counter()
        evaluate(model, part, split.train_counts, mask=mask, device=device)
        return time.perf_counter() - began

    first, again = timed(FEW), timed(FEW)  # the first call propagates over all items, or encodes them
    share = again / FEW
    if again < PATIENCE:  # the fixed cost of an evaluation is no part of a user's share
        share = max(timed(MORE) - again, 0.0) / (MORE - FEW)
    return first + (len(whole.users) - FEW) * share


if __name__ == "__main__":
    main()
