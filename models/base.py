"""The contract between recommenders and everything around them.

Letters: B batch, L history length, D model width, U users, I items. There is no padding id: padded slots hold item 0
and a False in the mask. Histories are padded on the left, so the newest item is always in the last slot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from models.items import ItemRepresentation


@dataclass(frozen=True)
class TrainBatch:
    """Windows of training sequences.

    Attributes:
        users: (B,) int64.
        items: (B, L + 1) int64, oldest first; slots 0..L-1 are inputs, slots 1..L their targets.
        mask: (B, L + 1) bool, True where a slot is real. Real slots are contiguous and end in the last slot.
    """

    users: Tensor
    items: Tensor
    mask: Tensor


@dataclass(frozen=True)
class UserBatch:
    """Users to score, by their histories.

    Attributes:
        users: (B,) int64.
        items: (B, L) int64, oldest first.
        mask: (B, L) bool, True where a slot is real.
    """

    users: Tensor
    items: Tensor
    mask: Tensor


@dataclass(frozen=True)
class TrainOutput:
    """What one training step returns.

    Attributes:
        loss: () float32, mean over the predicted positions, with graph.
        positions: how many positions the mean ran over.
    """

    loss: Tensor
    positions: int


@dataclass(frozen=True)
class TrainingFacts:
    """What a recommender may know of the training part; never of validation or test.

    Attributes:
        n_users: U.
        n_items: I.
        item_counts: (I,) int64, occurrences of each item in the training part.
    """

    n_users: int
    n_items: int
    item_counts: Tensor


class Recommender(nn.Module, ABC):
    """A recommender: score = inner product of a user vector and an item vector.

    A model file holds a frozen dataclass `Config`, the subclass with `config_class = Config`, and
    `MODEL = TheSubclass`; that is all its registration. It never knows where item vectors come from.
    """

    config_class: ClassVar[type]
    uses_items: ClassVar[bool] = True  # False: the model has no item representation (popularity)
    items: ItemRepresentation  # absent where uses_items is False

    def __init__(self, config: Any, items: ItemRepresentation | None, facts: TrainingFacts) -> None:
        super().__init__()
        self.config = config
        if items is not None:
            self.items = items
        self.facts = facts

    @abstractmethod
    def forward(self, batch: TrainBatch) -> TrainOutput:
        """Return the training loss of a batch."""

    @abstractmethod
    def user_vectors(self, batch: UserBatch) -> Tensor:
        """Return (B, D) float32 vectors of the users after their histories."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """Return (I, D) float32 vectors of all items."""
