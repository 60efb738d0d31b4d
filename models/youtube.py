"""YouTube's candidate generator: a tower over the mean of the history (Covington et al., RecSys 2016).

From the paper: the vectors of the items watched are averaged (section 3.1); the tower has layers of rectified units,
each half as wide as the one below (section 3.2; the paper's have 1024, 512, 256); the user vector is searched by inner
product (sections 3.1 and 3.4).

Deviations from the paper: there are no search terms, age or demography; input and output share the item vectors; the
losses are those of this package (there: a sampled softmax).

The benchmark MicroLens (arXiv 2309.15379) has no tower (here `layers: 0`: the user is the mean) and trains every item
of a sequence from all others (here `history: all`), as an older build of its code shows; the published code lacks the
model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor, nn

from models.shared.recommender import TrainBatch, TrainingFacts, TrainOutput
from models.shared.representation import ItemRepresentation
from models.shared.sequential import SequentialConfig, SequentialRecommender
from models.shared.training_rows import History, plan_rows


@dataclass(frozen=True)
class Config(SequentialConfig):
    """Options of YouTube; the width D is that of the item representation."""

    layers: int = 1
    """Number of layers in the tower. The last is D wide, each below it twice as wide as the next. 0: the user is the
    mean itself."""
    dropout: float = 0.1
    """Dropout before each layer, in [0, 1)."""
    history: History = "past"
    """Which items of its window predict a target in training: the 'past' ones or 'all' others."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if self.layers < 0 or not 0 <= self.dropout < 1:
            raise ValueError(f"youtube: layers {self.layers} must be >= 0 and dropout {self.dropout} in [0, 1)")
        if self.history not in get_args(History):
            raise ValueError(f"youtube: history is {self.history!r}; known: {', '.join(get_args(History))}")


class YouTube(SequentialRecommender):
    """A tower over the mean of the history's item vectors."""

    config_class = Config
    paper = "Covington et al., RecSys 2016"

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        widths = [items.dim * 2 ** (config.layers - layer) for layer in range(1, config.layers + 1)]
        blocks: list[nn.Module] = []
        for inner, outer in zip([items.dim, *widths], widths, strict=False):
            blocks += [nn.Dropout(config.dropout), nn.Linear(inner, outer), nn.ReLU()]
        self.tower = nn.Sequential(*blocks)
        for layer in self.tower:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def encode(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return (B, L, D): for each slot, the tower's output for the mean of the items up to it."""
        counts = mask.cumsum(1).clamp(min=1)[:, :, None]
        states: Tensor = self.tower(vectors.cumsum(1) / counts)
        return states

    def plan(self, batch: TrainBatch) -> Any:
        """Return the plan of a batch on the CPU; negatives are drawn here."""
        return super().plan(batch) if self.config.history == "past" else plan_rows(batch, "all", self.objective)

    def forward(self, batch: TrainBatch) -> TrainOutput:
        """Return the loss over all targets."""
        if self.config.history == "past":
            return super().forward(batch)
        plan = self.planned(batch)
        vectors = self.items(plan.needed.items)
        told = vectors[plan.seen] * plan.mask[:, :, None]
        states = self.tower(told.sum(1) / plan.mask.sum(1, keepdim=True))
        return TrainOutput(self.objective(states, vectors, plan.labels, plan.needed), len(plan.labels))


MODEL = YouTube
