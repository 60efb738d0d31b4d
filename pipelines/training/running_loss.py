"""The losses of an epoch: added up on the CPU, in float64, whatever the device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from features.errors import ConfigError
from models.shared.recommender import TrainOutput


class RunningLoss:
    """The losses of an epoch's steps. They stay on the device until some have gathered, and are then read at once.

    Args:
        epoch: number of the epoch, for messages.
        steps: steps of the epoch, for messages.
        every: how many losses are read at once; 1 reads each before its backward pass.
        advice: returns what to do about one that is not finite.
    """

    def __init__(self, epoch: int, steps: int, every: int, advice: Callable[[], str]) -> None:
        self._epoch, self._steps, self._every, self._advice = epoch, steps, every, advice
        self._waiting: list[Tensor] = []
        self._counts: list[int] = []
        self._total, self._positions, self._seen = 0.0, 0, 0

    def add(self, output: TrainOutput) -> None:
        """Take a step's loss; ConfigError, which names the step, if one of those read now is not finite."""
        self._waiting.append(output.loss.detach())
        self._counts.append(output.positions)
        if len(self._waiting) == self._every:
            self._look()

    def mean(self) -> float:
        """Return the mean loss per position; ConfigError as `add` raises it."""
        self._look()
        return self._total / max(self._positions, 1)

    def _look(self) -> None:
        losses = torch.stack(self._waiting).tolist() if self._waiting else []
        for loss, count in zip(losses, self._counts, strict=True):
            self._seen += 1
            if not math.isfinite(loss):
                place = f"epoch {self._epoch}, step {self._seen} of {self._steps}"
                raise ConfigError(f"loss is {loss} at {place}; {self._advice()}")
            self._total, self._positions = self._total + loss * count, self._positions + count
        self._waiting, self._counts = [], []
