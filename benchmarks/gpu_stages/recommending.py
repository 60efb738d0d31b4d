"""Stage d: an epoch and a full-ranking evaluation of every row of the paper's Table 2, at MicroLens-100K's counts.

Widths, batch sizes and losses are those of the recipes in pipelines/recipes; interactions and vectors are drawn. Steps
train for a share of the time, and an epoch is the seconds of a step times the number of steps. An evaluation that would
take longer than its share is extrapolated from two numbers of users, which the table says.

SASRec is measured at two widths, in float32 and bfloat16, beside its floor: the arithmetic of an epoch, counted, at
the speed of a square product in the same arithmetic.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_stages.corpus import build, drawn_split, some_users
from benchmarks.gpu_stages.measuring import (
    Enough,
    StepClock,
    Watched,
    count_flops,
    now,
    peak_bytes,
    product_rate,
    watch,
)
from benchmarks.gpu_stages.reporting import Budget, Report
from benchmarks.gpu_stages.sizes import Sizes
from models import recommenders
from models.shared.recommender import Recommender, TrainBatch
from models.shared.representation import ItemsConfig
from pipelines.data.split import Split
from pipelines.ranking.full_ranking import evaluate
from pipelines.runs.memory import start_peaks
from pipelines.training.fit import fit
from pipelines.training.train_config import TrainConfig

RECIPES = Path(__file__).resolve().parents[2] / "pipelines" / "recipes"
TABLE_2, SASREC = "table-2.yaml", "microlens-100k-sasrec-id"
TITLE = "recommenders"
WIDTHS, TIMES = (512, 2048), 10.0  # of SASRec beside its floor; the goal at the first width
FROZEN_WIDTH = 768
FEW, MORE = 1024, 4096  # users that are ranked where not all are
WHOLE = 3.0  # an evaluation may take so many times its share before it is extrapolated


@dataclass(frozen=True)
class Row:
    """What a recipe says about model and training."""

    name: str
    items: ItemsConfig
    model: str
    settings: Any
    train: TrainConfig
    mask: Any


def run(report: Report, sizes: Sizes, folder: Path, device: torch.device, budget: Budget) -> None:
    """Fill the report: SASRec beside its floor first, then Table 2."""
    del folder
    products = {kind: product_rate(device, kind, sizes) for kind in ("float32", "bfloat16")}
    report.facts |= {f"{kind} product (TFLOP/s)": value / 1e12 for kind, value in products.items()}
    bench = Bench(drawn_split(sizes.users, sizes.items, sizes.interactions), sizes, device)
    rows: list[Row] = []
    with report.row("recipes", TABLE_2):
        rows = table_2()
    left = len(rows) + 2 * len(WIDTHS)
    sasrec = next((row for row in rows if row.name == SASREC), None)
    for width in WIDTHS if sasrec else ():
        for precision, product in products.items():
            name = f"SASRec on ids, d = {width}, {precision}"
            with report.row("SASRec beside its floor", name) as found:
                assert sasrec is not None
                row = replace(sasrec, items=replace(sasrec.items, dim=width))
                row = replace(row, train=replace(row.train, precision=precision))
                bench.beside_floor(scaled(row, sizes), found, product, budget.share(1.3 * left))
                _goal(report, found, width)
            left -= 1
    for row in rows:
        with report.row("Table 2 at the paper's widths", row.name) as found:
            bench.whole(scaled(row, sizes), found, budget.share(1.3 * left))
        left -= 1


def _goal(report: Report, found: dict[str, Any], width: int) -> None:
    operators = found.pop("operators")
    if width != WIDTHS[0]:
        return
    text = f"{found['row']}: seconds of an epoch over those of its floor"
    if not report.goal(text, found["epoch / floor"], TIMES, at_most=True):
        report.profiles[found["row"]] = operators


class Bench:
    """One split that all rows train on."""

    def __init__(self, split: Split, sizes: Sizes, device: torch.device) -> None:
        self._split, self._sizes, self._device = split, sizes, device

    def whole(self, row: Row, found: dict[str, Any], seconds: float) -> None:
        """Fill in the epoch, the evaluation and the peak memory of both."""
        own = start_peaks(self._device)
        model = self._model(row)
        found |= {"D": row.items.dim, "batch": row.train.batch_size}
        clock = StepClock(self._device, seconds / 2)
        self._fit(model, row, clock)
        found |= clock.told() | {"peak (GB)": peak_bytes(self._device, own) / 2**30}
        found |= self._evaluation(model, row, seconds / 4)
        found["peak (GB)"] = peak_bytes(self._device, own) / 2**30

    def beside_floor(self, row: Row, found: dict[str, Any], product: float, seconds: float) -> None:
        """Fill in the epoch and its floor, and under 'operators' the profile."""
        own = start_peaks(self._device)
        model = self._model(row)
        clock = StepClock(self._device, seconds / 3)
        self._fit(model, row, clock)
        floor = self._flops(model, row) * clock.steps / product
        found |= clock.told() | {"floor (s)": floor, "epoch / floor": clock.epoch_s / floor}
        found["peak (GB)"] = peak_bytes(self._device, own) / 2**30
        seen = self._profiled(model, row)
        found["GPU busy"] = seen.busy if seen.busy is not None else (seen.why or None)
        found["operators"] = seen.operators

    def _model(self, row: Row) -> Recommender:
        vectors = {}
        if row.items.kind == "id+v":
            shape = (len(self._split.items), FROZEN_WIDTH)
            vectors["drawn"] = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return build(row.model, row.settings, row.items, self._split, vectors=vectors)

    def _fit(self, model: Recommender, row: Row, clock: StepClock) -> None:
        with suppress(Enough):
            fit(model, self._split, row.train, seed=0, run=None, mask=row.mask, device=self._device, progress=clock)

    def _profiled(self, model: Recommender, row: Row) -> Watched:
        clock = StepClock(self._device, 60.0, warm=1, most=self._sizes.profiled)
        return watch(lambda: self._fit(model, row, clock), self._device)

    def _flops(self, model: Recommender, row: Row) -> int:
        """Return the operations of a step's forward and backward pass, of a mean batch: the first windows."""
        windows, size = self._split.train, row.train.batch_size
        arrays = (windows.users[:size], windows.items[:size], windows.mask[:size])
        batch = TrainBatch(*(torch.from_numpy(array).to(self._device) for array in arrays))
        model.train()
        return count_flops(lambda: model(batch).loss.backward())

    def _evaluation(self, model: Recommender, row: Row, seconds: float) -> dict[str, Any]:
        """Return the seconds of ranking all test users, measured or extrapolated."""
        test = self._split.test
        everyone = len(test.users)
        few, more = min(FEW, everyone), min(MORE, everyone)
        self._ranked(model, row, few)  # warms up
        first = self._ranked(model, row, few)
        if first * everyone / few > 4 * WHOLE * seconds:  # a fixed part may hide in it
            second = self._ranked(model, row, more) if first < seconds else first * more / few
            each = max(second - first, 0.0) / max(more - few, 1)
            if each * everyone > WHOLE * seconds:
                return {"evaluation (s)": first + each * (everyone - few), "ranked": f"{more} of {everyone}"}
        return {"evaluation (s)": self._ranked(model, row, everyone), "ranked": f"all {everyone}"}

    def _ranked(self, model: Recommender, row: Row, users: int) -> float:
        part = some_users(self._split.test, users)
        began = now(self._device)
        evaluate(model, part, self._split.train_counts, mask=row.mask, batch_size=512, device=self._device)
        return now(self._device) - began


def table_2() -> list[Row]:
    """Return the rows of Table 2, in its order.

    Recipes are read without the checks of `load_recipe`, whose library a machine with a card may lack; a test holds
    both equal.
    """
    names = _yaml(RECIPES / "tables" / TABLE_2)["recipes"]
    return [_row(_yaml((RECIPES / "tables" / name).resolve())) for name in names]


def scaled(row: Row, sizes: Sizes) -> Row:
    """Return the row at the width and batch size of these sizes; a dry run divides both."""
    if sizes.scale == 1:
        return row
    train = replace(row.train, batch_size=max(8, row.train.batch_size // sizes.scale))
    return replace(row, items=replace(row.items, dim=max(8, row.items.dim // sizes.scale)), train=train)


def _yaml(path: Path) -> dict[str, Any]:
    """Read a file of ours with ruamel.yaml or PyYAML, whichever is there; ModuleNotFoundError if neither is."""
    text = path.read_text(encoding="utf-8")
    try:
        from ruamel.yaml import YAML
    except ModuleNotFoundError:
        import yaml  # type: ignore[import-untyped]

        return dict(yaml.safe_load(text))
    return dict(YAML(typ="safe", pure=True).load(text))


def _row(plain: dict[str, Any]) -> Row:
    model = dict(plain["model"])
    name = model.pop("name")
    return Row(
        plain["name"],
        _made(ItemsConfig, plain.get("items", {})),
        name,
        _made(recommenders()[name].config_class, model),
        _made(TrainConfig, plain["train"]),
        plain["evaluate"]["mask"],
    )


def _made(kind: Any, plain: dict[str, Any]) -> Any:
    """Build a dataclass; lists become tuples, and '1e-5', which PyYAML takes for text, becomes a number."""
    known = {field.name: field for field in fields(kind)}
    return kind(**{key: _value(value, str(known[key].type)) for key, value in plain.items()})


def _value(value: Any, kind: str) -> Any:
    if isinstance(value, str) and "float" in kind:
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool) and kind.startswith("float") and math.isfinite(value):
        return float(value)
    return tuple(value) if isinstance(value, list) else value
