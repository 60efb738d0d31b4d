"""benchmarks/gpu.py in a dry run: every stage fills its rows or says in one line what they lack, on any machine."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_stages import recommending
from benchmarks.gpu_stages.page import write_page
from benchmarks.gpu_stages.reporting import Budget, Report, TimeIsOver
from benchmarks.gpu_stages.sizes import TINY
from pipelines.recipe.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
ROWS = {  # of each stage, in a dry run on a CPU
    "b": [
        *(f"{name}, {precision}" for name in TINY.encoders for precision in ("float32", "bf16")),
        *(f"{name}, bf16, --compile" for name in TINY.compiled),
    ],
    "c": ["top:1", "e2e:1", "top:2", "e2e:2", "e2e:all", "card", "host", "disk", "v", "dnn", "adapter"],
    "d": [*(row.name for row in recommending.table_2()), "SASRec on ids, d = 512, float32"],
    "e": ["product and top-k by torch", "flat, as `recommend` searches", f"IVF, {TINY.lists} lists (FAISS)"],
    "a": ["float32", "tf32", "bfloat16"],
}
LACKS = {"a": ["pytest -m gpu: "], "e": ["flat on the card (FAISS): "]}


WHOLE = "e"  # the stage that goes through the command; the others run in this process, which spares their imports


def dry_run(out: Path, stage: str) -> dict[str, Any]:
    """Run a stage; return what it wrote."""
    path = out / f"gpu-{stage}.json"
    if stage != WHOLE:
        gpu.measure(argparse.Namespace(tiny=True, device="cpu", out=out, measure=stage, seconds=300.0))
        write_page(out, [stage], {}, "a command")
        return dict(json.loads(path.read_text()))
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--tiny", "--device", "cpu", "--out", str(out)]
    command += ["--minutes", "5", "--stages", stage]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    log = (out / f"gpu-{stage}.log").read_text()
    assert path.is_file(), log
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stage", sorted(ROWS))
def test_a_dry_run_fills_every_row(stage: str, tmp_path: Path) -> None:
    found = dry_run(tmp_path, stage)
    rows = {row["row"] for table in found["tables"].values() for row in table}
    assert rows >= set(ROWS[stage]), found["left_out"]
    told = LACKS.get(stage, [])
    assert [line for line in found["left_out"] if not line.startswith(tuple(told))] == []
    assert len(found["left_out"]) == len(told)
    page = (tmp_path / "gpu.md").read_text()
    assert "Dry run" in page
    assert all(row in page for row in ROWS[stage])


def test_what_fails_costs_its_row_alone(tmp_path: Path) -> None:
    report = Report(tmp_path / "gpu-b.json", "b", "a title", tiny=True)
    report.facts = {"card": "a card"}
    with report.row("a table", "lacks"):
        raise ModuleNotFoundError("No module named 'x'", name="x")
    with report.row("a table", "half") as row:
        row["items/s"] = 2.0
        raise RuntimeError("first line\nsecond line")
    with report.row("a table", "late"):
        raise TimeIsOver("no time")
    with report.row("a table", "whole") as row:
        row["items/s"] = 1234.5
    report.goal("a ratio", 12.0, 10.0, at_most=True)
    page = write_page(tmp_path, ["b", "c"], {"c": "Stopped after 3 s."}, "a command").read_text()
    for line in (
        "# freezeframe on a card",
        "- lacks: needs x, which is not installed",
        "- half: RuntimeError: first line",
        "- late: no time",
        "| half | 2 | broken off |",
        "| whole | 1,234 | - |",
        "- a ratio: 12 (at most 10; missed: 1.2 times the limit)",
        "Stopped after 3 s.",
    ):
        assert line in page.splitlines(), line


def test_a_stage_without_time_says_so() -> None:
    budget = Budget(10.0, 1.0)
    assert budget.share(3) == 1.0
    budget._end -= 9.9
    with pytest.raises(TimeIsOver, match="10 s were over"):
        budget.share(3)


@pytest.mark.parametrize("library", ["ruamel.yaml", "PyYAML"])
def test_rows_of_table_2_are_the_recipes(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "PyYAML":
        pytest.importorskip("yaml")
    with monkeypatch.context() as without:
        if library == "PyYAML":
            without.setitem(sys.modules, "ruamel.yaml", None)
        rows = recommending.table_2()
    assert len(rows) == 15
    for row in rows:
        recipe = load_recipe(recommending.RECIPES / f"{row.name}.yaml")
        mine = (row.items, row.model, row.settings, row.train, row.mask)
        assert mine == (recipe.items, recipe.model.name, recipe.model.settings, recipe.train, recipe.evaluate.mask)


def test_training_and_ranking_import_without_libraries_of_tables_and_recipes() -> None:
    lacking = ("polars", "pydantic", "ruamel", "faiss", "av", "decord", "open_clip", "pytorchvideo")
    code = f"import sys; sys.modules.update(dict.fromkeys({lacking!r}))\n"
    stages = ("exact", "extraction", "finetuning", "recommending", "searching")
    code += "".join(f"import benchmarks.gpu_stages.{stage}\n" for stage in stages)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
