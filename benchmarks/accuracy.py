"""RecBole's accuracy on our split: the same interactions, each user's last item as test target, all items ranked.

    python benchmarks/accuracy.py --data DIR --recbole FOLDER --out FOLDER [--models Pop,BPR,...] [--seeds 3]

`--recbole` is where RecBole is installed (see recbole_peer.py). RecBole gets the newest `--keep-last` interactions of
each user, as our recipes do, trains with its own early stopping on NDCG@10, and is tested at its best epoch. Which seen
items it hides depends on the model. Sequential ones (SASRec, GRU4Rec) hide none, like our `evaluate --mask keep`; the
others hide all but the target, like our `--mask hide`. Sequential ones are tested with this second mask as well, which
RecBole itself does not offer. Its Pop counts an item once per batch, however often the batch holds it.

Finished runs are kept in `--out` and not repeated. Prints one line per model: mean and deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LENGTH, WIDTH = 10, 64
SOFTMAX = {"train_neg_sample_args": None, "loss_type": "CE"}
COMMON = {"MAX_ITEM_LIST_LENGTH": LENGTH, "embedding_size": WIDTH, "train_batch_size": 2048, "epochs": 100}
# RecBole's own defaults but for the width and what is named here.
MODELS: dict[str, dict[str, Any]] = {
    "Pop": {},
    "BPR": {},
    "LightGCN": {"n_layers": 2},
    "GRU4Rec": SOFTMAX | {"hidden_size": 128, "num_layers": 1},
    "SASRec": SOFTMAX | {"hidden_size": WIDTH, "inner_size": 4 * WIDTH, "n_layers": 2, "n_heads": 2},
}
WHOLE_RANKING = {"Pop", "BPR", "LightGCN"}  # their eval_batch_size counts scores, not users


def main() -> None:
    """Train and test what is missing, print the table."""
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    inter = write_newest(arguments.data, arguments.out / "data", arguments.keep_last)
    names = arguments.models.split(",")
    lines = [
        "| RecBole | mask | seeds | HR@10 | NDCG@10 | minutes | peak memory (MB) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in names:
        seeds = range(1 if name == "Pop" else arguments.seeds)
        runs = [run(name, seed, inter, arguments) for seed in seeds]
        minutes = statistics.mean(found["train_s"] for found in runs) / 60
        memory = max(found["peak_mb"] for found in runs)
        masks = {"hide": "test"} if name in WHOLE_RANKING else {"keep": "test", "hide": "hide"}
        for mask, part in masks.items():
            metrics = [_spread([found[part][key] for found in runs]) for key in ("hit@10", "ndcg@10")]
            lines.append(f"| {name} | {mask} | {len(runs)} | {' | '.join(metrics)} | {minutes:.1f} | {memory:.0f} |")
    sys.stdout.write("\n".join(lines) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="RecBole's accuracy on our split.")
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder")
    parser.add_argument("--recbole", type=Path, required=True, help="folder that RecBole is installed in")
    parser.add_argument("--out", type=Path, required=True, help="folder for finished runs")
    parser.add_argument(
        "--models", default=",".join(MODELS), help="comma-separated: Pop, BPR, LightGCN, GRU4Rec, SASRec"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--keep-last", type=int, default=13, help="newest interactions kept per user, as data.keep_last"
    )
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def write_newest(data: Path, folder: Path, keep_last: int) -> Path:
    """Write RecBole's NAME/NAME.inter with the newest interactions of each user; return the folder."""
    from pipelines.data.detection import read_dataset

    folder.mkdir(parents=True, exist_ok=True)
    kept = read_dataset(data).interactions.group_by("user", maintain_order=True).tail(keep_last)
    rows = enumerate(kept.select("user", "item").iter_rows())
    lines = [f"{user}\t{item}\t{place}\n" for place, (user, item) in rows]
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    (folder / f"{folder.name}.inter").write_text(header + "".join(lines), encoding="utf-8")
    return folder


def run(name: str, seed: int, inter: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a run found, from its file where it is finished."""
    path = arguments.out / f"{name}-{seed}.json"
    if not path.is_file():
        settings = COMMON | MODELS[name] | {"seed": 2020 + seed}
        if name in WHOLE_RANKING:
            settings["eval_batch_size"] = 40_000_000
        command = [sys.executable, str(ROOT / "benchmarks" / "recbole_peer.py"), "--inter", str(inter.absolute())]
        command += ["--model", name, "--rounds", "0", "--anomaly", "off", "--threads", str(arguments.threads)]
        command += ["--settings", json.dumps(settings)]
        environment = os.environ | {"PYTHONPATH": str(arguments.recbole.absolute()), "CUDA_VISIBLE_DEVICES": ""}
        sys.stderr.write(f"{name}, seed {seed} ...\n")
        with tempfile.TemporaryDirectory() as scratch:  # RecBole leaves logs where it is started
            done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
        path.write_text(done.stdout.splitlines()[-1], encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


if __name__ == "__main__":
    main()
