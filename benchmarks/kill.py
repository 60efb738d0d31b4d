"""Kill extractions at random moments and show that nothing is lost, doubled or changed.

    python benchmarks/kill.py --kills 200 [--engines one,local,ray]

Rounds take the engines in turn: one process, two worker processes, two workers on a Ray cluster on this machine. A kill
(`kill -9`) comes after a random number of further shards plus a random fraction of a second. With workers, about half
of the kills hit a random worker (the run goes on, and ends or is killed later), the others the parent. After each
round, every shard that counts as done is checked against its hash, and a last run finishes. Its vectors must equal
those of an unbroken run byte for byte, and nothing but the feature files may be left.

Clips and covers are synthetic, encoders are tiny and have random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from features.provenance import file_sha256
from features.store import FeatureFile
from pipelines.data.synthetic import render_clip, write_clip, write_cover

ITEMS, PER_ROUND, MOST_SHARDS = 60, 10, 12
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}  # the number of threads decides the last bit of a sum
ENGINES = {"one": [], "local": ["--processes", "2"], "ray": ["--engine", "ray", "--processes", "2"]}


def main() -> None:
    """Run and print one line per round and a table; exit code 1 when vectors differ or something is left over."""
    parser = argparse.ArgumentParser(description="Extractions killed at random moments end with the same bytes.")
    parser.add_argument("--kills", type=int, default=200, help="how many kills, over all engines")
    parser.add_argument("--engines", default="one,local", help="comma-separated: one, local, ray")
    parser.add_argument("--seed", type=int, default=0, help="seed for the moments of the kills")
    arguments = parser.parse_args()
    chance, engines = random.Random(arguments.seed), arguments.engines.split(",")
    began = time.monotonic()
    found: dict[str, Counter[str]] = {engine: Counter() for engine in engines}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _render(folder / "media")
        _finish(folder, "whole", [])
        truth = _vectors(folder / "whole")
        rounds = 0
        while sum(counts["parent"] + counts["worker"] for counts in found.values()) < arguments.kills:
            engine = engines[rounds % len(engines)]
            rounds += 1
            seen = _round(folder, engine, chance, truth)
            found[engine] += seen
            sys.stdout.write(f"round {rounds}, {engine}: {dict(seen)}\n")
            sys.stdout.flush()
    bad = _print(found, time.monotonic() - began)
    sys.exit(bad > 0)


def _round(folder: Path, engine: str, chance: random.Random, truth: dict[str, str]) -> Counter[str]:
    """Return how often a parent and a worker were killed, and what was wrong in the end."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    seen: Counter[str] = Counter(rounds=1)
    while seen["parent"] + seen["worker"] < PER_ROUND:
        seen += _run_and_kill(folder, engine, chance)
        if not _shards(folder / "out") and list((folder / "out").glob("*.h5")):  # it came to its end: start anew
            seen["other bytes"] += _vectors(folder / "out") != truth
            shutil.rmtree(folder / "out")
    seen["orphans counted"] += _orphans(folder / "out")
    _finish(folder, "out", ENGINES[engine])
    seen["other bytes"] += _vectors(folder / "out") != truth
    left = [str(path.relative_to(folder)) for path in (folder / "out").rglob("*") if path.suffix != ".h5"]
    if left:
        sys.stdout.write(f"left over: {' '.join(left)}\n")
    seen["left over"] += len(left)
    return seen


def _print(found: dict[str, Counter[str]], seconds: float) -> int:
    columns = ["rounds", "parent", "worker", "other bytes", "orphans counted", "left over"]
    lines = [f"| engine | {' | '.join(columns)} |", f"| --- {'| ---: ' * len(columns)}|"]
    lines += [
        f"| {engine} | {' | '.join(str(counts[column]) for column in columns)} |" for engine, counts in found.items()
    ]
    sys.stdout.write("\n".join(lines) + f"\n{seconds / 60:.0f} minutes\n")
    return sum(counts[column] for counts in found.values() for column in columns[3:])


def _render(folder: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    for name in ("videos", "covers"):
        (folder / name).mkdir(parents=True)
    for item in range(ITEMS):
        frames = render_clip(item % 8, rng)
        write_clip(folder / "videos" / f"{item}.mp4", frames, rate=25)
        write_cover(folder / "covers" / f"{item}.jpg", frames[0])


def _command(folder: Path, out: str, engine: list[str]) -> list[str]:
    encoders = "videomae-tiny,slowfast-tiny,resnet-tiny"
    command = [sys.executable, str(ROOT / "run_pipeline.py"), "extract", "--data", str(folder / "media")]
    command += ["--encoders", encoders, "--weights", "random", "--dtype", "float32", "--shard-size", "2"]
    return [*command, "--batch-size", "2", "--out", str(folder / out), *engine]


def _finish(folder: Path, out: str, engine: list[str]) -> None:
    subprocess.run(_command(folder, out, engine), check=True, capture_output=True, env=ENVIRONMENT)


def _run_and_kill(folder: Path, engine: str, chance: random.Random) -> Counter[str]:
    """Start a run, and kill it or its workers until it is gone; return the kills."""
    mark = uuid.uuid4().hex  # in the environment of all that a run starts, Ray's daemons included
    process = subprocess.Popen(
        _command(folder, "out", ENGINES[engine]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT | {"KILL_MARK": mark},
    )
    kills: Counter[str] = Counter()
    while True:
        _wait(process, folder / "out", _shards(folder / "out") + chance.randrange(MOST_SHARDS))
        time.sleep(chance.uniform(0, 0.2))
        workers = [] if engine == "one" or chance.random() < 0.5 else _workers(mark)
        if workers and process.poll() is None:
            os.kill(chance.choice(workers), signal.SIGKILL)
            kills["worker"] += 1
            continue
        process.send_signal(signal.SIGKILL)
        kills["parent"] += process.wait() == -signal.SIGKILL
        if engine == "ray":
            _end(mark)
        return kills


def _wait(process: subprocess.Popen[bytes], out: Path, shards: int) -> None:
    """Wait until so many shards are there, or the run has ended."""
    while process.poll() is None and _shards(out) < shards:
        time.sleep(0.01)


def _shards(out: Path) -> int:
    return len(list(out.rglob("*.json"))) if out.is_dir() else 0


def _workers(mark: str) -> list[int]:
    """Return the processes of a run that make shards: those started for it, or Ray's at work."""
    return [
        number for number, line in _processes(mark) if b"spawn_main" in line or line.startswith(b"ray::_ray_worker")
    ]


def _end(mark: str) -> None:
    """End what Ray has left of a run whose parent is gone."""
    while found := _processes(mark):  # some may start others before they are hit
        for number, _ in found:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.1)


def _processes(mark: str) -> list[tuple[int, bytes]]:
    """Return number and command line of all processes of a run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone since it was listed
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((int(folder.name), (folder / "cmdline").read_bytes()))
    return found


def _orphans(out: Path) -> int:
    """Return how many shards count as done (their record is there) although their file is absent or has other bytes."""
    bad = 0
    for record in out.rglob("*.json") if out.is_dir() else ():
        try:
            named = json.loads(record.read_text())
        except ValueError:
            continue  # no whole record: it does not count
        path = record.with_suffix(".h5")
        bad += not path.is_file() or file_sha256(path) != named.get("sha256", "")
    return bad


def _vectors(folder: Path) -> dict[str, str]:
    files = {path.name: FeatureFile(path) for path in folder.glob("*.h5")}
    for file in files.values():
        file.verify()
    return {name: file.vectors_sha256 for name, file in files.items()}


if __name__ == "__main__":
    main()
