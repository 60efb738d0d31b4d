"""Every figure on a GPU, in one command: exactness, extraction, fine-tuning, recommenders, retrieval.

    python benchmarks/gpu.py --minutes 9 --out DIR [--stages a,b] [--tiny] [--device cuda]

It runs from a checkout, without installation, over synthetic inputs and random weights; nothing is downloaded, and no
video library is needed. Stages run in order of value, each in a process of its own and inside its share of the minutes:

- a: tests that need a card, and how exactly `top` trains as `e2e` there;
- b: extraction with four full encoders;
- c: fine-tuning at MicroLens-100K's counts;
- d: the recommenders of the paper's Table 2 at its widths, and their evaluation;
- e: retrieval over a million vectors.

Every row is written as soon as it is there: DIR/gpu-STAGE.json, and DIR/gpu.md as one page. What fails or lacks a
library becomes one line under "Left out". `--tiny` tries all of it with toy sizes, on any device. Send the page back,
or commit it as benchmarks/results/gpu-CARD.md (docs/gpu.md).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_stages.page import goal_line, stage_file, write_page

SHARES = {"a": 0.12, "b": 0.28, "c": 0.32, "d": 0.22, "e": 0.06}
MODULES = {"a": "exact", "b": "extraction", "c": "finetuning", "d": "recommending", "e": "searching"}
STARTING = 10.0  # s that a process may take beyond its share: imports, the first use of the card, the last row


def main() -> None:
    """Run the stages one after another; print each one's goals and the path of the page."""
    arguments = _arguments()
    if arguments.measure:
        measure(arguments)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    stages = arguments.stages.split(",")
    for stage in stages:
        stage_file(arguments.out, stage).unlink(missing_ok=True)  # of an earlier run
    command = " ".join(["python benchmarks/gpu.py", *sys.argv[1:]])
    end, ended = time.monotonic() + 60 * arguments.minutes, {}
    page = None
    for number, stage in enumerate(stages):
        left = end - time.monotonic()
        share = SHARES[stage] / sum(SHARES[later] for later in stages[number:])
        ended[stage] = _run(stage, arguments, share * left, left)
        page = write_page(arguments.out, stages[: number + 1], ended, command)
        _say(stage, arguments.out, ended[stage])
    sys.stdout.write(f"{page}\n")


def _run(stage: str, arguments: argparse.Namespace, share: float, left: float) -> str:
    """Run a stage in its own process; return what happened where it did not end by itself, else ''."""
    limit = min(left, 1.3 * share + STARTING)
    if share < 1:
        return "Not run: no time was left."
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", stage, "--seconds", f"{share:.1f}"]
    command += ["--out", str(arguments.out.resolve()), "--device", arguments.device] + ["--tiny"] * arguments.tiny
    with (arguments.out / f"gpu-{stage}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"Stopped after {limit:.0f} s; rows that were not begun are missing."
    if code == 0:
        return ""
    lines = Path(log.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"Failed with code {code}: {lines[-1][:300] if lines else 'no message'}"


def _say(stage: str, folder: Path, ended: str) -> None:
    import json

    path = stage_file(folder, stage)
    found = json.loads(path.read_text()) if path.is_file() else {"goals": [], "left_out": [], "seconds": 0.0}
    sys.stdout.write(f"stage {stage} ({MODULES[stage]}): {found['seconds']:.0f} s. {ended}\n")
    for line in [*map(goal_line, found["goals"]), *(f"left out: {line}" for line in found["left_out"])]:
        sys.stdout.write(f"  {line}\n")
    sys.stdout.flush()


def measure(arguments: argparse.Namespace) -> None:
    """Run one stage in this process."""
    from importlib import import_module

    import torch

    from benchmarks.gpu_stages.measuring import card_facts
    from benchmarks.gpu_stages.reporting import Budget, Report
    from benchmarks.gpu_stages.sizes import FULL, TINY
    from pipelines.device import tf32

    sizes = TINY if arguments.tiny else FULL
    budget = Budget(arguments.seconds, sizes.row_s)
    if sizes.threads:
        torch.set_num_threads(sizes.threads)
    device = torch.device(arguments.device)
    module = import_module(f"benchmarks.gpu_stages.{MODULES[arguments.measure]}")
    report = Report(stage_file(arguments.out, arguments.measure), arguments.measure, module.TITLE, tiny=arguments.tiny)
    report.facts = card_facts(device)
    report.save()
    with tf32(False), tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        module.run(report, sizes, Path(folder), device, budget)
    report.save()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; temporary files lie in it, too")
    parser.add_argument("--minutes", type=float, default=9.0, help="time of all stages together")
    parser.add_argument("--stages", default=",".join(SHARES), help="which stages, comma-separated")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: a dry run")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = [stage for stage in arguments.stages.split(",") if stage not in SHARES]
    if unknown:
        parser.error(f"stage {unknown[0]!r} is unknown; there are {', '.join(SHARES)}")
    return arguments


if __name__ == "__main__":
    main()
