"""LightGCN: propagation without weights (He et al., SIGIR 2020, arXiv 2002.02126).

Equation 3 of the paper: e_u^(k+1) = sum over the items i of u of e_i^(k) / sqrt(degree of u * degree of i), and the
same for items. Equation 4 and section 3.1.2: the vector of a node is the mean of its layers 0 to K. Equation 15: BPR,
with `reg` on layer 0 of the users and items of the batch, drawn negatives included, as in the authors' code. Layer 0 of
an item is the item representation, so with content an item nobody has met keeps 1 / (K + 1) of it.

Deviations from the paper: AdamW instead of Adam; repeated interactions are one edge. The benchmark MicroLens (arXiv
2309.15379, released code) trains with `loss: in-batch`, `layers: 1` and no `reg`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.shared.graphs.graph import GraphRecommender, distinct_edges, sum_of_powers
from models.shared.graphs.sparse import Adjacency
from models.shared.objective import Loss
from models.shared.pairwise import PairConfig
from models.shared.recommender import TrainingFacts
from models.shared.representation import ItemRepresentation


@dataclass(frozen=True)
class Config(PairConfig):
    """Options of LightGCN; the width D is that of the item representation."""

    loss: Loss = "bpr"
    reg: float = 1e-4
    layers: int = 3
    """Number of propagations, K; 0 is matrix factorisation."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if self.layers < 0:
            raise ValueError(f"lightgcn: layers is {self.layers}; it must be at least 0")


class LightGCN(GraphRecommender):
    """The mean of layers 0 to K on the symmetrically normalised graph."""

    config_class = Config
    paper = "He et al., SIGIR 2020, arXiv 2002.02126"
    weights: Tensor  # (E,) entries of to_users
    weights_t: Tensor  # (E,) entries of to_items

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        users, met = distinct_edges(facts)
        self.to_users = Adjacency(users, met, facts.n_users, facts.n_items)
        self.to_items = Adjacency(met, users, facts.n_items, facts.n_users)
        self.register_buffer("weights", self.to_users.symmetric(), persistent=False)
        self.register_buffer("weights_t", self.to_items.symmetric(), persistent=False)
        self.users = nn.Embedding(facts.n_users, items.dim)
        nn.init.xavier_uniform_(self.users.weight)

    def propagate(self, users: Tensor | None, items: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the means of the layers, for users and for items."""
        first = self.users.weight, self.items.everything()
        edges, weights = (self.to_users, self.to_items), (self.weights, self.weights_t)
        of_users, of_items = sum_of_powers(first, edges, weights, self.config.layers, (users, items))
        share = 1 / (self.config.layers + 1)
        return of_users * share, of_items * share

    def punished(self, users: Tensor, items: Tensor, encoded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the vectors of layer 0."""
        return self.users(users), self.items(items)


MODEL = LightGCN
