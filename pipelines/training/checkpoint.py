"""Checkpoints of training. A checkpoint file is complete or absent; loading one executes nothing that it contains."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from features.atomic import fsync_folder, put_in_place
from features.errors import ConfigError, StoreError
from features.paths import write_advice

CHECKPOINT = "checkpoint.pt"
Metrics = dict[str, float]


@dataclass(frozen=True)
class EpochRecord:
    """The result of one epoch."""

    epoch: int
    """Number of the epoch, from 1."""
    loss: float
    """Mean loss per position."""
    train_s: float
    """Seconds of training."""
    valid_s: float
    """Seconds of validation."""
    valid: Metrics | None
    """Validation metrics; None if the epoch was not validated."""
    read_s: float = 0.0
    """Seconds within `train_s` for reading the inputs of trained encoders. Without encoders it is 0, as are all below.
    """
    forward_s: float = 0.0
    """Seconds within `train_s` for the encoders' forward passes; on a GPU, for launching them."""
    encoded: int = 0
    """Items encoded in training."""
    encoded_valid: int = 0
    """Items encoded in validation."""


@dataclass
class State:
    """The state of training besides the model and the optimiser."""

    history: list[EpochRecord] = field(default_factory=list)
    """Epochs so far."""
    best_epoch: int = 0
    """Number of the epoch with the best validation; 0 before the first validation."""
    best: Metrics = field(default_factory=dict)
    """Validation metrics of the best epoch."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """State dict of the best epoch, on the CPU."""

    @property
    def epoch(self) -> int:
        """Return the number of epochs done."""
        return len(self.history)

    def out_of_patience(self, patience: int) -> bool:
        """Return whether the last epoch was validated and the best one is at least `patience` epochs back."""
        validated = bool(self.history) and self.history[-1].valid is not None
        return validated and self.epoch - self.best_epoch >= patience

    def add(self, record: EpochRecord, model: nn.Module, monitor: str) -> None:
        """Append an epoch; keep its weights if its `monitor` is strictly better than all before."""
        self.history.append(record)
        if record.valid is not None and (not self.best or record.valid[monitor] > self.best[monitor]):
            self.best_epoch, self.best = record.epoch, record.valid
            self.best_weights = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, identity: Mapping[str, Any]
) -> None:
    """Write a checkpoint. Either the old or the new one exists at any time, even if the process is killed.

    Raises:
        StoreError: the file cannot be written (disk full, no permission). The old one stays, without partial files.
    """
    content = {
        "identity": dict(identity),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": [asdict(record) for record in state.history],
        "best_epoch": state.best_epoch,
        "best": state.best,
        "best_weights": state.best_weights,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            torch.save(content, handle)
            handle.flush()
            os.fsync(handle.fileno())
        put_in_place(temporary, path)
        fsync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        cause = _of_the_system(error)
        if cause is None:
            raise
        _discard(temporary)
        raise StoreError(_unwritten(path, content, cause)) from error
    finally:
        _discard(temporary)


def remove_partial(folder: Path) -> None:
    """Remove partial files that a killed run left in its folder; no other run may be working there."""
    for name in (CHECKPOINT, "record.json", "config.yaml", "log.jsonl", "metrics.json"):
        for path in folder.glob(f".{name}.*.tmp"):
            _discard(path)


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any]) -> State:
    """Load a checkpoint into model and optimiser and return the rest of its state.

    Raises:
        ConfigError: the file is damaged, belongs to another model, or has another identity, in which case the first
            difference is named.
    """
    content = _read(path)
    for name in content["identity"] | identity:
        found, value = content["identity"].get(name), identity.get(name)
        if found != value:
            raise ConfigError(
                f"{path}: {name} was {found!r}, now {value!r}; restore it, or delete {path} and train again"
            )
    _put(path, model, content["model"])
    optimizer.load_state_dict(content["optimizer"])
    history = [EpochRecord(**record) for record in content["history"]]
    return State(history, content["best_epoch"], content["best"], content["best_weights"])


def load_best(path: Path, model: nn.Module, *, without: str | None = None) -> int:
    """Load the weights of a checkpoint's best epoch into a freshly built model; return that epoch.

    Args:
        path: the checkpoint.
        model: the model.
        without: what the names of weights begin with that the model lacks, such as 'items.'; None: it has them all.

    Raises:
        ConfigError: the file is damaged or belongs to another model.
    """
    content = _read(path, mmap=True)  # the optimiser's numbers, two for each weight, stay on the disk
    weights = content["best_weights"]
    if without is not None:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(without)}
    _put(path, model, weights)
    return int(content["best_epoch"])


def _read(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        missing = {"identity", "model", "optimizer", "history", "best_epoch", "best", "best_weights"} - set(content)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; train the recipe into another folder") from error
    except PermissionError as error:
        raise ConfigError(f"cannot read {path} (permission denied); check its permissions") from error
    except Exception as error:  # torch raises many kinds, from zip files to unpickling
        why = _first_line(error)
        # The whole folder has to go: without its checkpoint alone, a finished run would still count as finished.
        raise ConfigError(
            f"{path} is not a readable checkpoint ({why}); delete the run folder and train again"
        ) from error
    if missing:
        lacks = ", ".join(sorted(missing))
        raise ConfigError(f"{path} is not a checkpoint of training: it lacks {lacks}; delete the run folder")
    return content


def _put(path: Path, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{path} holds weights of another model or item representation ({detail}); train into another folder"
        ) from error


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _of_the_system(error: BaseException | None) -> OSError | None:
    """Return the system's own error, which torch replaces by a RuntimeError about positions; None if there is none."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _unwritten(path: Path, content: Mapping[str, Any], error: OSError) -> str:
    needed = sum(tensor.nbytes for tensor in _tensors(content))
    try:
        free = f"{shutil.disk_usage(path.parent).free} are free"
    except OSError:
        free = "free space is unknown"
    room = f"it takes about {needed} bytes, {free}: make room, and the same command resumes from the last checkpoint"
    return f"cannot write {path} ({error.strerror or error}); {write_advice(error, room)}"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
