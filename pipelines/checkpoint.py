"""Checkpoints of training: whole or absent, loadable without executing anything they contain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from features.errors import ConfigError
from features.provenance import fsync_folder

CHECKPOINT = "checkpoint.pt"
Metrics = dict[str, float]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: number from 1.
        loss: mean per position.
        train_s: seconds of training.
        valid_s: seconds of validation.
        valid: validation metrics; None where the epoch was not validated.
        read_s: of `train_s`, what reading the inputs of trained encoders took; 0 without any, as all below.
        forward_s: of `train_s`, what their forward passes took (on a GPU: what starting them took).
        encoded: items they encoded in training.
        encoded_valid: items they encoded in validation.
    """

    epoch: int
    loss: float
    train_s: float
    valid_s: float
    valid: Metrics | None
    read_s: float = 0.0
    forward_s: float = 0.0
    encoded: int = 0
    encoded_valid: int = 0


@dataclass
class State:
    """What an epoch changes besides the model and the optimiser.

    Attributes:
        history: epochs so far.
        best_epoch: the epoch with the best validation; 0 before the first validation.
        best: its validation metrics.
        best_weights: its state dict, on the CPU.
    """

    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best: Metrics = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Return the epochs done."""
        return len(self.history)

    def out_of_patience(self, patience: int) -> bool:
        """Return whether the best epoch lies `patience` epochs back, at a validation."""
        validated = bool(self.history) and self.history[-1].valid is not None
        return validated and self.epoch - self.best_epoch >= patience

    def add(self, record: EpochRecord, model: nn.Module, monitor: str) -> None:
        """Append an epoch and keep the weights if its `monitor` is strictly the best."""
        self.history.append(record)
        if record.valid is not None and (not self.best or record.valid[monitor] > self.best[monitor]):
            self.best_epoch, self.best = record.epoch, record.valid
            self.best_weights = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, identity: Mapping[str, Any]
) -> None:
    """Write a checkpoint: the old or the new one is there, never a part of one, also at kill -9."""
    content = {
        "identity": dict(identity),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": [asdict(record) for record in state.history],
        "best_epoch": state.best_epoch,
        "best": state.best,
        "best_weights": state.best_weights,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as handle:
        torch.save(content, handle)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any]) -> State:
    """Put model and optimiser where a checkpoint left them and return the rest of its state.

    Raises:
        ConfigError: a file that is damaged, of another model, or of another identity (the first difference is named).
    """
    content = _read(path)
    for name, value in identity.items():
        found = content["identity"].get(name)
        if found != value:
            raise ConfigError(f"{path}: {name} was {found!r}, now {value!r}; restore it or start without resume")
    _put(path, model, content["model"])
    optimizer.load_state_dict(content["optimizer"])
    history = [EpochRecord(**record) for record in content["history"]]
    return State(history, content["best_epoch"], content["best"], content["best_weights"])


def load_best(path: Path, model: nn.Module) -> int:
    """Give a freshly built model the weights of a checkpoint's best epoch; return that epoch.

    Raises:
        ConfigError: a file that is damaged or of another model.
    """
    content = _read(path)
    _put(path, model, content["best_weights"])
    return int(content["best_epoch"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"identity", "model", "optimizer", "history", "best_epoch", "best", "best_weights"} - set(content)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no checkpoint there; train first") from error
    except Exception as error:  # torch raises many kinds, from zip files to unpickling
        raise ConfigError(f"{path}: not a readable checkpoint ({_first_line(error)}); start without resume") from error
    if missing:
        raise ConfigError(f"{path}: not a checkpoint of training: lacks {', '.join(sorted(missing))}")
    return content


def _put(path: Path, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: weights of another model or item representation ({detail})") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
