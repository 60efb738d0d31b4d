"""Training: epochs over the windows or pairs of a split, early stopping on full-ranking validation, exact resume.

A run is a function of the model's initial weights, the split, the config and the seed. The order of windows and the
dropout of an epoch depend only on the seed and the epoch. An interrupted run that resumes therefore ends with the
numbers of an unbroken one: bit for bit on a CPU with the same number of threads, within rounding on a GPU.

The host never waits for a GPU within a step: a batch is planned and sent while the one before is computed, and losses
are looked at every `LOOK_EVERY` steps. On a CPU every loss is looked at as soon as it is there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.errors import ConfigError
from models.items.towers import take_meters, towers_of
from models.shared.process_group import ALONE, Ranks
from models.shared.recommender import PairBatch, Recommender, TrainBatch
from pipelines.data.split import Split
from pipelines.device import tf32
from pipelines.ranking.full_ranking import Mask, evaluate
from pipelines.training.checkpoint import CHECKPOINT, EpochRecord, Metrics, State, load, save
from pipelines.training.feeding import Sender, Sent
from pipelines.training.optimizers import build_optimizer, clip_gradients
from pipelines.training.running_loss import RunningLoss
from pipelines.training.train_config import TrainConfig

LOOK_EVERY = 32  # steps of a GPU; a look waits for it


@dataclass(frozen=True)
class Progress:
    """The progress of a run, reported after each step and each epoch."""

    epoch: int
    """Number of the epoch, from 1."""
    step: int
    """Number of the step in the epoch, from 1."""
    steps: int
    """Steps per epoch."""
    record: EpochRecord | None
    """Result of the epoch at its end; None after a step."""
    rows: int = 0
    """Windows or pairs per epoch."""
    trains_on: str = "windows"
    """What the rows are: 'windows' of histories, or 'pairs'."""
    history: Sequence[EpochRecord] = ()
    """Results of the epochs that have ended, those before a resume among them."""
    best_epoch: int = 0
    """Number of the best epoch so far; 0 before the first validation."""
    best: Metrics = field(default_factory=dict)
    """Validation metrics of the best epoch so far."""


@dataclass(frozen=True)
class FitResult:
    """The result of training; the model then holds the best weights."""

    history: tuple[EpochRecord, ...]
    """Epochs in order, including those before a resume."""
    best_epoch: int
    """Number of the epoch whose weights the model holds; 0 = nothing was trained."""
    best: Metrics
    """Validation metrics of the best epoch."""
    seconds: float
    """Seconds of training and validation of all epochs."""
    stopped_early: bool
    """Whether patience ran out before the last epoch."""


def fit(
    model: Recommender,
    split: Split,
    config: TrainConfig,
    *,
    seed: int,
    run: Path | None,
    mask: Mask,
    device: torch.device | str = "cpu",
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
) -> FitResult:
    """Train a model; afterwards it is on `device` with the weights of its best epoch.

    Args:
        model: a freshly built model, also for a resume.
        split: gives the training windows or pairs and the validation part.
        config: the settings of training.
        seed: seed for the order of windows and for dropout.
        run: folder of the checkpoint, which is written after every epoch; None = no checkpoint.
        mask: which seen items validation hides (see pipelines/ranking/full_ranking.py).
        device: where to train.
        resume: whether to resume from the checkpoint in `run`; without one, training starts from the beginning.
        progress: called after each step and each epoch. If it raises, the run ends and the last checkpoint stays.
        ranks: this process among those that train the model together. Each calls this function with the same arguments
            and a model given to `share_out`; only the first one writes.

    Raises:
        ConfigError: the split has nothing to train on, a loss is not finite, or the checkpoint belongs to another seed,
            config, split or model.
    """
    device = torch.device(device)
    if config.optimizer == "lazy" and device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"train.optimizer 'lazy' needs sparse gradients, which device {str(device)!r} lacks; use 'adamw', or "
            "--device cpu"
        )
    model.to(device)
    optimizer = build_optimizer(model, config.optimizer, config.lr, config.weight_decay)
    if optimizer is None:
        metrics, seconds = _validate(model, split, config, mask, device)
        return FitResult((), 0, metrics, seconds, False)
    if not len(split.train_edges[0] if model.trains_on == "pairs" else split.train.users):
        raise ConfigError(
            f"dataset {split.dataset!r} has no training {model.trains_on}; are all histories shorter than "
            f"{3 if model.trains_on == 'pairs' else 4} items?"
        )
    identity = _identity(seed, split, mask, config, model)
    path = None if run is None else run / CHECKPOINT
    state = State()
    if resume and path is not None and path.exists():
        state = load(path, model, optimizer, identity)
    if ranks.of_first(state.epoch) != state.epoch:
        raise ConfigError(
            f"process {ranks.rank} does not see the checkpoint in {run} that the first process sees; share the folder"
        )
    ranks.start_alike(model)
    train = _Epochs(model, optimizer, split, config, seed, device, progress or _silent, ranks, state)
    take_meters(model)  # resets what was counted before training
    while state.epoch < config.epochs and not state.out_of_patience(config.patience):
        epoch = state.epoch + 1
        with tf32(config.tf32):
            loss, train_s = train.one(epoch)
        spent = take_meters(model)
        valid: Metrics | None = None
        valid_s = 0.0
        if epoch % config.eval_every == 0 or epoch == config.epochs:
            valid, valid_s = _validate(model, split, config, mask, device)
            valid = ranks.of_first(valid)  # rounding on a GPU could stop one process while another goes on
        looked = take_meters(model).without_graph
        record = EpochRecord(
            epoch, loss, train_s, valid_s, valid, spent.read_s, spent.forward_s, spent.with_graph, looked
        )
        state.add(record, model, config.monitor)
        if path is not None and ranks.first:
            save(path, model, optimizer, state, identity)
        train.report(epoch, train.steps, record)
    model.load_state_dict(state.best_weights)
    seconds = sum(record.train_s + record.valid_s for record in state.history)
    return FitResult(tuple(state.history), state.best_epoch, state.best, seconds, state.epoch < config.epochs)


def _validate(
    model: Recommender, split: Split, config: TrainConfig, mask: Mask, device: torch.device
) -> tuple[Metrics, float]:
    """Return validation metrics and the seconds they took."""
    began = time.perf_counter()
    result = evaluate(
        model,
        split.valid,
        split.train_counts,
        mask=mask,
        at=config.at,
        metrics=config.metrics,
        batch_size=config.eval_batch_size,
        device=device,
    )
    return result.metrics, time.perf_counter() - began


def _identity(seed: int, split: Split, mask: Mask, config: TrainConfig, model: Recommender) -> dict[str, Any]:
    """Return what a checkpoint and the run that resumes from it must share; epochs and patience may differ."""
    free = ("epochs", "patience", "eval_batch_size")
    kept = {f"train.{name}": value for name, value in asdict(config).items() if name not in free}
    if not config.tf32:
        del kept["train.tf32"]  # checkpoints made before there was this setting go on
    rates = {f"items.encoder_lr of tower {number}": tower.lr for number, tower in enumerate(towers_of(model))}
    return {"seed": seed, "split": split.fingerprint, "mask": mask, **kept, **rates}


def _silent(_: Progress) -> None:
    """Report nothing."""


class _Epochs:
    """Training epochs over the windows or pairs of a split."""

    def __init__(
        self,
        model: Recommender,
        optimizer: torch.optim.Optimizer,
        split: Split,
        config: TrainConfig,
        seed: int,
        device: torch.device,
        progress: Callable[[Progress], None],
        ranks: Ranks,
        state: State,
    ) -> None:
        self.model, self.optimizer, self.config, self.state = model, optimizer, config, state
        self.seed, self.device, self.progress, self.ranks = seed, device, progress, ranks
        windows, edges = split.train, split.train_edges
        pairs = model.trains_on == "pairs"
        arrays = (edges[0], edges[1]) if pairs else (windows.users, windows.items, windows.mask)
        self.arrays = [torch.from_numpy(array) for array in arrays]
        self.sender = Sender(device)
        self.kind: type[PairBatch] | type[TrainBatch] = PairBatch if pairs else TrainBatch
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.towers = towers_of(model)
        shown, real = (edges[1], np.ones_like(edges[1], bool)) if pairs else (windows.items, windows.mask)
        self.shown, self.real = torch.from_numpy(shown), torch.from_numpy(real)
        inside = {id(parameter) for tower in self.towers for parameter in tower.parameters()}
        self.shared = [parameter for parameter in self.parameters if id(parameter) in inside]
        self.rest = [parameter for parameter in self.parameters if id(parameter) not in inside]
        self.steps = math.ceil(len(self.arrays[0]) / config.batch_size)

    def one(self, epoch: int) -> tuple[float, float]:
        """Train one epoch; return its mean loss per position and its seconds."""
        began = time.perf_counter()
        self.model.train()
        losses = RunningLoss(epoch, self.steps, 1 if self.device.type == "cpu" else LOOK_EVERY, self._advice)
        with epoch_randomness(self.seed, epoch, self.device) as generator:
            order = torch.split(torch.randperm(len(self.arrays[0]), generator=generator), self.config.batch_size)
            coming = self._send(order[0])
            for step in range(1, len(order) + 1):
                self._look_ahead(order[step : step + 1])
                self._step(coming.arrive(), losses)
                if step < len(order):
                    coming = self._send(order[step])  # a GPU is still busy with this step
                self.report(epoch, step, None)
        return losses.mean(), time.perf_counter() - began

    def report(self, epoch: int, step: int, record: EpochRecord | None) -> None:
        """Tell how far training is."""
        state, rows, kind = self.state, len(self.arrays[0]), self.model.trains_on
        told = Progress(epoch, step, self.steps, record, rows, kind, state.history, state.best_epoch, state.best)
        self.progress(told)

    def _look_ahead(self, following: Sequence[Tensor]) -> None:
        """Tell the encoders which items the next batch holds; negatives that a loss draws are not known yet."""
        for rows, tower in product(following, self.towers):
            tower.expect(self.shown[rows][self.real[rows]])

    def _send(self, rows: Tensor) -> Sent:
        batch = self.kind(*(array[rows] for array in self.arrays))
        return self.sender.send(replace(batch, plan=self.model.plan(batch)))

    def _step(self, batch: PairBatch | TrainBatch, losses: RunningLoss) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            output = self.model(batch)
        losses.add(output)
        self.optimizer.zero_grad()
        output.loss.backward()
        self.ranks.join_gradients(self.shared, self.rest)
        if self.config.clip is not None:
            clip_gradients(self.parameters, self.config.clip)
        self.optimizer.step()

    def _advice(self) -> str:
        """Return what to do about a loss that is not finite; it names the highest learning rate."""
        own = max((tower.lr for tower in self.towers if tower.lr is not None), default=0.0)
        rate = f"items.encoder_lr ({own})" if own > self.config.lr else f"train.lr ({self.config.lr})"
        clip = f"train.clip ({self.config.clip})"
        return f"the usual cause is {rate}: lower it, or lower {clip}; the last checkpoint is kept"


@contextmanager
def epoch_randomness(seed: int, epoch: int, device: torch.device) -> Iterator[torch.Generator]:
    """Yield an epoch's own generator; inside, the global generators, which dropout uses, start from the same seed."""
    value = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(value)
        yield torch.Generator().manual_seed(value)
