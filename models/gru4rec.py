"""GRU4Rec: a recurrent network over the history (Hidasi et al., ICLR 2016, arXiv 1511.06939).

From section 3.1 of the paper: gated recurrent units (equations 1 to 4), dropout, one or more layers. Defaults follow
the benchmark MicroLens (arXiv 2309.15379, released code): one layer without biases, whose hidden state itself meets the
item vectors.

Deviations from the paper: input and output share the item vectors (there: 1-of-N inputs and another output matrix);
every position of a window is trained at once (there: session-parallel mini-batches); the losses are those of this
package.

Deviation from MicroLens, which feeds padded slots as items: here they leave the state at zero (a unit without biases
keeps 0 under input 0), so padding changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from models.shared.recommender import TrainingFacts
from models.shared.representation import ItemRepresentation
from models.shared.sequential import SequentialConfig, SequentialRecommender


@dataclass(frozen=True)
class Config(SequentialConfig):
    """Options of GRU4Rec; the width D is that of the item representation."""

    layers: int = 1
    """Number of recurrent layers."""
    hidden: int | None = None
    """Width of the recurrent layers; None = D. Any other width adds a linear map back to D."""
    dropout: float = 0.1
    """Dropout on the item vectors and between layers, in [0, 1)."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if self.layers < 1 or (self.hidden is not None and self.hidden < 1):
            raise ValueError(f"gru4rec: layers {self.layers} and hidden {self.hidden} must be >= 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"gru4rec: dropout is {self.dropout}; it must be in [0, 1)")


class GRU4Rec(SequentialRecommender):
    """Gated recurrent units over the history."""

    config_class = Config
    paper = "Hidasi et al., ICLR 2016, arXiv 1511.06939"

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        width = config.hidden or items.dim
        between = config.dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(items.dim, width, config.layers, bias=False, batch_first=True, dropout=between)
        for name, weight in self.gru.named_parameters():
            start = nn.init.xavier_uniform_ if name.startswith("weight_ih") else nn.init.orthogonal_
            for gate in weight.chunk(3):
                start(gate)
        self.back = nn.Linear(width, items.dim, bias=False) if width != items.dim else None

    def encode(self, vectors: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002 (padded slots hold zeros)
        """Return (B, L, D) hidden states."""
        states: Tensor = self.gru(functional.dropout(vectors, self.config.dropout, self.training))[0]
        return states if self.back is None else self.back(states)


MODEL = GRU4Rec
