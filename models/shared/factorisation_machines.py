"""What NFM and DeepFM share: a network that scores a history together with one candidate.

Letters: B batch, L history length, D model width, I items, Q rows (one target each), C candidates, N drawn negatives.

The fields are the items of the history and the candidate. All come from one table, and there is no user number, as in
the benchmark MicroLens (arXiv 2309.15379; the models' own papers have fields of any kind). The score is no inner
product.

Each item of a window is a target once. `history` says what its row shows beside it. 'past', the default, shows what
came before, as when users are ranked. 'all', the benchmark's, shows all other items of the window: rows are longer and
the first item has one, too, but most rows have seen the future.
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
from models.shared.training_rows import History, plan_rows

CELLS_CPU = 2**18  # floats of a layer held at a time when all items are scored; so many stay in the cache
CELLS_GPU = 2**27

Parts = tuple[Tensor, ...]


@dataclass(frozen=True)
class FieldConfig(SequentialConfig):
    """Options of recommenders on fields, beside those of sequential ones."""

    history: History = "past"
    """Which items of its window a training row shows beside its target: the 'past' ones or 'all' others."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden layers, each followed by ReLU; may be empty."""
    dropout: float = 0.0
    """Dropout after each hidden layer, in [0, 1)."""
    linear: bool = True
    """Whether there is a first-order term. The weight of an item is a linear map of its vector, not a number of its
    own, so that items known by content alone have one."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if self.history not in ("past", "all"):
            raise ValueError(f"history is {self.history!r}; known: past, all")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden is {list(self.hidden)}; every width must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1)")
        if self.loss == "full":
            raise ValueError(
                "loss is 'full', for which this model would run its network on every pair of a row and an item; "
                "use 'in-batch' with few windows per batch, or 'sampled'"
            )


class FieldRecommender(NoInnerProduct):
    """A recommender that a subclass defines by `of_history`, `of_candidates` and `logits`."""

    def __init__(self, config: Any, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        self.objective = Objective(config, facts)
        self.weight = nn.Linear(items.dim, 1, bias=False) if config.linear else None

    @abstractmethod
    def of_history(self, vectors: Tensor) -> Parts:
        """Return what scores need of histories (Q, L, D), zero in padded slots; each tensor is (Q, ...)."""

    @abstractmethod
    def of_candidates(self, vectors: Tensor) -> Parts:
        """Return what scores need of candidates (Q or 1, C, D); each tensor is (Q or 1, C, ...)."""

    @abstractmethod
    def logits(self, history: Parts, candidates: Parts) -> Tensor:
        """Return (Q, C) scores; candidates with 1 row are those of all histories."""

    def first_order(self, vectors: Tensor) -> Tensor:
        """Return the first-order terms (...) of vectors (..., D); zeros where `linear` is False."""
        return vectors.new_zeros(vectors.shape[:-1]) if self.weight is None else self.weight(vectors).squeeze(-1)

    def plan(self, batch: TrainBatch) -> Any:
        """Return the plan of a batch on the CPU; negatives are drawn here."""
        return plan_rows(batch, self.config.history, self.objective)

    def forward(self, batch: TrainBatch) -> TrainOutput:
        """Return the loss over all rows: each target against the other items."""
        plan = self.planned(batch)
        needed, labels = plan.needed, plan.labels
        vectors = self.items(needed.items)
        history = self.of_history(vectors[plan.seen] * plan.mask[:, :, None])
        candidates = vectors[None]
        if needed.negatives is not None:
            candidates = vectors[torch.cat([labels[:, None], needed.negatives], dim=1)]
        scores = self.logits(history, self.of_candidates(candidates))
        return TrainOutput(self.objective.of_scores(scores, labels, needed), len(labels))

    @torch.no_grad()
    def scores(self, batch: UserBatch) -> Tensor:
        """Return (B, I) scores as at inference, computed in chunks of bounded size; keep the training mode."""
        length, most = batch.mask.shape[1], self.config.max_length
        if length > most:
            raise ValueError(f"histories have {length} items, but max_length is {most}; keep the newest {most}")
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
    """Return the sum over slots of (Q, L, D), and the sum of the products of all pairs of slots, (Q, D) each.

    sum over a < b of x_a * x_b = ((sum of x)^2 - sum of x^2) / 2 (Rendle, ICDM 2010, lemma 3.1), which is linear in L.
    """
    total = vectors.sum(1)
    return total, 0.5 * (total.square() - vectors.square().sum(1))
