"""What one of several processes does in test_ranks.py, and how they are started: as torchrun does, but forked."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import run_pipeline
from features.errors import ConfigError, FreezeframeError
from models import build_recommender, recommenders
from models.items.build import ItemsConfig, build_items
from models.items.towers import share_out
from models.shared import process_group
from models.shared.process_group import Ranks
from models.shared.recommender import Recommender
from pipelines.runs.inputs import training_facts
from pipelines.runs.processes import processes
from pipelines.training.fit import fit
from pipelines.training.train_config import TrainConfig
from tests.support.checkerboard import ITEMS
from tests.support.toy_towers import SPLIT, e2e, top

CONFIG = TrainConfig(epochs=4, batch_size=24, lr=0.01)
ROWS = {"uneven": (7, 3), "one of us has none": (1, 3), "even": (4, 5)}
# Dropout inside the encoder is each process's own; that of the recommender is on.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "e2e": ("sasrec", {}, {"kind": "e2e"}),
    "top": ("sasrec", {}, {"kind": "top"}),
    "pieces": ("sasrec", {}, {"kind": "e2e", "micro_batch": 5}),
    "recomputed": ("gru4rec", {}, {"kind": "e2e", "checkpointing": True}),
    "two encoders": ("sasrec", {"mask_own": False}, {"kind": "e2e", "encoder": ("toy", "other"), "fuse": "gate"}),
    "full": ("sasrec", {"loss": "full"}, {"kind": "top"}),
    "sampled": ("sasrec", {"loss": "sampled", "negatives": 5}, {"kind": "top"}),
    "bpr": ("sasrec", {"loss": "bpr", "sampling": "popularity"}, {"kind": "top"}),
    "bce": ("sasrec", {"loss": "bce"}, {"kind": "top"}),
    "users": ("dssm", {}, {"kind": "e2e"}),
    "pairs": ("bprmf", {}, {"kind": "e2e"}),
    "no inner product": ("deepfm", {}, {"kind": "top"}),
}


def toy(case: str, dropout: float = 0.0) -> Recommender:
    """Return the untrained model of a case."""
    name, settings, options = CASES[case]
    config = ItemsConfig(**{"dim": 16, "encoder": "toy", **options})
    make = top if config.kind == "top" else e2e
    towers = {encoder: make(2, dropout=dropout, seed=seed) for seed, encoder in enumerate(config.encoders)}
    generator = torch.Generator().manual_seed(0)
    items = build_items(config, ITEMS, {}, generator, towers=towers)
    made = recommenders()[name].config_class(**settings)
    return build_recommender(name, made, items, training_facts(SPLIT), generator)


def steepest(model: Recommender, name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return gradient descent over what trains."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=lr, weight_decay=weight_decay)


def train(model: Recommender, of: Ranks, run: Path | None = None, **options: Any) -> dict[str, Any]:
    """Train a model on its share; return losses, validation metrics, weights and the last step's gradients.

    By plain gradient steps: Adam makes whole steps of gradients that are zero but for rounding.
    """
    share_out(model, of)
    config = replace(CONFIG, **options)
    with patch("pipelines.training.fit.build_optimizer", steepest):
        fitted = fit(model, SPLIT, config, seed=0, run=run, mask="hide", resume=run is not None, ranks=of)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return {
        "losses": [epoch.loss for epoch in fitted.history],
        "valid": [epoch.valid for epoch in fitted.history],
        "weights": {name: weight.detach() for name, weight in trained.items()},
        "gradients": {name: weight.grad for name, weight in trained.items() if weight.grad is not None},
        "table": model.items.table(),
    }


def gathered(count: int, width: int, of: Ranks) -> tuple[Tensor, Tensor]:
    """Return a loss of all rows, of which each process gives some, and the gradient by its own."""
    everything = torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    own = of.share(everything).clone().requires_grad_()
    rows = of.gather(own, count)
    loss = (rows @ rows.T).logsumexp(1).sum() + rows.pow(3).sum()
    if loss.requires_grad:
        loss.backward()
    return loss.detach(), own.grad if own.grad is not None else torch.zeros_like(own)


def joined(of: Ranks) -> list[Tensor | None]:
    """Return gradients joined, several buckets of them; process r's are full of r + 1."""
    process_group.BUCKET = 10
    parameters = [nn.Parameter(torch.zeros(size)) for size in (3, 4, 9, 2, 5, 6)]
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, of.rank + 1.0) if number not in (1, 4) else None
    if of.rank == 1:
        parameters[1].grad = torch.ones(4)  # of the second process alone
    of.join_gradients(parameters[:3], parameters[3:])
    return [parameter.grad for parameter in parameters]


def exact(of: Ranks, folder: Path) -> None:
    """Run every case and write what came out."""
    found: dict[str, Any] = {case: train(toy(case), of) for case in CASES}
    found["gathered"] = {name: gathered(*shape, of) for name, shape in ROWS.items()}
    found["joined"] = joined(of)
    found["dropout"] = train(toy("e2e", dropout=0.3), of, batch_size=5)  # shares of unequal size
    run = folder / "run"
    of.wait()
    train(toy("e2e"), of, run, epochs=2)
    found["resumed"] = train(toy("e2e"), of, run)
    torch.save(found, folder / f"{of.rank}.pt")


def fails(of: Ranks, folder: Path) -> None:
    """Let the second process fail where the first waits for it."""
    if of.rank == 1:
        raise ConfigError("the second process cannot go on")
    of.wait()


def dies(of: Ranks, folder: Path) -> None:
    """Let the second process be killed where the first waits for it."""
    if of.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    of.wait()


def both_fail(of: Ranks, folder: Path) -> None:
    """Let all fail at once."""
    raise ConfigError("no process can go on")


TASKS = {"exact": exact, "fails": fails, "both_fail": both_fail, "dies": dies}


def work(task: str, folder: Path) -> None:
    """Do a task as one of the processes; end with what the command line tells of a failure, and its exit status."""
    torch.set_num_threads(1)
    try:
        with processes("cpu") as (of, _):
            TASKS[task](of, folder)
    except FreezeframeError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error


def command(words: list[str]) -> None:
    """Run the command line as one of the processes."""
    torch.set_num_threads(1)
    raise SystemExit(run_pipeline.main(words))


def torchrun(what: Callable[..., None], *arguments: object) -> int:
    """Let torchrun's own agent start two processes and watch over them, as `torchrun --standalone` does.

    They are forked, which saves each of them the import of torch, and the agent that of `torchrun` itself.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="fork",
    )
    try:
        elastic_launch(config, what)(*arguments)
    except ChildFailedError:
        return 1
    return 0
