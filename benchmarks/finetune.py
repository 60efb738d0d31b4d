"""What training an encoder's last blocks costs: over stored activations ('top'), over media ('e2e'), or not at all.

    python benchmarks/finetune.py --out DIR --encoder videomae-base --weights random --precision bfloat16

One recipe (SASRec, in-batch softmax) runs on one dataset, with one row per way to make item vectors: `v`, `dnn`,
`top:T`, `e2e:T`, `e2e:all`. Without `--data` the dataset is a synthetic corpus of rendered clips. What the rows read is
extracted first; the first table shows its seconds (waiting for decoders, encoding, writing) and size. Then every row
runs some steps in its own process. The second table shows:

- seconds of a step (median without the first), distinct items encoded in it, and seconds of an epoch (seconds of a step
  times the number of steps);
- `with decoding`, for rows that read media: an epoch in which items are decoded whenever they are encoded, as in code
  without a file of pixels. It is computed: the epoch, plus the items encoded times the seconds that decoding an item
  took when the file of pixels was made (by `--workers` processes);
- seconds to encode all items once, as every validation and the test do;
- peak memory of the process, or of the device if it is a GPU;
- x: the epoch divided by that of the first `top` row.
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
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from features.atomic import whole_folder
from features.errors import FreezeframeError
from pipelines.console import table
from pipelines.data.synthetic import CorpusSize, make_corpus
from pipelines.recipe.recipe import Recipe, build_recipe

ROWS = "v,dnn,top:1,top:2,e2e:1,e2e:2,e2e:all"
COLUMNS = (
    "row",
    "step (s)",
    "steps",
    "items/step",
    "epoch (s)",
    "with decoding",
    "all items (s)",
    "memory (GB)",
    "x",
)


def main() -> None:
    """Extract what is read, run the rows, print two tables."""
    arguments = _arguments()
    if arguments.measure:
        sys.stdout.write(json.dumps(measure(arguments)) + "\n")
        return
    data = arguments.data or arguments.out / "corpus"
    if not data.is_dir():
        with whole_folder(data) as fresh:  # half a corpus would pass for a whole
            make_corpus(fresh, seed=0, size=CorpusSize(items=arguments.items, users=arguments.users))
    arguments.data = data
    files = _extract(arguments)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads, {arguments.device}"
    title = (
        f"{arguments.encoder}, {arguments.weights} weights, {arguments.precision}, batches of {arguments.batch} users"
    )
    found = {row: _in_process(row, arguments, files) for row in arguments.rows.split(",")}
    table(f"{title}; {machine}, torch {torch.__version__}", COLUMNS, _lines(found, files))


def _extract(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Extract the vectors, activations and pixels that rows read; return file, seconds and bytes of each."""
    rows = arguments.rows.split(",")
    cuts = [int(row.partition(":")[2]) for row in rows if row.startswith("top")]
    wanted: dict[str, list[str]] = {"vectors": []} if {"v", "dnn"} & set(rows) else {}
    for cut in cuts:  # each cut has its own file: over a deeper one, the blocks in between would run at every step
        wanted[f"top:{cut}"] = ["--top-blocks", str(cut), "--dtype", arguments.dtype]
    if any(row.startswith("e2e") for row in rows) and not arguments.titles:
        wanted["pixels"] = ["--pixels"]
    found = {name: _extracted(name.replace(":", "-"), options, arguments) for name, options in wanted.items()}
    parts = ("decode", "encode", "write")
    lines = [
        [
            name,
            f"{made['items']}",
            *(f"{made['seconds'][part]:.1f}" for part in parts),
            f"{made['bytes'] / made['items']:,.0f}",
        ]
        for name, made in found.items()
    ]
    table("once", ["file", "items", *(f"{part} (s)" for part in parts), "bytes per item"], lines)
    return found


def _extracted(name: str, options: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    out, note = arguments.out / name, arguments.out / f"{name}.json"
    if note.is_file():
        return dict(json.loads(note.read_text()))
    command = [sys.executable, str(ROOT / "run_pipeline.py"), "extract", "--data", str(arguments.data)]
    command += ["--encoders", arguments.encoder, "--out", str(out), "--max-failed", "1", *options]
    command += ["--workers", str(arguments.workers), "--json"]
    if name != "pixels":
        command += ["--weights", arguments.weights, "--batch-size", "64" if arguments.titles else "4"]
        command += ["--precision", {"bfloat16": "bf16"}.get(arguments.precision, arguments.precision)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout)[0]
    made = {"path": report["path"], "seconds": report["seconds"], "items": report["counts"]["done"]}
    made["bytes"] = Path(report["path"]).stat().st_size
    note.write_text(json.dumps(made))
    return made


def _in_process(row: str, arguments: argparse.Namespace, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    given = [(name.replace("_", "-"), value) for name, value in vars(arguments).items() if _given(name, value)]
    passed = [f"--{name}" if value is True else f"--{name}={value}" for name, value in given]
    paths = json.dumps([made["path"] for made in files.values()])
    done = subprocess.run(
        [sys.executable, __file__, *passed, "--measure", row, "--files", paths], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"row {row} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _given(name: str, value: Any) -> bool:
    return value is not None and value is not False and name not in ("measure", "files")


def _lines(found: dict[str, dict[str, Any]], files: dict[str, dict[str, Any]]) -> list[list[str]]:
    unit = next((made["epoch_s"] for row, made in found.items() if row.startswith("top")), None)
    pixels = files.get("pixels")
    decode_s = pixels["seconds"]["decode"] / pixels["items"] if pixels else 0.0
    lines = []
    for row, made in found.items():
        live = "-"
        if row.startswith("e2e") and pixels:
            live = f"{made['epoch_s'] + made['read'] * made['steps'] * decode_s:.1f}"
        line = [row, f"{made['step_s']:.3f}", f"{made['steps']}", f"{made['read']:.0f}", f"{made['epoch_s']:.1f}", live]
        line += [f"{made['table_s']:.2f}", f"{made['peak_bytes'] / 2**30:.2f}"]
        lines.append([*line, f"{made['epoch_s'] / unit:.2f}" if unit else "-"])
    return lines


def recipe_of(row: str, arguments: argparse.Namespace) -> Recipe:
    """Return the recipe of a row; rows differ only in `items`."""
    kind, _, cut = row.partition(":")
    items: dict[str, Any] = {"kind": kind, "micro_batch": arguments.micro_batch}
    if kind in ("top", "e2e"):
        items |= {"encoder": arguments.encoder, "encoder_lr": 1e-4, "weights": arguments.weights}
        items["top_blocks"] = cut if cut == "all" else int(cut)
    plain: dict[str, Any] = {
        "name": kind,
        "data": {"folder": str(arguments.data)},
        "items": items,
        "features": [{"path": path, "absent": "mean"} for path in json.loads(arguments.files)],
        "model": {"name": "sasrec"},
        "train": {"epochs": 100, "batch_size": arguments.batch, "precision": arguments.precision},
    }
    return build_recipe(plain)


class Enough(Exception):  # noqa: N818
    """Raised when the steps that were asked for are done."""


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train some steps and encode all items in this process."""
    from models.items.towers import take_meters
    from pipelines.data.load import load_data
    from pipelines.runs.inputs import build_model, open_features
    from pipelines.towers.media import media_of
    from pipelines.towers.open_towers import open_towers
    from pipelines.training.fit import Progress, fit

    torch.set_num_threads(arguments.threads)
    recipe, device = recipe_of(arguments.measure, arguments), torch.device(arguments.device)
    data = load_data(recipe.data)
    files = open_features(recipe, data.split)
    towers = open_towers(recipe, data.split, files, media_of(data.dataset, data.split, recipe.features))
    model = build_model(recipe, data.split, files, {}, towers)
    marks, steps = [], 0

    def mark(at: Progress) -> None:
        nonlocal steps
        steps = at.steps
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        marks.append(time.perf_counter())
        if len(marks) > arguments.steps:  # the first one warms up
            raise Enough

    with suppress(Enough):
        fit(model, data.split, recipe.train, seed=0, run=None, mask="hide", device=device, progress=mark)
    twice = 2 if arguments.micro_batch else 1  # in pieces each is encoded again for the backward pass
    read = take_meters(model).with_graph / len(marks) / twice
    began = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bfloat16"):
        model.item_vectors()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    table_s = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak
    step = float(statistics.median(np.diff(marks)))
    return {
        "step_s": step, "steps": steps, "read": read, "epoch_s": step * steps, "table_s": table_s, "peak_bytes": peak,
    }  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the corpus and the files, which are kept")
    parser.add_argument("--data", type=Path, help="dataset folder instead of the synthetic corpus")
    parser.add_argument("--titles", action="store_true", help="the encoder reads the titles of --data, no pixels")
    parser.add_argument("--items", type=int, default=48, help="clips of the synthetic corpus")
    parser.add_argument("--users", type=int, default=200, help="users of the synthetic corpus")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--rows", default=ROWS, help="comma-separated")
    parser.add_argument("--dtype", default="float16", help="type of stored activations")
    parser.add_argument("--batch", type=int, default=4, help="users per step")
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes that decode for the extraction")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--files", default="[]", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.titles and not arguments.data:
        parser.error("--titles needs --data: in the synthetic corpus a title is blank on purpose")
    return arguments


if __name__ == "__main__":
    try:
        main()
    except FreezeframeError as error:
        sys.exit(f"error: {error}")
