"""What recommenders share that put the history and one candidate through a network: NFM, DeepFM.

Letters: B batch, L history length, D model width, I items, Q rows (one target each), C candidates, N drawn negatives.

The fields are the items of the history and the candidate, all from one table, and no user number, as in the benchmark
MicroLens (arXiv 2309.15379; its papers have fields of any kind). The score is no inner product.

Each item of a window is a target once. `history` says what its row shows beside it: 'past', the default, what came
before, as it is when users are ranked; 'all', the benchmark's, all other items of the window, so that rows are longer
and the first item has one, too, but most have seen the future.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.shared.objective import Objective
from models.shared.recommender import NoInnerProduct, TrainBatch, TrainingFacts, TrainOutput, UserBatch
from models.shared.representation import ItemRepresentation
from models.shared.sequential import SequentialConfig
from models.shared.training_rows import History, training_rows

CELLS_CPU = 2**18  # floats of a layer held at a time when all items are scored: stays in the cache
CELLS_GPU = 2**27

Parts = tuple[Tensor, ...]


@dataclass(frozen=True)
class FieldConfig(SequentialConfig):
    """Options of recommenders on fields: those of sequential ones, and"""

    history: History = "past"
    """What a training row shows beside its target: 'past' or 'all'."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden layers, each followed by ReLU; may be none."""
    dropout: float = 0.0
    """After each hidden layer, in [0, 1)."""
    linear: bool = True
    """The first-order term. The weight of an item is a linear map of its vector, not a number of its own, so that items
    known by content alone have one."""

    def __post_init__(self) -> None:
        """Refuse values no such recommender can have."""
        super().__post_init__()
        if self.history not in ("past", "all"):
            raise ValueError(f"history is {self.history!r}; known: past, all")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden is {list(self.hidden)}; every width must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1)")
        if self.loss == "full":
            raise ValueError(
                "loss is 'full', which this model would need a network's layers of every row and item for; "
                "use 'in-batch' with few windows per batch, or 'sampled'"
            )


class FieldRecommender(NoInnerProduct):
    """A recommender that is `of_history`, `of_candidates` and `logits`."""

    def __init__(self, config: Any, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        self.objective = Objective(config, facts)
        self.weight = nn.Linear(items.dim, 1, bias=False) if config.linear else None

    @abstractmethod
    def of_history(self, vectors: Tensor) -> Parts:
        """Return what scores need of histories (Q, L, D), zero in padded slots: (Q, ...) each."""

    @abstractmethod
    def of_candidates(self, vectors: Tensor) -> Parts:
        """Return what scores need of candidates (Q or 1, C, D): (Q or 1, C, ...) each."""

    @abstractmethod
    def logits(self, history: Parts, candidates: Parts) -> Tensor:
        """Return (Q, C) scores; candidates of 1 row are those of all histories."""

    def first_order(self, vectors: Tensor) -> Tensor:
        """Return the first-order term of vectors (..., D), without the last axis; zeros where there is none."""
        return vectors.new_zeros(vectors.shape[:-1]) if self.weight is None else self.weight(vectors).squeeze(-1)

    def forward(self, batch: TrainBatch) -> TrainOutput:
        """Return the loss over all rows: the target against the other items."""
        rows = training_rows(batch.mask, self.config.history)
        users = batch.users[rows.windows]
        needed = self.objective.candidates(batch.items, batch.mask, users)
        vectors = self.items(needed.items)
        labels = needed.slots[rows.windows, rows.targets]
        seen = needed.slots[rows.windows[:, None], rows.slots]
        history = self.of_history(vectors[seen] * rows.mask[:, :, None])
        candidates = vectors[None]
        if needed.negatives is not None:
            candidates = vectors[torch.cat([labels[:, None], needed.negatives], dim=1)]
        scores = self.logits(history, self.of_candidates(candidates))
        return TrainOutput(self.objective.of_scores(scores, labels, users, needed), len(labels))

    @torch.no_grad()
    def scores(self, batch: UserBatch) -> Tensor:
        """Return (B, I) scores as at inference, made in chunks of bounded size; training mode is kept."""
        if batch.mask.shape[1] > self.config.max_length:
            raise ValueError(f"histories of {batch.mask.shape[1]} items; max_length is {self.config.max_length}")
        training = self.training
        self.eval()
        try:
            return self._scores(batch)
        finally:
            self.train(training)

    def _scores(self, batch: UserBatch) -> Tensor:
        table = self.items.table()
        history = self.of_history(table[batch.items] * batch.mask[:, :, None])
        out = table.new_empty(len(batch.users), len(table))
        cells = CELLS_CPU if table.device.type == "cpu" else CELLS_GPU
        pairs = max(cells // max(table.shape[1], *self.config.hidden, 1), 1)
        for start in range(0, len(table), pairs):
            candidates = self.of_candidates(table[None, start : start + pairs])
            count = candidates[0].shape[1]
            step = max(pairs // count, 1)
            for first in range(0, len(out), step):
                part = tuple(tensor[first : first + step] for tensor in history)
                out[first : first + step, start : start + count] = self.logits(part, candidates)
        return out


def interactions(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return of (Q, L, D) the sum over slots (Q, D), and that of the products of all pairs of slots (Q, D).

    sum over a < b of x_a * x_b = ((sum of x)^2 - sum of x^2) / 2 (Rendle, ICDM 2010, lemma 3.1): linear in L.
    """
    total = vectors.sum(1)
    return total, 0.5 * (total.square() - vectors.square().sum(1))
