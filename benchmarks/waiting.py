"""How long one waits before work begins: verbs that list things, the start of a training, tables read and split.

    python benchmarks/waiting.py --out DIR [--rows 3000000] [--form csv|parquet] [--repeats 5] [--against CHECKOUT]

Every measurement is a process of its own. Printed are CPU seconds (user and system, all threads), which other work on
the machine disturbs less than wall time, as median and range, and the peak memory. `--against` measures another
checkout of freezeframe, too, in turns with this one, and adds the ratio. `--recommend` also trains a run on the rows,
which takes minutes, and asks it for one user's items. The interactions are drawn: 30 per user, items of skewed
popularity, times in no order.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

ROOT = Path(__file__).resolve().parents[1]
PER_USER, PER_ITEM = 30, 100
DRAWN_ROWS = 10_000_000  # drawn at once, so that a table larger than memory can be made
RECIPE = """name: waiting
data: {{folder: {folder}}}
model: {{name: sasrec, layers: 1}}
items: {{kind: id, dim: 16}}
train: {{epochs: 1, batch_size: 2048}}
"""
READ = """
import resource, sys
from pathlib import Path
def used():
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime
from pipelines.data.data_config import DataConfig
from pipelines.data.detection import read_dataset
from pipelines.data.load import make_split
import json
began = used()
dataset = read_dataset(Path(sys.argv[1]))
read = used()
split = make_split(dataset, DataConfig(sys.argv[1]))
print(json.dumps({"read": read - began, "split": used() - read, "fingerprint": split.fingerprint}))
"""


@dataclass(frozen=True)
class Spent:
    """What one process took."""

    cpu_s: float
    """User and system time of all its threads."""
    peak_bytes: int
    """Its peak resident memory."""
    printed: str
    """Its standard output."""


def main() -> None:
    """Make the tables, measure, print a table."""
    parser = argparse.ArgumentParser(description="CPU seconds and memory before work begins.")
    parser.add_argument("--out", type=Path, required=True, help="folder for tables and runs")
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--form", choices=["csv", "parquet"], default="csv")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout, such as one of an earlier version")
    parser.add_argument("--recommend", action="store_true", help="train on the rows, and ask for one user's items")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only-rows", action="store_true", help="leave the verbs out")
    asked = parser.parse_args()
    if asked.write:
        write_table(asked.write, asked.rows, asked.form)
        return
    large, tiny = (asked.out.resolve() / f"{asked.form}-{rows}" for rows in (asked.rows, 3000))
    checkouts = [ROOT, *([asked.against.resolve()] if asked.against else [])]
    for folder, rows in ((large, asked.rows), (tiny, 3000)):
        # in a process of its own: one that grew large would lend its peak to the processes it starts
        words = [__file__, "--out=-", f"--write={folder / 'data'}", f"--rows={rows}", f"--form={asked.form}"]
        spend(ROOT, words)
        (folder / "recipe.yaml").write_text(RECIPE.format(folder=(folder / "data").resolve()))
    sys.stdout.write(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python ")
    sys.stdout.write(f"{platform.python_version()}, polars {version('polars')}; CPU s: median (least to most)\n\n")
    sys.stdout.write("| what | now | peak (MB) | before | peak (MB) | now / before |\n")
    sys.stdout.write("| --- | ---: | ---: | ---: | ---: | ---: |\n")
    if not asked.only_rows:
        for what, words in verbs(tiny).items():
            show(what, in_turns(checkouts, words, asked.repeats))
    reads = in_turns(checkouts, ["-c", READ, str(large / "data")], asked.repeats)
    found = {json.loads(one.printed)["fingerprint"] for row in reads for one in row}
    for stage in ("read", "split"):
        staged = [[Spent(json.loads(one.printed)[stage], one.peak_bytes, "") for one in row] for row in reads]
        show(f"{stage} {asked.rows:,} rows of {asked.form}", staged)
    if asked.recommend:
        asks = [["run_pipeline.py", "recommend", str(trained(large, where)), "--user", "u7"] for where in checkouts]
        rows = [
            [spend(where, words) for where, words in zip(checkouts, asks, strict=True)] for _ in range(asked.repeats)
        ]
        show("recommend to one user", list(zip(*rows, strict=True)))
    sys.stdout.write(f"\n{'the same split everywhere' if len(found) == 1 else 'SPLITS DIFFER'}\n")


def write_table(folder: Path, rows: int, form: str) -> None:
    """Write a table of interactions, unless it is there."""
    import polars as pl

    if folder.is_dir():
        return
    with tempfile.TemporaryDirectory(dir=folder.parent if folder.parent.is_dir() else None) as place:
        for start in range(0, rows, DRAWN_ROWS):
            part = _drawn(min(DRAWN_ROWS, rows - start), rows, seed=start // DRAWN_ROWS)
            part.write_parquet(Path(place, f"{start:012}.parquet"))
        folder.mkdir(parents=True)
        table, path = pl.scan_parquet(f"{place}/*.parquet"), folder / f"interactions.{form}"
        table.sink_csv(path) if form == "csv" else table.sink_parquet(path)


def _drawn(count: int, rows: int, seed: int) -> pl.DataFrame:
    """Return `count` interactions of a table that has `rows` of them."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(seed)
    users, items = max(rows // PER_USER, 1), max(rows // PER_ITEM, 10)
    drawn = np.minimum((rng.pareto(1.0, count) * items / 200).astype(np.int64), items - 1)
    table = pl.DataFrame({"user": rng.integers(0, users, count), "item": drawn})
    table = table.with_columns(pl.format("u{}", "user").alias("user"), pl.format("v{}", "item").alias("item"))
    return table.with_columns(pl.Series("timestamp", rng.integers(1_600_000_000, 1_700_000_000, count)))


def verbs(tiny: Path) -> dict[str, list[str]]:
    """Return the commands to measure, by what the table calls them, and two imports to compare with."""
    main = "run_pipeline.py"
    return {
        "Python: import polars": ["-c", "import polars"],
        "Python: import torch": ["-c", "import torch"],
        "encoders": [main, "encoders"],
        "models": [main, "models"],
        "compare (the list of groups)": [main, "compare"],
        "data (3,000 rows)": [main, "data", str(tiny / "data")],
        "train (3,000 rows, one epoch)": [main, "train", str(tiny / "recipe.yaml"), "--device", "cpu", "--out"],
    }


def in_turns(checkouts: Sequence[Path], words: Sequence[str], repeats: int) -> list[tuple[Spent, ...]]:
    """Return what a command takes in each checkout, measured in turns."""
    return list(zip(*([spend(where, words) for where in checkouts] for _ in range(repeats)), strict=True))


def spend(where: Path, words: Sequence[str]) -> Spent:
    """Run Python in a checkout and return what it took; a command that ends in --out gets a folder of its own."""
    with tempfile.TemporaryDirectory() as new:
        command = [sys.executable, *words, *([f"{new}/run"] if words[-1] == "--out" else [])]
        environment = os.environ | {"PYTHONPATH": str(where)}
        with subprocess.Popen(command, cwd=where, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            printed = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{where}: {' '.join(words)} ended with {process.returncode}")
    return Spent(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, printed)


def trained(large: Path, where: Path) -> Path:
    """Return the run of the rows that a checkout has trained; train it if there is none."""
    run = large.resolve() / f"run-{where.name}"
    if not (run / "metrics.json").is_file():
        spend(where, ["run_pipeline.py", "train", str(large.resolve() / "recipe.yaml"), f"--out={run}"])
    return run


def show(what: str, measured: Sequence[Sequence[Spent]]) -> None:
    """Print one row of the table."""
    cells, medians = [what], []
    for spent in measured:
        times = [one.cpu_s for one in spent]
        medians.append(statistics.median(times))
        cells.append(f"{medians[-1]:.2f} ({min(times):.2f} to {max(times):.2f})")
        cells.append(f"{max(one.peak_bytes for one in spent) / 2**20:.0f}")
    cells += [f"{medians[0] / medians[1]:.2f}"] if len(medians) > 1 else ["-"] * 3
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
