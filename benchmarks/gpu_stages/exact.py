"""Stage a: the tests that need a card, and how exactly 'top' over stored activations trains as 'e2e' over pixels there.

Both kinds train the same blocks from the same seed. `extract --top-blocks` makes the activations on the card in float32
without TF32. Then both train in float32, in float32 with TF32, and in bfloat16; the activations stay the same, so the
two latter also show what it costs that the prefix of 'e2e' is rounded and that of 'top' is not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.difference import Difference, Trained, difference, vectors_of
from benchmarks.gpu_stages.corpus import NAME, build, default_settings, drawn_split, tower_over
from benchmarks.gpu_stages.extraction import pixel_catalog
from benchmarks.gpu_stages.reporting import Budget, Report
from benchmarks.gpu_stages.sizes import Sizes
from benchmarks.noise import write_pixels
from extract.encoders.registry import get_encoder
from extract.jobs.extractor import extract
from extract.jobs.options import ExtractOptions
from models.shared.representation import ItemsConfig
from pipelines.device import tf32
from pipelines.training.fit import fit
from pipelines.training.train_config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
TITLE = "tests that need a card, and exactness of `top` against `e2e`"
ITEMS, USERS, BATCH = 12, 24, 8
SETTINGS = ("float32", "tf32", "bfloat16")
TABLE = "`top` T = 1 against `e2e` T = 1, largest relative differences"


def run(report: Report, sizes: Sizes, folder: Path, device: torch.device, budget: Budget) -> None:
    """Fill the report."""
    bench = Bench(folder, sizes, device)
    straight: list[Trained] = []
    for setting in SETTINGS[: 3 if device.type == "cuda" else 1] if sizes.scale == 1 else SETTINGS:
        with report.row(TABLE, setting) as row:
            budget.share(1)
            found, e2e = bench.compare(setting)
            straight.append(e2e)
            row |= {"vectors": found.vectors, "losses": found.losses, "weights": found.weights}
            row |= {"bits": "equal" if found.bits else "not equal", "worst": found.worst}
            row["`e2e` against its float32"] = difference(e2e, straight[0]).losses
    with report.row("tests marked `gpu`", "pytest -m gpu") as row:
        if device.type != "cuda":
            raise RuntimeError("the tests need a CUDA device, and this run has none")
        budget.share(1)
        row["result"] = gpu_tests(budget.left)


class Bench:
    """A few items, one encoder, and both kinds of training over them."""

    def __init__(self, folder: Path, sizes: Sizes, device: torch.device) -> None:
        self._folder, self._sizes, self._device = folder, sizes, device
        self._spec = get_encoder(sizes.exact)
        self._ids = [str(number) for number in range(ITEMS)]
        self._split = drawn_split(USERS, ITEMS, 6 * USERS)
        self._files: dict[str, Path] = {}

    def compare(self, setting: str) -> tuple[Difference, Trained]:
        """Return how far the kinds are apart in one arithmetic, and the run of 'e2e'."""
        if not self._files:
            self._files = self._make_files()
        with tf32(setting == "tf32"):
            top, e2e = (self._train(kind, setting) for kind in ("top", "e2e"))
        return difference(top, e2e), e2e

    def _make_files(self) -> dict[str, Path]:
        pixels = self._folder / "exact-pixels.h5"
        write_pixels(pixels, self._spec, self._ids)
        options = ExtractOptions(
            self._folder / "exact", weights="random", top_blocks=1, batch_size=4, device=str(self._device)
        )
        catalog = pixel_catalog(pixels, self._spec, ITEMS)
        return {"e2e": pixels, "top": extract(catalog, self._spec, options).path}

    def _train(self, kind: str, setting: str) -> Trained:
        items = ItemsConfig(kind=kind, dim=16, encoder=self._spec.name, weights="random", encoder_lr=1e-4)
        towers = {NAME: tower_over(self._files[kind], self._ids, items)}
        settings = replace(default_settings("sasrec"), dropout=0.1)
        model = build("sasrec", settings, items, self._split, towers=towers).to(self._device)
        per_epoch = -(-len(self._split.train.users) // BATCH)
        epochs = max(1, self._sizes.exact_steps // per_epoch)
        precision = "bfloat16" if setting == "bfloat16" else "float32"
        config = TrainConfig(
            epochs=epochs, batch_size=BATCH, eval_every=epochs, precision=precision, tf32=setting == "tf32"
        )
        vectors = vectors_of(model)
        found = fit(model, self._split, config, seed=0, run=None, mask="hide", device=self._device)
        state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        return Trained(vectors, [epoch.loss for epoch in found.history], state, 0.0)


def gpu_tests(seconds: float) -> str:
    """Run the tests marked `gpu` in the files that hold some; return pytest's last line.

    Raises:
        ModuleNotFoundError: pytest is not installed.
        RuntimeError: pytest ended with another result than passed or skipped, or did not end in time.
    """
    from importlib.util import find_spec

    if find_spec("pytest") is None:
        raise ModuleNotFoundError("no pytest", name="pytest")
    marked = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *map(str, marked)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"pytest did not end within {seconds:.0f} s") from error
    lines = [line for line in done.stdout.strip().splitlines() if line.strip()] or done.stderr.strip().splitlines()
    said = re.sub(r"^=+ | =+$", "", lines[-1]) if lines else "pytest said nothing"
    if done.returncode:
        wrong = next((line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))), "")
        raise RuntimeError(f"pytest ended with code {done.returncode}: {said} {wrong}")
    return said
