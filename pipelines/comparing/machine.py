"""A comparison as plain data, for `compare --json`: every number unrounded."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipelines.comparing.cost_table import costs
from pipelines.comparing.result_table import Comparison, Row, Tests, made_from

GROUPS = ("all", "warm", "cold", "lists")


def as_data(shown: Comparison) -> dict[str, Any]:
    """Return all that a comparison shows as plain data; docs/command.md lists the keys."""
    spent = costs(shown.rows) if shown.costs else [None for _ in shown.rows]
    return {
        "title": shown.title,
        "rows": [_row(row) | {"costs": cost} for row, cost in zip(shown.rows, spent, strict=True)],
        "tests": _tests(shown.tests) if shown.tests else None,
        "notes": shown.lines,
    }


def _row(row: Row) -> dict[str, Any]:
    first, paper = row.metrics[0], row.paper
    return {
        "recipe": row.name,
        "runs": [str(folder) for folder in row.folders],
        "made_from": made_from(row),
        "users": first["test"]["users"],
        "candidates": first["candidates"],
        "mask": row.recipe.evaluate.mask,
        "metrics": {
            group: {name: _spread(row.values(group, name)) for name in first["test"][group]}
            for group in GROUPS
            if first["test"].get(group)
        },
        "paper": asdict(paper) if paper else None,
        "paper_left_out": row.withheld,
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Return one metric over the seeds; a single seed has no deviation."""
    mean = statistics.fmean(values) if values else None
    return {"mean": mean, "sd": statistics.stdev(values) if len(values) > 1 else None, "values": list(values)}


def _tests(tests: Tests) -> dict[str, Any]:
    rows = zip(tests.rows, tests.compared, strict=True)
    return {
        "baseline": tests.baseline,
        "test": tests.test,
        "rows": [{"recipe": name, **asdict(one)} for name, compared in rows for one in compared],
        "left_out": list(tests.left_out),
    }
