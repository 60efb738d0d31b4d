"""What recommenders that propagate over the graph of users and items share.

Letters: U users, I items, N = U + I nodes (users first), E edges, D width, n users and m items asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.shared.graphs.sparse import Adjacency, Part
from models.shared.pairwise import PairRecommender
from models.shared.recommender import TrainingFacts
from models.shared.representation import ItemRepresentation

SHORT = 0.01  # vectors shorter than this are divided by it, not by their length
MOST = 0.75  # share of a graph: a part that holds more costs more to pick out than it saves
WIDE = 256  # vector width from which picking a part out pays, where nothing but sums is computed

Pair = tuple[Tensor, Tensor]  # for users and for items, or for the edges into users and into items
Kept = tuple[tuple[tuple[int, int], ...], Pair]


def distinct_edges(facts: TrainingFacts) -> tuple[Tensor, Tensor]:
    """Return user and item, (E,) each, of every pair that met in training; each pair once."""
    keys = torch.unique(facts.edges[0] * facts.n_items + facts.edges[1])
    return torch.div(keys, facts.n_items, rounding_mode="floor"), keys % facts.n_items


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (n, D) scaled to length 1, or to less where they are shorter than SHORT.

    A vector that starts at zero has no direction. Dividing it by 1e-12, as the released codes do, would blow its first
    gradient up by as much.
    """
    scaled: Tensor = _Unit.apply(vectors)
    return scaled


class _Unit(torch.autograd.Function):
    """`unit`, which keeps only its output for the backward pass.

    Other layers keep that output as well. Letting the input go saves 2 GB at 120,000 nodes of width 4096.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        scaled: Tensor = vectors / lengths.clamp(min=SHORT)
        ctx.save_for_backward(scaled, lengths)
        return scaled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        scaled, lengths = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, scaled)[:, None].masked_fill_(lengths < SHORT, 0)
        across: Tensor = torch.addcmul(grad, scaled, along, value=-1)
        return across.div_(lengths.clamp(min=SHORT))


def sum_of_powers(
    first: Pair, edges: tuple[Adjacency, Adjacency], weights: Pair, layers: int, nodes: tuple[Tensor | None, ...]
) -> Pair:
    """Return x + A x + ... + A^K x for users and for items, or for some of them.

    Horner's rule, x + A (x + A (...)), keeps no layer for the backward pass. Where few nodes are asked for, each layer
    is computed only for those that the next one needs.

    Args:
        first: x of users (U, D) and of items (I, D).
        edges: A into users (U, I) and into items (I, U).
        weights: the entries of both.
        layers: K.
        nodes: users (n,) and items (m,) int64, all distinct; None = all.
    """
    users, items = nodes
    fields: list[tuple[Tensor, Tensor]] = []  # users and items whose vectors a layer gives, last layer first
    parts: list[tuple[Part, Part]] = []
    wide = first[0].shape[1] >= WIDE
    while wide and users is not None and items is not None and len(parts) < layers:
        if edges[0].share(users) + edges[1].share(items) > 2 * MOST:
            break
        fields.append((users, items))
        parts.append((edges[0].part(users), edges[1].part(items)))
        users, items = parts[-1][1].columns, parts[-1][0].columns
    of_users, of_items = first
    for _ in range(layers - len(parts)):
        of_users, of_items = (
            edges[0](of_items, weights[0]).add_(first[0]),  # in place, in the product's memory
            edges[1](of_users, weights[1]).add_(first[1]),
        )
    of_users = of_users if users is None else of_users.index_select(0, users)
    of_items = of_items if items is None else of_items.index_select(0, items)
    own = rows_of(first[0], [field[0] for field in fields]), rows_of(first[1], [field[1] for field in fields])
    for (to_users, to_items), own_users, own_items in reversed(list(zip(parts, *own, strict=True))):
        of_users, of_items = (
            to_users(of_items, weights[0]).add_(own_users),
            to_items(of_users, weights[1]).add_(own_items),
        )
    return of_users, of_items


def rows_of(table: Tensor, sets: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return several sets of rows of a table by one look-up: each look-up's gradient is as large as the table."""
    if not sets:
        return ()
    rows: Sequence[Tensor] = torch.split(table.index_select(0, torch.cat(list(sets))), [len(some) for some in sets])
    return rows


class GraphRecommender(PairRecommender):
    """A recommender whose vectors come from propagation over the training graph; a subclass defines `propagate`.

    Outside training and without gradients, the vectors of all nodes are kept until a parameter changes. So an
    evaluation in chunks propagates once.
    """

    takes = ("id", "v", "dnn", "id+v", "adapter")
    refuses_towers = "it propagates over all items, so that every step would encode the whole catalogue"
    _kept: Kept | None = None

    @abstractmethod
    def propagate(self, users: Tensor | None, items: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return vectors (n, D) of users (n,) and (m, D) of items (m,), all distinct; None = all."""

    def encode(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (n, D) of users (n,) and (m, D) of items (m,)."""
        if self.training or torch.is_grad_enabled():
            self._kept = None
            return self.propagate(users, items)
        state = tuple((parameter.data_ptr(), parameter._version) for parameter in self.parameters())
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self.propagate(None, None))
        all_users, all_items = self._kept[1]
        return all_users[users], all_items[items]


def fuse_of(items: ItemRepresentation, known: tuple[str, ...]) -> str:
    """Return how a model's branches are joined; 'concat' where the items have one part.

    Raises:
        ValueError: `items.fuse` is not in `known`: gates weigh parts that these models propagate apart.
    """
    if items.fuse not in known:
        raise ValueError(
            f"items.fuse is {items.fuse!r}, which graph models with branches cannot use; use {', '.join(known)}"
        )
    return items.fuse


def join(vectors: list[Tensor], fuse: str) -> Tensor:
    """Join the vectors (n, D) of branches by 'sum', 'mean' or 'concat'."""
    if len(vectors) == 1 or fuse == "concat":
        return torch.cat(vectors, dim=1)
    total = torch.stack(vectors).sum(0)
    return total / len(vectors) if fuse == "mean" else total
