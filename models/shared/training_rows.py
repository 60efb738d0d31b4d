"""Training rows of models that read a history as a bag or a list: one target each, and the items that predict it.

Letters: B windows, S slots of a window, Q rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.shared.objective import Candidates, Objective
from models.shared.recommender import TrainBatch

History = Literal["past", "all"]


@dataclass(frozen=True)
class Rows:
    """The training rows of a batch of windows."""

    windows: Tensor
    """Window of each row, (Q,) int64."""
    targets: Tensor
    """Slot of each row's target, (Q,) int64."""
    slots: Tensor
    """Slots of each row's history, (Q, S - 1) int64, oldest first; 0 where there is none."""
    mask: Tensor
    """True where there is a slot, (Q, S - 1) bool. Real ones end in the last column."""


@dataclass(frozen=True)
class RowPlan:
    """What whole numbers decide in a step over training rows."""

    needed: Candidates
    """Items whose vectors the batch needs."""
    labels: Tensor
    """Where each row's target stands in `needed.items`, (Q,) int64."""
    seen: Tensor
    """Where the items of each row's history stand there, (Q, S - 1) int64; any number where there is none."""
    mask: Tensor
    """True where there is one, (Q, S - 1) bool."""


def plan_rows(batch: TrainBatch, history: History, objective: Objective) -> RowPlan:
    """Return the plan of a batch of windows on the CPU; negatives are drawn here."""
    rows = training_rows(batch.mask, history)
    needed = objective.candidates(batch.items, batch.mask, batch.users[rows.windows])
    labels = needed.slots[rows.windows, rows.targets]
    return RowPlan(needed, labels, needed.slots[rows.windows[:, None], rows.slots], rows.mask)


def training_rows(mask: Tensor, history: History) -> Rows:
    """Return a row for every real slot that has a history.

    'past' takes the earlier items of the window, as at inference. 'all' takes all its other items, later ones too, as
    the code of MicroLens (arXiv 2309.15379) does for YouTube, NFM and DeepFM.

    Args:
        mask: (B, S) bool, True where a slot is real; real slots end in the last one.
        history: which items predict a target.
    """
    size = mask.shape[1]
    columns = torch.arange(size - 1, device=mask.device)
    targets = torch.arange(size, device=mask.device)[:, None]
    # the history of target j: slots j - S + 1 .. j - 1, or all but j
    slots = targets - size + 1 + columns if history == "past" else columns + (columns >= targets)
    there = mask[:, slots.clamp(min=0)] & (slots >= 0)  # (B, S, S - 1)
    windows, places = (mask & there.any(2)).nonzero(as_tuple=True)
    mine = there[windows, places]
    return Rows(windows, places, slots[places].masked_fill(~mine, 0), mine)
