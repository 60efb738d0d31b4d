"""What the rows of a comparison cost, from the ledgers of their runs (pipelines/runs/costs.py)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from models import recommenders
from models.shared.representation import CONTENT, TOWERS
from pipelines.comparing.comparison import Row
from pipelines.runs.run_files import read_object

MB = 10**6
# In the table's order: the name in the ledger, the column's head, how a value is written.
COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("train_s_per_epoch", "s/epoch", lambda value: _short(value)),
    ("times_frozen", "x frozen", lambda value: _short(value)),
    ("epochs", "epochs", lambda value: f"{value:.0f}" if value == int(value) else f"{value:.1f}"),
    ("start_s", "start s", lambda value: _short(value)),
    ("total_s", "total s", lambda value: _short(value)),
    ("extraction_s", "extraction s", lambda value: _short(value)),
    ("stored_bytes", "stored MB", lambda value: _short(value / MB)),
    ("peak_memory_bytes", "peak MB", lambda value: f"{value / MB:.0f}"),
    ("peak_gpu_memory_bytes", "peak GPU MB", lambda value: f"{value / MB:.0f}"),
    ("encoded_per_epoch", "encoded/epoch", lambda value: f"{value:.0f}"),
    ("parameters_trained", "trained", lambda value: f"{value:.0f}"),
)


def trains_an_encoder(row: Row) -> bool:
    """Return whether a row's recipe trains an encoder."""
    return kind_of(row) in TOWERS


def kind_of(row: Row) -> str:
    """Return the kind of a row's items; '-' for a model without items."""
    return row.recipe.items.kind if recommenders()[row.recipe.model.name].uses_items else "-"


def costs(rows: Sequence[Row]) -> list[dict[str, list[float]]]:
    """Return what each row's runs cost, one value per run that recorded it: the ledger's numbers and three more.

    - 'start_s' is the time of the run that it started from.
    - 'total_s' is the time of training and validation in all epochs, and 'start_s'.
    - 'times_frozen' is the row's mean training time per epoch divided by that of `frozen_row`.
    """
    found = [_ledgers(row) for row in rows]
    base = frozen_row(rows)
    least = statistics.fmean(found[base]["train_s_per_epoch"]) if base is not None else 0.0
    for row in found:
        if least and row.get("train_s_per_epoch"):
            row["times_frozen"] = [statistics.fmean(row["train_s_per_epoch"]) / least]
    return found


def frozen_row(rows: Sequence[Row]) -> int | None:
    """Return the place of the row that costs are compared with: the first of the plainest kind on frozen content."""
    for kind in CONTENT:
        for place, row in enumerate(rows):
            if kind_of(row) == kind and _ledgers(row).get("train_s_per_epoch"):
                return place
    return None


def _ledgers(row: Row) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for record in _records(row):
        ledger = record.get("costs")  # runs of older versions have none
        for name, value in (_numbers(ledger, record.get("start", {})) if ledger else {}).items():
            values.setdefault(name, []).append(value)
    return values


def _numbers(ledger: dict[str, Any], start: dict[str, Any]) -> dict[str, float]:
    numbers = {name: value for name, value in ledger.items() if isinstance(value, int | float)}
    started = {"start_s": start["seconds"]} if start else {}
    return numbers | started | {"total_s": ledger["train_s"] + ledger["valid_s"] + sum(started.values())}


def _records(row: Row) -> list[dict[str, Any]]:
    paths = [folder / "record.json" for folder in row.folders]
    return [read_object(path) for path in paths if path.is_file()]


def cost_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: means over seeds, '-' for what was not recorded; columns of '-' alone are left out."""
    found = costs(rows)
    shown = [(name, head, text) for name, head, text in COLUMNS if any(any(row.get(name, ())) for row in found)]
    header = ["recipe", "items", "T", *(head for _, head, _ in shown)]
    cells = [
        [row.name, kind_of(row), str(row.recipe.items.top_blocks) if trains_an_encoder(row) else "-"]
        + [text(statistics.fmean(values[name])) if values.get(name) else "-" for name, _, text in shown]
        for row, values in zip(rows, found, strict=True)
    ]
    return header, cells


def cost_summary(rows: Sequence[Row]) -> str:
    """Return the line that says what the numbers are, and on what they were measured."""
    base = frozen_row(rows)
    whole = "total: training and validation of all epochs"
    if any("start" in record for row in rows for record in _records(row)):
        whole += ", start: the run that it started from, which is in the total"
    parts = ["means over seeds", f"s/epoch: training alone; {whole}"]
    parts += [f"x frozen: times the s/epoch of {rows[base].name}"] if base is not None else []
    parts += [
        "extraction: waiting for decoders and encoding, once, for the feature files that are read; stored: their size",
        "encoded: items that went through the encoder in training",
    ]
    records = [record for row in rows for record in _records(row) if "costs" in record]
    if any(record["costs"]["peak_memory_of"] == "process" for record in records):
        parts.append("peak: that of the process, which may have made several runs; this system reports no other")
    devices = dict.fromkeys(
        record["device"] + (f" in each of {count} processes" if (count := record.get("processes", 1)) > 1 else "")
        for record in records
    )
    return "; ".join([*parts, f"measured on {', '.join(devices)}"] if devices else parts)


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"
