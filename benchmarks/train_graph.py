"""One training epoch of LightGCN and MMGCN: ours and MMRec's, on the same graph, in one run.

    python benchmarks/train_graph.py --data DIR --mmrec DIR [--packages DIR] [--threads 1] [--rounds 5]

`--mmrec` is a checkout of MMRec (https://github.com/enoche/MMRec). `--packages` is a folder with what MMRec needs
beyond our environment (`pip install --target DIR --no-deps` torch_geometric, matplotlib, pandas and what these need).
Every side runs in its own process, in turn, with the same pairs, width, layers, batch size, loss (BPR, one negative
from the items of the training part), regularisation, learning rate and threads. MMGCN has one branch, with random
features. Reported are medians over the epochs after the first, their lowest and highest, and ratios.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WIDTH, LAYERS, BATCH, REG, LR, FEATURES = 64, 3, 2048, 1e-4, 1e-3, 384
MODELS = {"lightgcn": "LightGCN", "mmgcn": "MMGCN"}


def main() -> None:
    """Measure all sides and print a table."""
    arguments = _arguments()
    if arguments.side:
        _ours(arguments)
        return
    found = {}
    with tempfile.TemporaryDirectory() as place:
        settings = write_mmrec(arguments.data, Path(place))
        for name, theirs in MODELS.items():
            ours = [str(Path(__file__).resolve()), "--data", str(arguments.data), "--side", name]
            peer = [str(ROOT / "benchmarks" / "mmrec_peer.py"), "--model", theirs, "--settings", json.dumps(settings)]
            sys.stderr.write(f"{name} ...\n")
            found[name] = (_run(ours, arguments, Path(place)), _run(peer, arguments, arguments.mmrec / "src"))
    _print(found, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds and memory of an epoch of graph models, ours and MMRec's.")
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder")
    parser.add_argument("--mmrec", type=Path, help="a checkout of MMRec")
    parser.add_argument("--packages", type=Path, help="folder with the packages that MMRec needs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="epochs timed, after one to warm up")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.side and not (arguments.mmrec and (arguments.mmrec / "src" / "models").is_dir()):
        parser.error(f"--mmrec is {arguments.mmrec}; it must be a checkout of MMRec, with src/models in it")
    for name in ("data", "mmrec", "packages"):
        if getattr(arguments, name) is not None:
            setattr(arguments, name, getattr(arguments, name).resolve())
    return arguments


def _split(data: Path) -> Any:
    from pipelines.data.load import load_data
    from pipelines.recipe.recipe import build_recipe

    recipe = build_recipe({"name": "b", "data": {"folder": str(data)}, "model": {"name": "popularity"}})
    return load_data(recipe.data).split


def _features(n_items: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).normal(size=(n_items, FEATURES)).astype(np.float32)


def write_mmrec(data: Path, place: Path) -> dict[str, Any]:
    """Write our training pairs as an MMRec dataset `graph`; return MMRec's settings for it."""
    import numpy as np

    split = _split(data)
    folder = place / "graph"
    folder.mkdir()
    rows = [f"{user}\t{item}\t0\n" for user, item in split.train_edges.T]
    last = f"{len(split.users) - 1}\t{len(split.items) - 1}\t1\n"  # MMRec counts users and items by their largest id
    (folder / "graph.inter").write_text("userID\titemID\tx_label\n" + "".join(rows) + last + last.replace("\t1", "\t2"))
    np.save(folder / "image.npy", _features(len(split.items)))
    return {
        "dataset": "graph",
        "data_path": f"{place}/",
        "inter_file_name": "graph.inter",
        "vision_feature_file": "image.npy",
        "text_feature_file": "none.npy",
        "USER_ID_FIELD": "userID",
        "ITEM_ID_FIELD": "itemID",
        "field_separator": "\t",
        "use_gpu": False,
        "embedding_size": WIDTH,
        "n_layers": [LAYERS],
        "reg_weight": [REG],
        "learning_rate": [LR],
        "train_batch_size": BATCH,
    }


def _run(command: list[str], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    command = [sys.executable, *command, "--threads", str(arguments.threads), "--rounds", str(arguments.rounds)]
    packages = {"PYTHONPATH": str(arguments.packages)} if "mmrec_peer" in command[1] and arguments.packages else {}
    environment = os.environ | packages | {"OMP_NUM_THREADS": str(arguments.threads), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[1]} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _ours(arguments: argparse.Namespace) -> None:
    """Time our side in this process; print one line of JSON."""
    import torch

    from models import build_recommender, recommenders
    from models.items.build import ItemsConfig, build_items
    from pipelines.runs.inputs import training_facts
    from pipelines.training.fit import Progress, fit
    from pipelines.training.train_config import TrainConfig

    torch.set_num_threads(arguments.threads)
    split, generator = _split(arguments.data), torch.Generator().manual_seed(0)
    content = arguments.side == "mmgcn"
    vectors = {"image": torch.from_numpy(_features(len(split.items)))} if content else {}
    config = ItemsConfig(kind="id+v" if content else "id", dim=WIDTH)
    items = build_items(config, len(split.items), vectors, generator)
    options = {"layers": LAYERS, "reg": REG} | ({"combine": "concat"} if content else {})
    settings = recommenders()[arguments.side].config_class(**options)
    model = build_recommender(arguments.side, settings, items, training_facts(split), generator)
    train = TrainConfig(
        epochs=arguments.rounds + 1, batch_size=BATCH, lr=LR, weight_decay=0, clip=None, eval_every=10_000
    )
    marks: list[float] = []

    def mark(at: Progress) -> None:
        if at.record is not None:
            marks.append(at.record.train_s)

    fit(model, split, train, seed=0, run=None, mask="hide", progress=mark)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"epoch_s": marks[1:], "peak_mb": peak}) + "\n")


def _print(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    title = f"{arguments.data.name}, {arguments.threads} thread(s), {arguments.rounds} epochs each, width {WIDTH}, "
    lines = [
        title + f"{LAYERS} layers, batches of {BATCH}; {platform.machine()}, {os.cpu_count()} cores",
        "| model | ours, epoch (s) | MMRec, epoch (s) | MMRec / ours | ours, peak (MB) | MMRec, peak (MB) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, (ours, theirs) in found.items():
        ratio = statistics.median(theirs["epoch_s"]) / statistics.median(ours["epoch_s"])
        cells = [_spread(ours["epoch_s"]), _spread(theirs["epoch_s"]), f"{ratio:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {ours['peak_mb']:.0f} | {theirs['peak_mb']:.0f} |")
    sys.stdout.write("\n".join(lines) + "\n")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
