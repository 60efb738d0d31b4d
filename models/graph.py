"""What recommenders share that propagate over the graph of users and items.

Letters: U users, I items, N = U + I nodes (users first), E edges, R rows, C columns, D width, n nodes asked for.

A sparse product is a sum of table rows per node, for which `embedding_bag` is the fastest kernel torch has on a CPU:
over the 110,506 edges (both directions) of Amazon Scientific, at width 64 on one core, 0.93 ms against 1.86 with
torch.sparse CSR and 3.16 with COO. The backward pass is the same kernel on the transposed pattern, which is kept.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import TrainingFacts
from models.items import FusedItems, ItemRepresentation
from models.pairwise import PairRecommender

SHORT = 0.01  # vectors shorter than this are divided by it, not by their length

Kept = tuple[tuple[tuple[int, int], ...], tuple[Tensor, Tensor]]


def distinct_edges(facts: TrainingFacts) -> tuple[Tensor, Tensor]:
    """Return user and item (E,) of every pair that met in training, each once."""
    keys = torch.unique(facts.edges[0] * facts.n_items + facts.edges[1])
    return torch.div(keys, facts.n_items, rounding_mode="floor"), keys % facts.n_items


def unit(vectors: Tensor) -> Tensor:
    """Return (n, D) vectors of length 1, shorter where they are shorter than SHORT.

    A vector that starts at zero has no direction: dividing it by 1e-12, as the released codes do, would blow its first
    gradient up by as much.
    """
    return functional.normalize(vectors, dim=1, eps=SHORT)


class Adjacency(nn.Module):
    """A sparse (R, C) matrix of fixed pattern, and its transpose; entries are given with each call.

    Entries stand row by row, columns ascending.
    """

    offsets: Tensor  # (R + 1,)
    columns: Tensor  # (E,)
    rows: Tensor  # (E,)
    offsets_t: Tensor  # (C + 1,) of the transpose
    columns_t: Tensor  # (E,)
    order_t: Tensor  # (E,) which entry each of the transpose is

    def __init__(self, rows: Tensor, columns: Tensor, n_rows: int, n_columns: int) -> None:
        """Take row and column (E,) int64 of each entry, each pair once, in any order."""
        super().__init__()
        order = torch.argsort(rows * n_columns + columns)
        rows, columns = rows[order], columns[order]
        order_t = torch.argsort(columns * n_rows + rows)
        arrays = {
            "offsets": _offsets(rows, n_rows),
            "columns": columns,
            "rows": rows,
            "offsets_t": _offsets(columns, n_columns),
            "columns_t": rows[order_t],
            "order_t": order_t,
        }
        for name, array in arrays.items():
            self.register_buffer(name, array, persistent=False)

    def forward(self, vectors: Tensor, weights: Tensor, nodes: Tensor | None = None) -> Tensor:
        """Return the product (R, D) float32, or its rows `nodes` (n,), each asked for once.

        Args:
            vectors: (C, D).
            weights: (E,) the entries; both get gradients.
            nodes: int64.
        """
        product: Tensor = _Product.apply(vectors.float(), weights.float(), self, nodes)
        return product

    def dots(self, left: Tensor, right: Tensor) -> Tensor:
        """Return (E,) inner products of each entry's row of `left` (R, D) and of `right` (C, D)."""
        dots: Tensor = _Dots.apply(left.float(), right.float(), self)
        return dots

    def softmax(self, scores: Tensor) -> Tensor:
        """Return (E,) the softmax over the entries of each row, of scores that exp() can bear."""
        powers = scores.exp()
        sums = powers.new_zeros(len(self.offsets) - 1).index_add(0, self.rows, powers)
        return powers / sums[self.rows]

    def symmetric(self) -> Tensor:
        """Return (E,) entries 1 / sqrt(degree of row * degree of column)."""
        return (self.offsets.diff()[self.rows].float() * self.offsets_t.diff()[self.columns].float()).rsqrt()

    def mean(self) -> Tensor:
        """Return (E,) entries 1 / degree of row: the product is the mean over neighbours."""
        return 1 / self.offsets.diff()[self.rows].float()


def _offsets(rows: Tensor, count: int) -> Tensor:
    return torch.cat([rows.new_zeros(1), torch.bincount(rows, minlength=count).cumsum(0)])


def _sums(vectors: Tensor, columns: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return for each row the weighted sum of `vectors` over its columns."""
    return functional.embedding_bag(
        columns, vectors.contiguous(), offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weights: Tensor, of: Adjacency, nodes: Tensor | None) -> Tensor:
        ctx.of, ctx.nodes = of, nodes
        if nodes is None:
            product = _sums(vectors, of.columns, of.offsets, weights)
        else:
            counts = of.offsets[nodes + 1] - of.offsets[nodes]
            offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            total = int(offsets[-1])
            shift = torch.repeat_interleave(of.offsets[nodes] - offsets[:-1], counts, output_size=total)
            entries = torch.arange(total, device=nodes.device) + shift
            product = _sums(vectors, of.columns[entries], offsets, weights[entries])
        ctx.save_for_backward(vectors, weights)
        return product

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vectors, weights = ctx.saved_tensors
        of: Adjacency = ctx.of
        if ctx.nodes is not None:
            grad = grad.new_zeros(len(of.offsets) - 1, grad.shape[1]).index_copy_(0, ctx.nodes, grad)
        of_vectors = of_weights = None
        if ctx.needs_input_grad[0]:
            of_vectors = _sums(grad, of.columns_t, of.offsets_t, weights[of.order_t])
        if ctx.needs_input_grad[1]:
            of_weights = _dots(grad, vectors, of)
        return of_vectors, of_weights, None, None


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, of: Adjacency) -> Tensor:
        ctx.of = of
        ctx.save_for_backward(left, right)
        return _dots(left, right, of)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        of: Adjacency = ctx.of
        of_left = _sums(right, of.columns, of.offsets, grad) if ctx.needs_input_grad[0] else None
        of_right = None
        if ctx.needs_input_grad[1]:
            of_right = _sums(left, of.columns_t, of.offsets_t, grad[of.order_t])
        return of_left, of_right, None


def _dots(left: Tensor, right: Tensor, of: Adjacency) -> Tensor:
    """Return (E,) inner products. Gathering both sides first (the last line) takes 20 times as long on a CPU."""
    mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if left.device.type == "cuda" or (left.device.type == "cpu" and mkl):
        blank, shape = left.new_zeros(len(of.columns)), (len(of.offsets) - 1, len(of.offsets_t) - 1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            pattern = torch.sparse_csr_tensor(of.offsets, of.columns, blank, shape, check_invariants=False)
        sampled: Tensor = torch.sparse.sampled_addmm(pattern, left, right.T, beta=0)
        return sampled.values()
    dots: Tensor = torch.linalg.vecdot(left[of.rows], right[of.columns])
    return dots


class GraphRecommender(PairRecommender):
    """A recommender whose vectors come from propagation over the training graph; a subclass is its `propagate`.

    Without training and gradients the vectors of all nodes are kept until a parameter changes, so that an evaluation in
    chunks propagates once.
    """

    takes = ("id", "v", "dnn", "id+v", "adapter")
    refuses_towers = "it propagates over all items, so that every step would encode the whole catalogue"
    _kept: Kept | None = None

    @abstractmethod
    def propagate(self, users: Tensor | None, items: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (n, D) vectors of users (n,) and (m, D) of items (m,), each distinct; None = all."""

    def encode(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n, D) vectors of users (n,) and (m, D) of items (m,)."""
        if self.training or torch.is_grad_enabled():
            self._kept = None
            return self.propagate(users, items)
        state = tuple((parameter.data_ptr(), parameter._version) for parameter in self.parameters())
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self.propagate(None, None))
        all_users, all_items = self._kept[1]
        return all_users[users], all_items[items]


def fuse_of(items: ItemRepresentation, known: tuple[str, ...]) -> str:
    """Return how the branches of a model are to be joined; 'concat' where the items have one part.

    Raises:
        ValueError: `items.fuse` is not in `known`: gates weigh parts that these models propagate apart.
    """
    fuse = items.fuse if isinstance(items, FusedItems) else "concat"
    if fuse not in known:
        raise ValueError(f"items.fuse is {fuse!r}, which graph models with branches cannot use; use {', '.join(known)}")
    return fuse


def join(vectors: list[Tensor], fuse: str) -> Tensor:
    """Return what branches (n, D) each become together: 'sum', 'mean', or 'concat'."""
    if len(vectors) == 1 or fuse == "concat":
        return torch.cat(vectors, dim=1)
    total = torch.stack(vectors).sum(0)
    return total / len(vectors) if fuse == "mean" else total
