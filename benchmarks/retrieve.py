"""Lists for many people beside one command per person, and what memory they take.

    python benchmarks/retrieve.py [--users 100000] [--items 19738] [--dim 64] [--loop 20] [--model sasrec]

A synthetic dataset of MicroLens-100K's size is made, and a model is trained on it for one epoch. Then:

- `recommend RUN --user U` is called for some users, one after another in this process;
- `recommend RUN --users all --out lists.parquet` runs in a process of its own, whose peak memory is printed. With
  `--more-users N` the same is done for N users, so that one sees whether memory grows with users.

Everything is synthetic; times are wall seconds in one run, so compare their ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CHILD = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
import run_pipeline
import torch, polars, pipelines.retrieval.asking
start = time.perf_counter()
code = run_pipeline.main(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak, "code": code}), file=sys.stderr)
"""


def make_data(folder: Path, users: int, items: int, seed: int) -> Path:
    """Write interactions of `users` people with 5 to 9 of `items` items, popular ones more often."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 10, users)
    chosen = np.minimum((items * rng.random(sizes.sum()) ** 2).astype(np.int64), items - 1)
    rows = {
        "user": np.repeat(np.arange(users), sizes),
        "item": chosen,
        "timestamp": np.arange(sizes.sum()),
    }
    folder.mkdir(parents=True)
    pl.DataFrame(rows).write_parquet(folder / "interactions.parquet")
    return folder


def train(data: Path, run: Path, model: str, dim: int) -> None:
    """Make a run of one epoch."""
    from pipelines.recipe.recipe import build_recipe
    from pipelines.runs.experiment import run_recipe

    recipe = {
        "name": "short",
        "data": {"folder": str(data)},
        "model": {"name": model},
        "items": {"kind": "id", "dim": dim},
        "train": {"epochs": 1, "batch_size": 1024},
    }
    run_recipe(build_recipe(recipe), run, device="cpu")


def one_by_one(run: Path, users: list[str]) -> float:
    """Return the users per second of one command after another in this process."""
    import run_pipeline

    start = time.perf_counter()
    for user in users:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert run_pipeline.main(["recommend", str(run), "--user", user, "--quiet"]) == 0
    return len(users) / (time.perf_counter() - start)


def together(run: Path, out: Path, users: str) -> dict[str, float]:
    """Return seconds and peak memory of one command for all users, in its own process."""
    command = [sys.executable, "-c", CHILD, str(ROOT), "recommend", str(run), "--users", users, "--out", str(out)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr.strip().splitlines()[-1]
    found: dict[str, float] = json.loads(told)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--more-users", type=int, default=0, help="measure memory with as many users, too")
    parser.add_argument("--items", type=int, default=19_738)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--loop", type=int, default=20, help="users that are asked for one by one")
    parser.add_argument("--model", default="sasrec")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for users in filter(None, (asked.users, asked.more_users)):
            folder = Path(temporary, str(users))
            data = make_data(folder / "data", users, asked.items, seed=0)
            train(data, folder / "run", asked.model, asked.dim)
            said = [f"{asked.model}, {users} users, {asked.items} items, D {asked.dim}:"]
            many = together(folder / "run", folder / "lists.parquet", "all")
            speed = users / many["seconds"]
            said += [f"together {speed:.0f} users/s, peak {many['peak'] / 1e6:.0f} MB"]
            if users == asked.users:
                one = one_by_one(folder / "run", [str(user) for user in range(asked.loop)])
                said += [f"one by one {one:.2f} users/s", f"ratio {speed / one:.0f}"]
            sys.stdout.write("; ".join(said) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
