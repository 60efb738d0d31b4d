"""MMGCN: a graph convolution per modality (Wei et al., ACM MM 2019, doi 10.1145/3343031.3351034).

Each modality m has a branch. In it, x is the vector of a user or an item, and x_id its id vector. The equations of the
paper and of the authors' code (weiyinwei/MMGCN):

    x^(0) = [preference of the user; projected features of the item], scaled to length 1
    h     = LeakyReLU(mean over the neighbours of W1 x^(l))
    s     = LeakyReLU(W2 x^(l) + b2) + x_id
    x^(l+1) = LeakyReLU(W3 h + b3 + s)   with combine 'sum';   LeakyReLU(W3 [h, s] + b3)   with 'concat'

The last layers of the branches are joined as `items.fuse` says: 'sum' is the paper's, 'mean' the code's. Each part of
the item representation with content (features, categories) makes a branch, and its projection is the first linear map.
The learned part, where there is one, is x_id of the items. Kind 'id' has one branch, whose item features are the
learned vectors ("MMGCN_ID"); with kinds 'v' and 'dnn' only users have x_id. The port in MMRec, which the benchmark
MicroLens names, means to run 'sum'; its switch is the string 'False', which is true, so it runs 'concat'.

Deviations: preferences and id vectors train (in the authors' code and its port in MMRec they are plain tensors, which
no optimiser sees); a node without edges is its own neighbour (there h = 0, which no other node has, so content does not
place items nobody has met); every modality is projected to the same width, with a bias (there: the visual one to 256,
the others not at all); `reg` is on the id vectors and preferences of the batch (there: on the visual preferences of all
users); vectors shorter than 0.01 are divided by 0.01, not by their length; repeated interactions are one edge; the
optimiser is AdamW.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.items.build import ItemRepresentation, LearnedItems
from models.shared.graphs.graph import MOST, GraphRecommender, distinct_edges, fuse_of, join, rows_of, unit
from models.shared.graphs.sparse import Adjacency, Part
from models.shared.objective import Loss
from models.shared.pairwise import PairConfig
from models.shared.recommender import TrainingFacts


@dataclass(frozen=True)
class Config(PairConfig):
    """Options of MMGCN; the width D is that of the item representation."""

    loss: Loss = "bpr"
    layers: int = 2
    """Number of graph convolutions in each branch (the authors' code: 3)."""
    combine: Literal["sum", "concat"] = "sum"
    """How the neighbours' vector and the node's own make the next one: 'sum' or 'concat'."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if self.layers < 1:
            raise ValueError(f"mmgcn: layers is {self.layers}; it must be at least 1")
        if self.combine not in ("concat", "sum"):
            raise ValueError(f"mmgcn: combine is {self.combine!r}; known: concat, sum")


@dataclass(frozen=True)
class Field:
    """The nodes that a layer computes where not all are needed, and what it computes them from."""

    nodes: Tensor
    """Nodes whose vectors the layer gives, (n,) int64."""
    part: Part
    """Rows of the graph that lead into `nodes`; the part's columns are the nodes whose vectors the layer takes."""
    places: Tensor
    """Where `nodes` stand among the part's columns, (n,) int64."""


def fields_of(graph: Adjacency, nodes: Tensor | None, layers: int) -> list[Field]:
    """Return the fields of the last layers, in order, that give the vectors of distinct `nodes` (n,); None = all.

    One layer further back, a field also holds the neighbours. Fields end where they no longer pay; the last layer
    always has one.
    """
    fields: list[Field] = []
    most = MOST * (len(graph.offsets) - 1)  # counts nodes: what a layer computes at each costs more than the sums
    while nodes is not None and len(fields) < layers and (not fields or len(nodes) <= most):
        part = graph.part(nodes, nodes)
        fields.append(Field(nodes, part, torch.searchsorted(part.columns, nodes)))
        nodes = part.columns
    return fields[::-1]


class Convolution(nn.Module):
    """One layer of a branch."""

    def __init__(self, dim: int, combine: str) -> None:
        super().__init__()
        self.neighbours = nn.Linear(dim, dim, bias=False)
        self.own = nn.Linear(dim, dim)
        self.combine = nn.Linear(2 * dim if combine == "concat" else dim, dim)
        self.concat = combine == "concat"
        for layer in (self.neighbours, self.own, self.combine):
            nn.init.xavier_normal_(layer.weight)

    def forward(self, around: Tensor, vectors: Tensor, ids: Tensor) -> Tensor:
        """Return the next vectors (n, D) from the neighbours' means, the nodes' own vectors and their id vectors."""
        around = functional.leaky_relu(self.neighbours(around), inplace=True)
        own = functional.leaky_relu(self.own(vectors), inplace=True) + ids
        if not self.concat:
            return functional.leaky_relu(self.combine(around) + own, inplace=True)
        width = around.shape[1]  # W [around, own] without joining the two: two products, one sum
        of_around, of_own = self.combine.weight[:, :width], self.combine.weight[:, width:]
        mixed = torch.addmm(functional.linear(around, of_around, self.combine.bias), own, of_own.T)
        return functional.leaky_relu(mixed, inplace=True)


class Branch(nn.Module):
    """The users' preferences in one modality, and the branch's layers."""

    def __init__(self, n_users: int, dim: int, config: Config) -> None:
        super().__init__()
        self.preference = nn.Embedding(n_users, dim)
        self.layers = nn.ModuleList([Convolution(dim, config.combine) for _ in range(config.layers)])
        nn.init.xavier_normal_(self.preference.weight)

    def forward(self, items: Tensor, ids: Tensor, graph: Adjacency, mean: Tensor, fields: Sequence[Field]) -> Tensor:
        """Return the last layer's vectors (N, D) of all nodes, or (n, D) of the nodes in the last field.

        Args:
            items: (I, D) features.
            ids: (N, D) id vectors.
            graph: (N, N) edges in both directions, and an edge to itself for each node without any.
            mean: the graph's entries, which take the mean over neighbours.
            fields: those of the last layers, in order; earlier layers are computed for all nodes.
        """
        vectors = unit(torch.cat([self.preference.weight, items]))
        whole = len(self.layers) - len(fields)
        for layer in self.layers[:whole]:
            vectors = layer(graph(vectors, mean), vectors, ids)
        if fields:
            vectors = vectors.index_select(0, fields[0].part.columns)
        own_ids = rows_of(ids, [field.nodes for field in fields])
        for layer, field, own in zip(self.layers[whole:], fields, own_ids, strict=True):
            vectors = layer(field.part(vectors, mean), vectors.index_select(0, field.places), own)
        return vectors


class MMGCN(GraphRecommender):
    """A branch of graph convolutions per modality, joined at the end."""

    config_class = Config
    fuses = ("sum", "concat", "mean")
    paper = "Wei et al., ACM MM 2019, doi 10.1145/3343031.3351034"
    mean: Tensor  # (2E + nodes without edges,) entries of graph

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        self.fuse = fuse_of(items, self.fuses)
        users, met = distinct_edges(facts)
        met = met + facts.n_users
        nodes = facts.n_users + facts.n_items
        rows, columns = torch.cat([users, met]), torch.cat([met, users])
        alone = (torch.bincount(rows, minlength=nodes) == 0).nonzero()[:, 0]
        self.graph = Adjacency(torch.cat([rows, alone]), torch.cat([columns, alone]), nodes, nodes)
        self.register_buffer("mean", self.graph.mean(), persistent=False)
        self.users = nn.Embedding(facts.n_users, items.parts[0].dim)
        nn.init.xavier_normal_(self.users.weight)
        branches = [Branch(facts.n_users, part.dim, config) for part in self._modalities()]
        self.branches = nn.ModuleList(branches)

    def _learned(self) -> list[ItemRepresentation]:
        return [part for part in self.items.parts if isinstance(part, LearnedItems)]

    def _modalities(self) -> list[ItemRepresentation]:
        return [part for part in self.items.parts if not isinstance(part, LearnedItems)] or self._learned()

    def propagate(self, users: Tensor | None, items: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the joined last layers of users and of items."""
        n_users = self.facts.n_users
        nodes = None if users is None or items is None else torch.cat([users, items + n_users])
        fields = fields_of(self.graph, nodes, self.config.layers)
        of_items = [part.everything() for part in self._learned()]
        blank = self.users.weight.new_zeros(self.facts.n_items, self.users.embedding_dim)
        ids = torch.cat([self.users.weight, *(of_items or [blank])])
        lasts = [
            branch(part.everything(), ids, self.graph, self.mean, fields)
            for part, branch in zip(self._modalities(), self.branches, strict=True)
        ]
        joined = join(lasts, self.fuse)
        return joined.tensor_split([n_users if users is None else len(users)])  # type: ignore[return-value]

    def punished(self, users: Tensor, items: Tensor, encoded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the id vectors and the users' preferences."""
        of_items = [part(items) for part in self._learned()]
        preferences = [cast(Branch, branch).preference(users) for branch in self.branches]
        blank = preferences[0].new_zeros(len(items), 0)
        return torch.cat([self.users(users), *preferences], dim=1), torch.cat([blank, *of_items], dim=1)


MODEL = MMGCN
