"""Vectors that were computed when a run ended, in place of the parts that computed them.

A run that keeps its vectors can rank without its encoders, activations, feature files and graph. A model that reads
histories keeps its item representation as a table (`KeptItems`). A model that knows users by number keeps both sides
(`KeptVectors`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.shared.recommender import Recommender, TrainingFacts, TrainOutput, UserBatch
from models.shared.representation import ItemRepresentation


class KeptItems(ItemRepresentation):
    """An item representation as the table of its vectors; it does not train."""

    vectors: Tensor  # (I, D)

    def __init__(self, vectors: Tensor) -> None:
        """Take the table (I, D) float32."""
        super().__init__(*vectors.shape)
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self, items: Tensor) -> Tensor:
        """Return the rows of items (n,) int64, (n, D)."""
        return self.vectors[items]

    def everything(self) -> Tensor:
        """Return the table itself."""
        return self.vectors

    def table(self) -> Tensor:
        """Return the table itself."""
        return self.vectors


class KeptVectors(Recommender):
    """A recommender as the tables of its user and item vectors; it does not train."""

    uses_items = False
    reads_history = False
    paper = "none: the vectors of a finished run"
    vectors: Tensor  # (I, D)

    def __init__(self, users: NDArray[np.float32], items: Tensor, facts: TrainingFacts) -> None:
        """Take user vectors (U, D), which may be mapped from a file and stay there, and item vectors (I, D)."""
        super().__init__(None, None, facts)
        self.register_buffer("vectors", items, persistent=False)
        self._users = users

    def forward(self, batch: Any) -> TrainOutput:  # noqa: ARG002 (it raises)
        """Raise ValueError: kept vectors do not train."""
        raise ValueError("kept vectors do not train; build the model itself")

    def user_vectors(self, batch: UserBatch) -> Tensor:
        """Return the users' rows, (B, D)."""
        return torch.from_numpy(self._users[batch.users.cpu().numpy()]).to(self.vectors.device)

    def item_vectors(self) -> Tensor:
        """Return the table of items."""
        return self.vectors
