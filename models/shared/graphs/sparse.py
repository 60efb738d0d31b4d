"""Sparse matrices of fixed pattern, and rows of them, for recommenders that propagate over a graph.

Letters: E entries, R rows, C columns, D width, n and m rows and columns of a part.

A sparse product gives each row a sum of table rows. `embedding_bag` is the fastest kernel torch has for that on a CPU:
over the 110,506 edges (both directions) of Amazon Scientific, at width 64 on one core, it takes 0.93 ms, torch.sparse
1.86 with CSR and 3.16 with COO. The backward pass is the same kernel on the transposed pattern, which is kept.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Pattern(NamedTuple):
    """Where a sparse (R, C) matrix has its E entries, row by row, and where its transpose has them."""

    offsets: Tensor  # (R + 1,) where each row's entries start
    columns: Tensor  # (E,) the column of each entry
    rows: Tensor  # (E,) the row of each entry
    offsets_t: Tensor  # (C + 1,) offsets of the transpose
    columns_t: Tensor  # (E,) columns of the transpose
    order_t: Tensor  # (E,) which of the matrix's entries each entry of the transpose is


@dataclass(frozen=True)
class Part:
    """Some rows of a matrix, without the columns in which they have no entries."""

    pattern: Pattern
    """Pattern of the part, (n, m)."""
    entries: Tensor
    """Positions of the part's entries among those of the matrix, int64."""
    columns: Tensor
    """Positions of the part's columns in the matrix, (m,) int64, ascending."""

    def __call__(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """Return the product (n, D) with vectors (m, D) of the part's columns.

        `weights` (E,) are the entries of the whole matrix.
        """
        product: Tensor = _Product.apply(vectors.float(), weights.float()[self.entries], self.pattern)
        return product


class Adjacency(nn.Module):
    """A sparse (R, C) matrix of fixed pattern, and its transpose; entries are given with each call.

    Entries stand row by row, with columns ascending.
    """

    offsets: Tensor  # (R + 1,) where each row's entries start
    columns: Tensor  # (E,) the column of each entry
    rows: Tensor  # (E,) the row of each entry
    offsets_t: Tensor  # (C + 1,) offsets of the transpose
    columns_t: Tensor  # (E,) columns of the transpose
    order_t: Tensor  # (E,) which of the matrix's entries each entry of the transpose is

    def __init__(self, rows: Tensor, columns: Tensor, n_rows: int, n_columns: int) -> None:
        """Take row and column, (E,) int64 each, of every entry: each pair once, in any order."""
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

    @property
    def pattern(self) -> Pattern:
        """Return where the entries stand."""
        return Pattern(self.offsets, self.columns, self.rows, self.offsets_t, self.columns_t, self.order_t)

    def forward(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """Return the product (R, D) float32 with vectors (C, D), for entries `weights` (E,); both get gradients."""
        product: Tensor = _Product.apply(vectors.float(), weights.float(), self.pattern)
        return product

    def part(self, rows: Tensor, columns: Tensor | None = None) -> Part:
        """Return some rows with all columns in which they have entries.

        Args:
            rows: (n,) int64, distinct.
            columns: (k,) int64 that the part must have, too.
        """
        counts = self.offsets[rows + 1] - self.offsets[rows]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        total = int(offsets[-1])
        shift = torch.repeat_interleave(self.offsets[rows] - offsets[:-1], counts, output_size=total)
        entries = torch.arange(total, device=rows.device) + shift
        met = self.columns[entries]
        present = torch.zeros(len(self.offsets_t) - 1, dtype=torch.bool, device=rows.device)
        present[met] = True
        if columns is not None:
            present[columns] = True
        kept = present.nonzero()[:, 0]
        met = (present.cumsum(0) - 1)[met]
        own = torch.repeat_interleave(counts, output_size=total)
        order_t = torch.argsort(met, stable=True)
        pattern = Pattern(offsets, met, own, _offsets(met, len(kept)), own[order_t], order_t)
        return Part(pattern, entries, kept)

    def share(self, rows: Tensor) -> float:
        """Return the share of all entries that stands in some rows (n,), in [0, 1]."""
        return int((self.offsets[rows + 1] - self.offsets[rows]).sum()) / max(len(self.columns), 1)

    def dots(self, left: Tensor, right: Tensor) -> Tensor:
        """Return inner products (E,): for each entry, of its row in `left` (R, D) and its column in `right` (C, D)."""
        dots: Tensor = _Dots.apply(left.float(), right.float(), self.pattern)
        return dots

    def softmax(self, scores: Tensor) -> Tensor:
        """Return the softmax (E,) over the entries of each row, for scores (E,) that exp() can bear."""
        powers = scores.exp()
        sums = powers.new_zeros(len(self.offsets) - 1).index_add(0, self.rows, powers)
        return powers / sums[self.rows]

    def symmetric(self) -> Tensor:
        """Return the entries (E,) 1 / sqrt(degree of row * degree of column)."""
        return (self.offsets.diff()[self.rows].float() * self.offsets_t.diff()[self.columns].float()).rsqrt()

    def mean(self) -> Tensor:
        """Return the entries (E,) 1 / degree of row, with which the product is the mean over neighbours."""
        return 1 / self.offsets.diff()[self.rows].float()


def _offsets(rows: Tensor, count: int) -> Tensor:
    if rows.device.type == "cpu":
        counts = torch.bincount(rows, minlength=count)
    else:  # there `bincount` waits for the largest row
        counts = rows.new_zeros(count).index_add_(0, rows, torch.ones_like(rows))
    return torch.cat([rows.new_zeros(1), counts.cumsum(0)])


def _sums(vectors: Tensor, columns: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return for each row the weighted sum of `vectors` over its columns.

    On other devices than a CPU or CUDA the weighted rows are made first: torch lacked the kernel for Apple's GPUs long.
    """
    if vectors.device.type not in ("cpu", "cuda"):
        counts = offsets.diff()
        rows = torch.repeat_interleave(counts, output_size=len(columns))
        sums = vectors.new_zeros(len(counts), vectors.shape[1])
        return sums.index_add_(0, rows, vectors[columns] * weights[:, None])
    return functional.embedding_bag(
        columns, vectors.contiguous(), offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weights: Tensor, of: Pattern) -> Tensor:
        ctx.of = of
        ctx.save_for_backward(vectors, weights)
        return _sums(vectors, of.columns, of.offsets, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vectors, weights = ctx.saved_tensors
        of: Pattern = ctx.of
        of_vectors = of_weights = None
        if ctx.needs_input_grad[0]:
            of_vectors = _sums(grad, of.columns_t, of.offsets_t, weights[of.order_t])
        if ctx.needs_input_grad[1]:
            of_weights = _dots(grad, vectors, of)
        return of_vectors, of_weights, None


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, of: Pattern) -> Tensor:
        ctx.of = of
        ctx.save_for_backward(left, right)
        return _dots(left, right, of)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        of: Pattern = ctx.of
        of_left = _sums(right, of.columns, of.offsets, grad) if ctx.needs_input_grad[0] else None
        of_right = None
        if ctx.needs_input_grad[1]:
            of_right = _sums(left, of.columns_t, of.offsets_t, grad[of.order_t])
        return of_left, of_right, None


def _dots(left: Tensor, right: Tensor, of: Pattern) -> Tensor:
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
