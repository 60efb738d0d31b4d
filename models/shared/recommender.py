"""The contract between recommenders and everything around them.

Letters: B batch, L history length, D model width, U users, I items, E interactions. There is no padding id: padded
slots hold item 0 and a False in the mask. Histories are padded on the left, so the newest item is always in the last
slot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from models.shared.host_copy import map_tensors, sent
from models.shared.representation import Fuse, ItemRepresentation, Kind

KINDS = get_args(Kind)  # kinds of item representations
FUSES = get_args(Fuse)  # ways to fuse their parts


@dataclass(frozen=True)
class TrainBatch:
    """Windows of training sequences."""

    users: Tensor
    """User of each window, (B,) int64."""
    items: Tensor
    """Items of each window, (B, L + 1) int64, oldest first; slots 0..L-1 are inputs, slots 1..L their targets."""
    mask: Tensor
    """True where a slot is real, (B, L + 1) bool. Real slots are contiguous and end in the last slot."""
    plan: Any = None
    """What the model's `plan` gives for this batch; None: the model makes it when it needs it."""


@dataclass(frozen=True)
class PairBatch:
    """Training interactions, one by one."""

    users: Tensor
    """User of each interaction, (B,) int64."""
    items: Tensor
    """Item of each interaction, (B,) int64."""
    plan: Any = None
    """What the model's `plan` gives for this batch; None: the model makes it when it needs it."""


@dataclass(frozen=True)
class UserBatch:
    """Users to score, with their histories."""

    users: Tensor
    """User of each history, (B,) int64."""
    items: Tensor
    """Histories, (B, L) int64, oldest first."""
    mask: Tensor
    """True where a slot is real, (B, L) bool."""


@dataclass(frozen=True)
class TrainOutput:
    """What one training step returns."""

    loss: Tensor
    """Mean over the predicted positions, () float32, with gradients; includes any regularisation term."""
    positions: int
    """Number of positions (or pairs) in the mean."""


@dataclass(frozen=True)
class TrainingFacts:
    """What a recommender may know of the training part; never of validation or test."""

    n_users: int
    """Number of users, U."""
    n_items: int
    """Number of items, I."""
    item_counts: Tensor
    """Occurrences of each item in the training part, (I,) int64."""
    edges: Tensor
    """User and item of every training interaction, (2, E) int64, in any order."""


class Recommender(nn.Module, ABC):
    """A recommender: score = inner product of a user vector and an item vector.

    A model file holds a frozen dataclass `Config`, the subclass with `config_class = Config` and its `paper`, and
    `MODEL = TheSubclass`; nothing else registers it. It never knows where item vectors come from.

    The few models whose score is no inner product set `inner_product = False`, implement `scores`, and raise in
    `user_vectors` and `item_vectors` (as `NoInnerProduct` does); retrieval refuses them.
    """

    config_class: ClassVar[type]
    uses_items: ClassVar[bool] = True  # False: the model has no item representation (popularity)
    trains_on: ClassVar[Literal["windows", "pairs"]] = "windows"  # `forward` takes a TrainBatch, or a PairBatch
    reads_history: ClassVar[bool] = True  # False: a user is known by number alone
    inner_product: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = KINDS  # the item representations (`items.kind`) it can work with
    refuses_towers: ClassVar[str] = ""  # why it cannot work with encoders that train (kinds 'top' and 'e2e')
    fuses: ClassVar[tuple[str, ...]] = FUSES  # the ways to fuse their parts (`items.fuse`) it can work with
    paper: ClassVar[str]  # authors, venue and arXiv number
    items: ItemRepresentation  # absent where uses_items is False

    def __init__(self, config: Any, items: ItemRepresentation | None, facts: TrainingFacts) -> None:
        super().__init__()
        self.config = config
        if items is not None:
            self.items = items
        self.facts = facts

    @abstractmethod
    def forward(self, batch: Any) -> TrainOutput:
        """Return the training loss of a batch of the kind that `trains_on` names."""

    def plan(self, batch: Any) -> Any:  # noqa: ARG002 (a model may need none)
        """Return what whole numbers alone decide in a step, as a dataclass of tensors; None if there is nothing.

        It takes a batch on the CPU and computes there, negatives drawn included. Training does so for the next batch
        while the device computes: sizes that depend on the data would make the host wait for the device.
        """
        return None

    def planned(self, batch: Any) -> Any:
        """Return a batch's plan, on the batch's device; make it where the batch comes without."""
        if batch.plan is not None:
            return batch.plan
        plan = self.plan(map_tensors(batch, lambda tensor: tensor.cpu()))
        return map_tensors(plan, lambda tensor: sent(tensor, batch.users.device))

    @abstractmethod
    def user_vectors(self, batch: UserBatch) -> Tensor:
        """Return (B, D) float32 vectors of the users after their histories."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """Return (I, D) float32 vectors of all items."""

    def scores(self, batch: UserBatch) -> Tensor:
        """Return (B, I) float32 scores of all items."""
        return self.user_vectors(batch) @ self.item_vectors().T


class NoInnerProduct(Recommender):
    """A recommender whose score of a user and an item is no inner product: it can rank items, but no index can find
    them."""

    inner_product = False

    @abstractmethod
    def scores(self, batch: UserBatch) -> Tensor:
        """Return (B, I) float32 scores of all items."""

    def user_vectors(self, batch: UserBatch) -> Tensor:  # noqa: ARG002 (there are none)
        """Raise ValueError: there are no vectors whose inner product is the score."""
        raise ValueError(f"{type(self).__name__} has no user vectors: its score is no inner product; use scores()")

    def item_vectors(self) -> Tensor:
        """Raise ValueError: there are no vectors whose inner product is the score."""
        raise ValueError(f"{type(self).__name__} has no item vectors: its score is no inner product; use scores()")


class UserItems:
    """The items that each user has met (interacted with) in training: the one thing negatives are checked against.

    It stays on the CPU, where batches are planned.
    """

    offsets: Tensor  # (U + 1,)
    items: Tensor  # (E',) user after user, the distinct items of each, ascending

    def __init__(self, facts: TrainingFacts) -> None:
        self.n_users, self.n_items = facts.n_users, facts.n_items
        keys = torch.unique(facts.edges[0] * facts.n_items + facts.edges[1])  # sorted
        users = torch.div(keys, facts.n_items, rounding_mode="floor")
        counts = torch.bincount(users, minlength=facts.n_users)
        self.offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.items = keys - users * facts.n_items

    def of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return every pair of a user and an item met: the row in `users` (n,) and the item, (m,) each."""
        starts, counts = self.offsets[users], self.offsets[users + 1] - self.offsets[users]
        total = int(counts.sum())
        rows = torch.repeat_interleave(counts, output_size=total)
        within = torch.arange(total) - (counts.cumsum(0) - counts)[rows]
        return rows, self.items[starts[rows] + within]
