"""Stage c: steps, epochs and memory of every way to make item vectors, at MicroLens-100K's counts and batch.

SASRec trains on drawn interactions in bfloat16. Rows are 'v', 'dnn' and 'adapter' over drawn vectors and layers, 'top'
over stored activations (float16) and 'e2e' over decoded pixels; the latter two read a few hundred rows of noise that
stand for all items. Decoding is no part of any row. A row first trains whole batches. Where these do not fit the
memory, it trains with `micro_batch`, and then with fewer users per step, and says so. 'e2e' of all blocks begins with
`micro_batch`, as its recipe does. Peak memory is the GPU's, and on a CPU the process's.

The places of activations are compared with fewer users per step, so that every item of a step is another row:
`card` (resident on the GPU), `host` (memory map, in the page cache), `disk` (the cache is emptied before every batch).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_stages.corpus import TowerFiles, build, default_settings, drawn_split
from benchmarks.gpu_stages.measuring import Enough, StepClock, Watched, peak_bytes, watch
from benchmarks.gpu_stages.reporting import Budget, Report, free_memory
from benchmarks.gpu_stages.sizes import Sizes
from models.items.towers import take_meters
from models.shared.recommender import Recommender
from models.shared.representation import ItemsConfig
from pipelines.data.split import Split
from pipelines.runs.memory import start_peaks
from pipelines.training.fit import fit
from pipelines.training.train_config import TrainConfig

TITLE = "fine-tuning"
FROZEN = ("v", "dnn", "adapter")
TRAINED = ("top:1", "e2e:1", "top:2", "e2e:2", "e2e:all")
PLACES = ("card", "host", "disk")
FROZEN_WIDTH, LAYERS = 768, 12  # numbers of a frozen vector; layers that 'adapter' reads
SHARE_OF_TIME, SHARE_OF_MEMORY = 1 / 4, 1 / 3  # goals of 'top' T = 1 beside 'e2e' T = 1
ALIKE = ("users/step", "micro_batch")  # columns in which rows that are compared agree


def run(report: Report, sizes: Sizes, folder: Path, device: torch.device, budget: Budget) -> None:
    """Fill the report: the first encoder's rows and places, the frozen kinds, then the other encoders."""
    bench = Bench(drawn_split(sizes.users, sizes.items, sizes.interactions), sizes, device)
    left = len(sizes.towers) * (len(TRAINED) + len(PLACES)) + len(FROZEN)
    for encoder in sizes.towers:
        files = TowerFiles(folder, encoder, sizes)
        found: dict[str, Any] = {}
        for name in TRAINED:
            with report.row(f"{encoder}, bfloat16", name) as row:
                row |= bench.trained(name, files, budget.share(1.5 * left))
                found[name] = row
            left -= 1
        if encoder == sizes.towers[0]:
            _goals(report, bench, files, found)
        for place in PLACES:
            with report.row(f"{encoder}, places of activations, `top` T = 1", place) as row:
                row |= bench.trained("top:1", files, budget.share(1.5 * left), place=place)
            left -= 1
        for kind in FROZEN if encoder == sizes.towers[0] else ():
            with report.row("frozen content, bfloat16", kind) as row:
                row |= bench.frozen(kind, budget.share(1.5 * left))
            left -= 1


def _goals(report: Report, bench: Bench, files: TowerFiles, found: dict[str, Any]) -> None:
    top, e2e = found.get("top:1"), found.get("e2e:1")
    if top is None or e2e is None or [top[key] for key in ALIKE] != [e2e[key] for key in ALIKE]:
        report.left_out.append("goals of `top` beside `e2e`: one was not measured, or not as the other one was")
        return
    name = f"`top` T = 1 over `e2e` T = 1, {files.spec.name}"
    met = report.goal(f"{name}: seconds per epoch", top["epoch (s)"] / e2e["epoch (s)"], SHARE_OF_TIME, at_most=True)
    memory = top["peak (GB)"] / e2e["peak (GB)"]
    met &= report.goal(f"{name}: peak memory, activations off the card", memory, SHARE_OF_MEMORY, at_most=True)
    if not met:
        with report.row("profiles", "top:1") as row:
            seen = bench.profiled("top:1", files)
            report.profiles["`top` T = 1"], row["GPU busy"] = seen.operators, seen.busy or seen.why or None


class Bench:
    """One split, and SASRec over any items."""

    def __init__(self, split: Split, sizes: Sizes, device: torch.device) -> None:
        self._split, self._sizes, self._device = split, sizes, device

    def trained(self, name: str, files: TowerFiles, seconds: float, *, place: str = "") -> dict[str, Any]:
        """Measure 'top:T' or 'e2e:T' in the first way that fits the memory; `place` compares with fewer users."""
        batch, few, pieces = self._sizes.batch, self._sizes.placed, self._sizes.micro_batch
        ways = [(batch, None)] * (name != "e2e:all") + [(batch, pieces), (few, None), (max(2, few // 8), None)]
        for users, micro_batch in ways if not place else [(few, None)]:
            items = _items(name, files, self._sizes, micro_batch)
            try:
                return self._measure(items, files, seconds, users, place or "host")
            except torch.OutOfMemoryError:
                pass
            except ValueError as error:  # BatchNorm that trains takes no pieces
                if "micro_batch" not in str(error):
                    raise
            free_memory()
        raise RuntimeError("does not fit the memory, not even with few users per step")

    def frozen(self, kind: str, seconds: float) -> dict[str, Any]:
        """Measure 'v', 'dnn' or 'adapter' over drawn vectors."""
        items = ItemsConfig(kind=kind, dim=self._sizes.width)  # type: ignore[arg-type]
        return self._measure(items, None, seconds, self._sizes.batch, "host")

    def profiled(self, name: str, files: TowerFiles) -> Watched:
        """Watch some steps, the building of the model included in none of them."""
        model = self._model(_items(name, files, self._sizes, None), files, "host")
        self._fit(model, StepClock(self._device, 60.0, most=1), self._sizes.batch)
        return watch(
            lambda: self._fit(
                model, StepClock(self._device, 60.0, warm=1, most=min(3, self._sizes.profiled)), self._sizes.batch
            ),
            self._device,
        )

    def _measure(
        self, items: ItemsConfig, files: TowerFiles | None, seconds: float, users: int, place: str
    ) -> dict[str, Any]:
        own = start_peaks(self._device)
        model = self._model(items, files, place)
        clock = StepClock(self._device, seconds)
        self._fit(model, clock, users)
        peak = peak_bytes(self._device, own)
        row = {"users/step": users} | clock.told() | {"peak (GB)": peak / 2**30}
        meter, steps = take_meters(model), clock.seen
        if files is not None:
            twice = 2 if items.micro_batch else 1  # in pieces each is encoded again for the backward pass
            row |= {"items/step": meter.with_graph / steps / twice, "reading (s/step)": meter.read_s / steps}
            row["micro_batch"] = items.micro_batch or "whole"
        return row

    def _model(self, items: ItemsConfig, files: TowerFiles | None, place: str) -> Recommender:
        settings = default_settings("sasrec")
        if files is not None:
            towers = {files.spec.name: files.tower(items, place)}
            return build("sasrec", settings, items, self._split, towers=towers)
        shape = (len(self._split.items), *((LAYERS,) if items.reads_layers else ()), FROZEN_WIDTH)
        vectors = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return build("sasrec", settings, items, self._split, vectors={"drawn": vectors})

    def _fit(self, model: Recommender, clock: StepClock, users: int) -> None:
        config = TrainConfig(epochs=1, batch_size=users, lr=1e-4, precision="bfloat16")
        with suppress(Enough):
            fit(model, self._split, config, seed=0, run=None, mask="hide", device=self._device, progress=clock)


def _items(name: str, files: TowerFiles, sizes: Sizes, micro_batch: int | None) -> ItemsConfig:
    kind, _, cut = name.partition(":")
    return ItemsConfig(
        kind=kind,  # type: ignore[arg-type]
        dim=sizes.width,
        encoder=files.spec.name,
        weights="random",
        encoder_lr=1e-4,
        top_blocks="all" if cut == "all" else int(cut),
        micro_batch=micro_batch,
    )
