"""GRCN: a graph of ids whose edges content weighs and prunes (Wei et al., ACM MM 2020, arXiv 2111.02036).

Content graph, one per modality: items are f = LeakyReLU(projected features) and users a learned preference p, all
scaled to length 1. `routings` times, p becomes unit(p + sum over the user's items of a f), where a is the softmax over
those items of p . f. Then attention runs along both directions of each edge: it is the softmax, over a node's
neighbours, of the inner product with each. The content vector of a node x is x + sum of a x' over its neighbours x'.

Graph refining: each modality gives an edge its attention times the confidence of the edge's source node in that
modality (learned, one number per node). The weight of the edge is the largest of these; negative weights are cut to 0.

ID graph: id vectors x of length 1 are propagated twice along the refined edges, and x + x1 + x2 is the node's id
vector.

Id and content vectors are joined as `items.fuse` says; 'concat' is the paper's. The learned part of the item
representation gives the items' id vectors. Every other part is a modality, and its projection is the first linear map.
Kind 'id' has the ID graph alone; without content the attention is 1 / degree ("GRCN_ID"). Kinds 'v' and 'dnn' have no
id vectors of items: there an item's id vector starts at zero and receives its users' vectors.

Deviations: in the authors' code (weiyinwei/GRCN) and its port in MMRec, edges point from users to items while routing,
so no user receives anything and p never moves; `routings: 0` is what runs there. Confidences start at 1 (there:
xavier-normal, near 0 and half of them negative; with one modality the cut leaves no gradient that could bring those
back). On a content graph a node without edges is its own neighbour, as in mmgcn.py. `reg` is on the id vectors and
preferences of the batch. Vectors shorter than 0.01 are divided by 0.01, not by their length. Repeated interactions are
one edge. The optimiser is AdamW.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.items.build import ItemRepresentation, LearnedItems
from models.shared.graphs.graph import GraphRecommender, Pair, distinct_edges, fuse_of, join, sum_of_powers, unit
from models.shared.graphs.sparse import Adjacency
from models.shared.objective import Loss
from models.shared.pairwise import PairConfig
from models.shared.recommender import TrainingFacts


@dataclass(frozen=True)
class Config(PairConfig):
    """Options of GRCN; the width D is that of the item representation."""

    loss: Loss = "bpr"
    cold_negatives: bool = False
    routings: int = 3
    """Rounds in which a user's preference moves towards the items the user has met."""
    layers: int = 2
    """Number of propagations on the ID graph."""
    prune: bool = True
    """Whether negative edge weights are cut to 0."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if min(self.routings, self.layers) < 0:
            raise ValueError(f"grcn: routings {self.routings} and layers {self.layers} must be >= 0")


class GRCN(GraphRecommender):
    """Propagation of id vectors along edges that the content graphs weigh."""

    config_class = Config
    fuses = ("sum", "concat", "mean")
    paper = "Wei et al., ACM MM 2020, arXiv 2111.02036"

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        self.fuse = fuse_of(items, self.fuses)
        users, met = distinct_edges(facts)
        self.to_users = Adjacency(users, met, facts.n_users, facts.n_items)
        self.to_items = Adjacency(met, users, facts.n_items, facts.n_users)
        dim, modalities = items.parts[0].dim, self._modalities()
        self.users = nn.Embedding(facts.n_users, dim)
        self.preferences = nn.ParameterList([nn.Parameter(torch.empty(facts.n_users, dim)) for _ in modalities])
        for table in (self.users.weight, *self.preferences):
            nn.init.xavier_normal_(table)
        self.confidence = nn.ParameterList(
            [nn.Parameter(torch.ones(facts.n_users + facts.n_items)) for _ in modalities]
        )

    def _learned(self) -> list[ItemRepresentation]:
        return [part for part in self.items.parts if isinstance(part, LearnedItems)]

    def _modalities(self) -> list[ItemRepresentation]:
        return [part for part in self.items.parts if not isinstance(part, LearnedItems)]

    def propagate(self, users: Tensor | None, items: Tensor | None) -> Pair:
        """Return the joined id and content vectors of users and of items."""
        contents, attentions = [], []
        for part, preference in zip(self._modalities(), self.preferences, strict=True):
            vectors, attention = self._content(preference, part.everything())
            contents.append(vectors)
            attentions.append(attention)
        ids = self._ids(self._refined(attentions), users, items)
        of_users = [pair[0] if users is None else pair[0].index_select(0, users) for pair in contents]
        of_items = [pair[1] if items is None else pair[1].index_select(0, items) for pair in contents]
        return join([ids[0], *of_users], self.fuse), join([ids[1], *of_items], self.fuse)

    def _content(self, preference: Tensor, features: Tensor) -> tuple[Pair, Pair]:
        """Return content vectors of users and items, and the attention of the edges into users and into items."""
        users, items = unit(preference), unit(functional.leaky_relu(features))
        for _ in range(self.config.routings):
            users = unit(users + self.to_users(items, self._attention(self.to_users, users, items)))
        attention = self._attention(self.to_users, users, items), self._attention(self.to_items, items, users)
        around = self.to_users(items, attention[0]), self.to_items(users, attention[1])
        return (
            users + _or_own(around[0], users, self.to_users),
            items + _or_own(around[1], items, self.to_items),
        ), attention

    def _attention(self, edges: Adjacency, rows: Tensor, columns: Tensor) -> Tensor:
        return edges.softmax(edges.dots(rows, columns))  # inner products within [-1, 1], safe for exp()

    def _refined(self, attentions: list[Pair]) -> Pair:
        """Return the weights of the edges into users and into items."""
        if not attentions:
            return self.to_users.mean(), self.to_items.mean()
        n_users = self.facts.n_users
        into_users, into_items = [], []
        for (to_users, to_items), confidence in zip(attentions, self.confidence, strict=True):
            into_users.append(to_users * confidence[n_users:][self.to_users.columns])
            into_items.append(to_items * confidence[:n_users][self.to_items.columns])
        pair = torch.stack(into_users).amax(0), torch.stack(into_items).amax(0)
        return (pair[0].relu(), pair[1].relu()) if self.config.prune else pair

    def _ids(self, weights: Pair, users: Tensor | None, items: Tensor | None) -> Pair:
        """Return the id vectors of users (n,) and items (m,), each the sum of all layers; None = all."""
        table = self.users.weight
        blank = table.new_zeros(self.facts.n_items, table.shape[1])
        first = unit(table), unit(sum((part.everything() for part in self._learned()), blank))
        return sum_of_powers(first, (self.to_users, self.to_items), weights, self.config.layers, (users, items))

    def punished(self, users: Tensor, items: Tensor, encoded: Pair) -> Pair:  # noqa: ARG002
        """Return the id vectors and the users' preferences, before they are scaled to length 1."""
        of_items = [part(items) for part in self._learned()]
        preferences = [preference[users] for preference in self.preferences]
        blank = self.users.weight.new_zeros(len(items), 0)
        return torch.cat([self.users(users), *preferences], dim=1), torch.cat([blank, *of_items], dim=1)


def _or_own(around: Tensor, own: Tensor, edges: Adjacency) -> Tensor:
    """Return what nodes received from their neighbours, or their own vectors where they have none."""
    return torch.where((edges.offsets.diff() > 0)[:, None], around, own)


MODEL = GRCN
