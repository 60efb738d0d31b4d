"""The Markdown page of a run, made of the stages' JSON files. It imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.provenance import library_versions

LIBRARIES = (
    "torch", "transformers", "torchvision", "numpy", "h5py", "pytorchvideo", "open_clip_torch", "faiss-gpu",
    "faiss-cpu", "av", "decord", "polars", "pydantic", "ruamel.yaml",
)  # fmt: skip
DRY = "**Dry run with tiny sizes: these figures show that the command works, and nothing about speed.**"


def write_page(folder: Path, stages: Sequence[str], ended: dict[str, str], command: str) -> Path:
    """Write DIR/gpu.md from DIR/gpu-STAGE.json; `ended` says what happened to stages that did not end by themselves."""
    found = {stage: json.loads(path.read_text()) for stage in stages if (path := stage_file(folder, stage)).is_file()}
    facts: dict[str, Any] = {}
    for one in found.values():
        facts |= one["facts"]
    lines = [f"# freezeframe on {facts.get('card', 'an unknown device')}", ""]
    lines += [DRY, ""] if any(one["tiny"] for one in found.values()) else []
    lines += [
        f"    {command}",
        "",
        "Synthetic inputs, random weights. Columns are explained at the top of each stage's",
    ]
    lines += ["module in `benchmarks/gpu_stages/`.", ""]
    lines += _table([{"": name, "value": value} for name, value in (facts | library_versions(LIBRARIES)).items()])
    lines += _goals([goal for one in found.values() for goal in one["goals"]])
    for stage in stages:
        lines += _stage(stage, found.get(stage), ended.get(stage, ""))
    path = folder / "gpu.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def stage_file(folder: Path, stage: str) -> Path:
    """Return the JSON file of a stage."""
    return folder / f"gpu-{stage}.json"


def goal_line(goal: dict[str, Any]) -> str:
    """Return what became of a goal, in one line."""
    share = goal["value"] / goal["limit"]
    apart = "met" if goal["met"] else f"missed: {share:.2g} times the limit"
    return f"{goal['goal']}: {number(goal['value'])} ({goal['bound']} {number(goal['limit'])}; {apart})"


def number(value: Any) -> str:
    """Return a value as a cell shows it: three digits that count; - for what was not measured."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value).replace("|", "/").replace("\n", " ")
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _stage(stage: str, found: dict[str, Any] | None, ended: str) -> list[str]:
    if found is None:
        return [f"## Stage {stage}", "", ended or "wrote nothing.", ""]
    lines = [
        f"## Stage {stage}: {found['title']}",
        "",
        f"Took {found['seconds']:.0f} s.{' ' + ended if ended else ''}",
        "",
    ]
    for title, rows in found["tables"].items():
        lines += [f"### {title[:1].upper()}{title[1:]}", "", *_table(rows)]
    if found["left_out"]:
        lines += ["### Left out", "", *(f"- {number(line)}" for line in found["left_out"]), ""]
    for title, operators in found["profiles"].items():
        lines += [f"### Profile, because a goal was missed: {title}", "", *_table(operators)]
    return lines


def _goals(goals: list[dict[str, Any]]) -> list[str]:
    return ["## Goals", "", *(f"- {goal_line(goal)}" for goal in goals), ""] if goals else []


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join(["---", *["---:"] * (len(columns) - 1)]) + " |"]
    return [*lines, *("| " + " | ".join(number(row.get(column)) for column in columns) + " |" for row in rows), ""]
