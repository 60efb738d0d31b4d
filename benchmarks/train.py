"""One epoch of training and one full-ranking evaluation: ours and RecBole's, on the same data, in one run.

    python benchmarks/train.py --data DIR --recbole FOLDER [--model sasrec] [--threads 1] [--rounds 3]

FOLDER is where RecBole is installed (`pip install --target FOLDER --no-deps recbole ...`; it cannot share our
environment, see recbole_peer.py). Every side runs in its own process, in turn, with the same width, layers, heads,
inner width, dropout, history length, targets per optimiser step, threads and optimiser. Per epoch, both see each
interaction once as a target, except each user's last two: ours in windows with a target at every position, RecBole in
one row per prefix. Reported are medians over the epochs after the first, their lowest and highest, and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WIDTH, LAYERS, HEADS, INNER, DROPOUT, LENGTH = 64, 2, 2, 4, 0.1, 10
TARGETS = 2048  # per optimiser step; RecBole's default batch of prefixes


def main() -> None:
    """Measure all sides and print a table."""
    arguments = _arguments()
    if arguments.side:
        _ours(arguments)
        return
    with tempfile.TemporaryDirectory() as place:
        inter = write_inter(arguments.data, Path(place) / "peer")
        sides: dict[str, Any] = {
            "ours, in-batch softmax": lambda: _run_ours(arguments, "in-batch"),
            "ours, full softmax": lambda: _run_ours(arguments, "full"),
            "RecBole, anomaly mode off": lambda: _run_recbole(arguments, inter, "off"),
            "RecBole, as shipped": lambda: _run_recbole(arguments, inter, "shipped"),
        }
        found = {}
        for name, side in sides.items():
            sys.stderr.write(f"{name} ...\n")
            found[name] = side()
    _print(found, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds and memory of training and evaluation, ours and RecBole's.")
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder")
    parser.add_argument("--recbole", type=Path, help="folder that RecBole is installed in")
    parser.add_argument("--model", default="sasrec", choices=["sasrec", "gru4rec"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="epochs timed, after one to warm up")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.data = arguments.data.resolve()
    return arguments


def write_inter(data: Path, folder: Path) -> Path:
    """Write a dataset as RecBole's NAME/NAME.inter, the order of interactions as time; return the folder."""
    from pipelines.data.detection import read_dataset

    folder.mkdir(parents=True, exist_ok=True)
    rows = read_dataset(data).interactions.select("user", "item").iter_rows()
    lines = [f"{user}\t{item}\t{place}\n" for place, (user, item) in enumerate(rows)]
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    (folder / f"{folder.name}.inter").write_text(header + "".join(lines), encoding="utf-8")
    return folder


def _run_ours(arguments: argparse.Namespace, loss: str) -> dict[str, Any]:
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--data",
        str(arguments.data),
        "--side",
        loss,
        "--model",
        arguments.model,
    ]
    return _json(command, arguments)


def _run_recbole(arguments: argparse.Namespace, inter: Path, anomaly: str) -> dict[str, Any]:
    settings = {
        "hidden_size": WIDTH,
        "embedding_size": WIDTH,
        "n_layers": LAYERS,
        "num_layers": 1,
        "n_heads": HEADS,
        "inner_size": INNER * WIDTH,
        "hidden_dropout_prob": DROPOUT,
        "attn_dropout_prob": DROPOUT,
        "dropout_prob": DROPOUT,
        "hidden_act": "relu",
        "MAX_ITEM_LIST_LENGTH": LENGTH,
        "train_batch_size": TARGETS,
        "train_neg_sample_args": None,
        "loss_type": "CE",
    }
    model = {"sasrec": "SASRec", "gru4rec": "GRU4Rec"}[arguments.model]
    command = [sys.executable, str(ROOT / "benchmarks" / "recbole_peer.py"), "--inter", str(inter), "--model", model]
    return _json([*command, "--anomaly", anomaly, "--settings", json.dumps(settings)], arguments)


def _json(command: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    peer = {"PYTHONPATH": str(arguments.recbole)} if "recbole_peer" in command[1] else {}
    environment = os.environ | peer | {"OMP_NUM_THREADS": str(arguments.threads), "CUDA_VISIBLE_DEVICES": ""}
    command += ["--threads", str(arguments.threads), "--rounds", str(arguments.rounds)]
    with tempfile.TemporaryDirectory() as scratch:  # RecBole leaves logs where it is started
        done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[1]} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _ours(arguments: argparse.Namespace) -> None:
    """Time our side in this process; print one line of JSON."""
    import torch

    from pipelines.data.load import load_data
    from pipelines.ranking.full_ranking import evaluate
    from pipelines.recipe.recipe import build_recipe
    from pipelines.runs.inputs import build_model
    from pipelines.training.fit import Progress, fit

    torch.set_num_threads(arguments.threads)
    depth = {"layers": LAYERS, "heads": HEADS, "inner": INNER} if arguments.model == "sasrec" else {"layers": 1}
    data_options = {"folder": str(arguments.data), "keep_last": None, "max_length": LENGTH}
    data = load_data(build_recipe({"name": "b", "data": data_options, "model": {"name": "popularity"}}).data)
    windows = data.split.train
    batch = max(1, round(TARGETS / (windows.mask[:, 1:].sum() / len(windows.users))))
    recipe = build_recipe(
        {
            "name": "b",
            "data": data_options,
            "items": {"dim": WIDTH},
            "model": {"name": arguments.model, "dropout": DROPOUT, "loss": arguments.side, **depth},
            "train": {"epochs": arguments.rounds + 1, "batch_size": batch, "eval_every": 10_000, "clip": None},
        }
    )
    model = build_model(recipe, data.split, [], {})
    marks: list[float] = []

    def mark(at: Progress) -> None:
        if at.record is not None:
            marks.append(at.record.train_s)

    fit(model, data.split, recipe.train, seed=0, run=None, mask="keep", progress=mark)
    evaluations = []
    for _ in range(arguments.rounds + 1):
        began = time.perf_counter()
        evaluate(model, data.split.test, data.split.train_counts, mask="keep", batch_size=512)
        evaluations.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"epoch_s": marks[1:], "evaluation_s": evaluations[1:], "peak_mb": peak}) + "\n")


def _print(found: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    base = found["ours, full softmax"]
    title = f"{arguments.model}, {arguments.data.name}, {arguments.threads} thread(s), {arguments.rounds} epochs each, "
    lines = [
        title + f"{TARGETS} targets per step; {platform.machine()}, {os.cpu_count()} cores",
        "| side | epoch (s) | / ours, full | evaluation (s) | / ours | peak memory (MB) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, side in found.items():
        epoch, evaluation = _spread(side["epoch_s"]), _spread(side["evaluation_s"])
        ratios = [statistics.median(side[key]) / statistics.median(base[key]) for key in ("epoch_s", "evaluation_s")]
        lines.append(f"| {name} | {epoch} | {ratios[0]:.2f} | {evaluation} | {ratios[1]:.2f} | {side['peak_mb']:.0f} |")
    sys.stdout.write("\n".join(lines) + "\n")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
