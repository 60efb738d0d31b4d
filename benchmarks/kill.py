"""Kill extractions at random moments and show that nothing is lost, doubled or changed.

    python benchmarks/kill.py --kills 200

Half of the kills (`kill -9`) meet a run in one process, half one with two worker processes, there now the parent, now a
worker. After each round of kills a last run finishes; its vectors must equal those of an unbroken run, byte for byte.
Synthetic clips and covers, tiny encoders with random weights.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from features.store import FeatureFile
from pipelines.data.synthetic import render_clip, write_clip, write_cover

ITEMS, PER_ROUND = 48, 10
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}  # the number of threads decides the last bit of a sum


def main() -> None:
    """Run and print one line per round; exit code 1 when vectors differ."""
    parser = argparse.ArgumentParser(description="Extractions killed at random moments end with the same bytes.")
    parser.add_argument("--kills", type=int, default=200, help="how many, over both kinds of run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _render(folder / "media")
        began = time.monotonic()
        _finish(folder, "whole", [])
        length = time.monotonic() - began
        truth = _vectors(folder / "whole")
        killed = {"parent": 0, "worker": 0, "too late": 0}
        bad = rounds = 0
        while killed["parent"] + killed["worker"] < arguments.kills:
            engine = ["--processes", "2"] if rounds % 2 else []
            shutil.rmtree(folder / "out", ignore_errors=True)
            for _ in range(PER_ROUND):
                killed[_kill_once(folder, engine, chance, length)] += 1
            _finish(folder, "out", engine)
            same = _vectors(folder / "out") == truth
            bad += not same
            rounds += 1
            kind = "two processes" if engine else "one process"
            sys.stdout.write(f"round {rounds}, {kind}: {killed}, {'same' if same else 'OTHER'} bytes\n")
            sys.stdout.flush()
    sys.stdout.write(f"{rounds} rounds, {bad} with other bytes; {killed}\n")
    sys.exit(bool(bad))


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


def _kill_once(folder: Path, engine: list[str], chance: random.Random, length: float) -> str:
    """Start a run and kill it, or one of its workers, at a random moment; return which."""
    process = subprocess.Popen(
        _command(folder, "out", engine), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    try:
        # processes start later and end later
        process.wait(timeout=(chance.uniform(0.6, 2.0) if engine else chance.uniform(0.3, 1.0)) * length)
        shutil.rmtree(folder / "out", ignore_errors=True)  # it came to its end: the next one starts anew
        return "too late"
    except subprocess.TimeoutExpired:
        pass
    workers = _children(process.pid) if engine and chance.random() < 0.5 else []
    if workers:
        os.kill(chance.choice(workers), signal.SIGKILL)
        time.sleep(0.3)
    process.kill()
    process.wait()
    return "worker" if workers else "parent"


def _children(parent: int) -> list[int]:
    """Return the worker processes of a run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            its_parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if its_parent == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # gone since it was listed
            continue
    return found


def _vectors(folder: Path) -> dict[str, str]:
    files = {path.name: FeatureFile(path) for path in folder.glob("*.h5")}
    for file in files.values():
        file.verify()
    return {name: file.vectors_sha256 for name, file in files.items()}


if __name__ == "__main__":
    main()
