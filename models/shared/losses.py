"""Losses: softmax over the items of a batch, over all items or over drawn ones; BPR and binary cross entropy.

Letters: B batch, L history length, D model width, I items, Q queries (real positions of a batch), C candidates, N
negatives of a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from models.shared.recommender import UserItems

CHUNK_CPU = 2**20  # logits held at a time: 4 MB stay in the cache, and one buffer serves all chunks
CHUNK_GPU = 2**26
SAFE_LOGIT = 40.0  # exp(+-40) and sums and products of a billion of them are ordinary float32 numbers


@dataclass(frozen=True)
class BatchItems:
    """The distinct items of a batch: vectors are computed once per item, however often it occurs."""

    items: Tensor
    """Distinct items, (C,) int64, ascending."""
    slots: Tensor
    """Where each slot's item stands in `items`, (B, S) int64; 0 where the slot is padding."""
    counts: Tensor
    """Number of real slots that hold each item, (C,) int64."""


def batch_items(items: Tensor, mask: Tensor) -> BatchItems:
    """Return the distinct items in the real slots of `items` (B, S)."""
    distinct, inverse, counts = torch.unique(items[mask], return_inverse=True, return_counts=True)
    slots = torch.zeros_like(items)
    slots[mask] = inverse
    return BatchItems(distinct, slots, counts)


def log_popularity(item_counts: Tensor) -> Tensor:
    """Return log shares of training occurrences, (I,) float32; an item that never occurred counts as one occurrence."""
    counts = item_counts.double().clamp(min=1)
    return (counts / item_counts.sum().clamp(min=1)).log().float()


@dataclass(frozen=True)
class OwnItems:
    """Which candidates the user of each query has met in training: pairs, from which any device makes the mask."""

    rows: Tensor
    """Row of each query's user in a matrix of the batch's different users, (Q,) int64."""
    places: Tensor
    """Places of the pairs met in that matrix, (m,) int64: row times C plus candidate."""
    shape: tuple[int, int]
    """Shape of that matrix: different users, and candidates C."""

    def mask(self) -> Tensor:
        """Return (Q, C) bool: whether the query's user has met the item."""
        own = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.bool, device=self.rows.device)
        return own.index_fill_(0, self.places, True).view(self.shape).index_select(0, self.rows)


def own_items(users: Tensor, met: UserItems, distinct: BatchItems) -> OwnItems:
    """Return which items the user of each query (Q,) has met anywhere in training, past or future; on the CPU."""
    different, inverse = torch.unique(users, return_inverse=True)
    rows, items = met.of(different)
    count = len(distinct.items)
    column = torch.searchsorted(distinct.items, items).clamp_(max=max(count - 1, 0))
    here = distinct.items[column] == items
    return OwnItems(inverse, (rows * count + column)[here], (len(different), count))


def in_batch_softmax(
    queries: Tensor, candidates: Tensor, labels: Tensor, log_counts: Tensor, log_shares: Tensor, excluded: Tensor | None
) -> Tensor:
    """Return the softmax loss over the slots of a batch, with a correction for popularity.

    In MicroLens (arXiv 2309.15379, released code) a candidate is a slot, its logit is `q . v - log p`, and an item that
    fills three slots counts three times. Here a candidate is an item with its count inside the exponent, which gives
    the same sum in fewer terms. The label counts once; its other slots, and other items of the same user, do not count.
    The correction (Yi et al., RecSys 2019) is for the label too. Scores at inference are plain inner products.

    Args:
        queries: (Q, D).
        candidates: (C, D) vectors of distinct items.
        labels: (Q,) int64 in [0, C).
        log_counts: (C,) log of the number of slots that an item fills.
        log_shares: (C,) log of an item's share p of training occurrences; zeros: no correction.
        excluded: (Q, C) bool, items that are no negatives of a query; the label's own entry is ignored. None: all but
            the label are negatives.

    Returns:
        () mean over queries; 0 where there are none.
    """
    loss: Tensor = _Softmax.apply(queries, candidates, labels, (log_counts, log_shares), excluded)
    return loss


def in_batch_softmax_of_scores(
    scores: Tensor, labels: Tensor, log_counts: Tensor, log_shares: Tensor, excluded: Tensor | None
) -> Tensor:
    """Return the mean () that `in_batch_softmax` returns, for scores (Q, C) that are no inner products.

    The other arguments are the same. All scores are held at once, and so is what they were computed from.
    """
    label = labels[:, None]
    positive = scores.gather(1, label) - log_shares[label]
    logits = scores - log_shares + log_counts
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    logits = logits.scatter(1, label, positive)
    return (logits.logsumexp(1) - positive[:, 0]).sum() / max(len(labels), 1)


def full_softmax(queries: Tensor, candidates: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy () of queries (Q, D) with labels (Q,) over all items (I, D); none is excluded."""
    loss: Tensor = _Softmax.apply(queries, candidates, labels, None, None)
    return loss


def sampled_softmax(positive: Tensor, negative: Tensor, log_probability: Tensor) -> Tensor:
    """Return the mean loss () of a softmax over the label and N drawn items, corrected for the chance of each draw.

    Jean et al., ACL 2015 (arXiv 1412.2007), section 3: a draw stands for all items it could have been, so the log of
    its expected count is subtracted from its score. In expectation, the sum in the softmax is that of the full softmax.

    Args:
        positive: (Q,) scores of the labels.
        negative: (Q, N) scores of the drawn items, none of them the label.
        log_probability: (Q, N) log of the probability of each draw.
    """
    count = negative.new_full((), negative.shape[1]).log()
    logits = torch.cat([positive[:, None], negative - log_probability - count], dim=1)
    return (logits.logsumexp(1) - positive).sum() / max(len(positive), 1)


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the mean () of -log sigmoid(positive - negative), for scores (Q,) against (Q, N).

    Rendle et al., UAI 2009 (arXiv 1205.2618), section 4.1, without the regularisation.
    """
    return functional.softplus(negative - positive[:, None]).sum() / max(negative.numel(), 1)


def binary_cross_entropy(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the mean () over queries of -log sigmoid(positive) - sum over N of log(1 - sigmoid(negative)).

    Scores are (Q,) against (Q, N). With N = 1 this is the loss of SASRec (arXiv 1808.09781, equation 8).
    """
    return (functional.softplus(-positive).sum() + functional.softplus(negative).sum()) / max(len(positive), 1)


class _Softmax(torch.autograd.Function):
    """Cross entropy of inner products whose (Q, C) logits never exist as a whole.

    The gradient is computed in the forward pass, one chunk of queries at a time, in a buffer that is used again.
    Nothing of size (Q, C) but the mask is kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        candidates: Tensor,
        labels: Tensor,
        weights: tuple[Tensor, Tensor] | None,
        excluded: Tensor | None,
    ) -> Tensor:
        """Return the mean loss and keep both gradients; `weights` are (log_counts, log_shares)."""
        with torch.autocast(queries.device.type, enabled=False):
            queries, candidates = queries.float(), candidates.float()
            total, grad_queries, grad_candidates = _chunked(queries, candidates, labels, weights, excluded)
        scale = 1.0 / max(len(queries), 1)
        ctx.save_for_backward(grad_queries.mul_(scale), grad_candidates.mul_(scale))
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the kept gradients times the incoming one."""
        grad_queries, grad_candidates = ctx.saved_tensors
        return grad_queries * grads[0], grad_candidates * grads[0], None, None, None


def _chunked(
    queries: Tensor,
    candidates: Tensor,
    labels: Tensor,
    weights: tuple[Tensor, Tensor] | None,
    excluded: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the summed loss () and its gradients with respect to queries (Q, D) and candidates (C, D).

    The (Q, C) exponents are never divided by their sum; the (Q, D) factors of the two gradients are.
    """
    size = (CHUNK_CPU if queries.device.type == "cpu" else CHUNK_GPU) // max(len(candidates), 1)
    size = min(max(size, 1), max(len(queries), 1))
    buffer = queries.new_empty(size, len(candidates))
    shift = _needs_shift(queries, candidates, weights)
    grad_queries, grad_candidates = torch.empty_like(queries), torch.zeros_like(candidates)
    total = queries.new_zeros(())
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        query, label = queries[part], labels[part, None]
        logits = torch.mm(query, candidates.T, out=buffer[: len(query)])
        if weights is not None:
            logits.add_(weights[0] - weights[1])
        positive = logits.gather(1, label)
        if weights is not None:
            positive = positive - weights[0][label]
        if excluded is not None:
            logits.masked_fill_(excluded[part], -torch.inf)
        logits.scatter_(1, label, positive)
        largest = logits.amax(1, keepdim=True) if shift else torch.zeros_like(positive)
        # in place: torch's log_softmax needs a second buffer and takes 4 times as long
        exponents = (logits.sub_(largest) if shift else logits).exp_()
        norm = exponents.sum(1, keepdim=True)
        total += (norm.log() + largest - positive).sum()
        gradient = torch.mm(exponents, candidates, out=grad_queries[part]).div_(norm)
        gradient.sub_(candidates[label[:, 0]])
        grad_candidates.addmm_(exponents.T, query / norm)
    grad_candidates.index_add_(0, labels, queries, alpha=-1)
    return total, grad_queries, grad_candidates


def _needs_shift(queries: Tensor, candidates: Tensor, weights: tuple[Tensor, Tensor] | None) -> bool:
    """Return whether exp of the logits could leave float32, so that the largest must be subtracted first.

    By Cauchy-Schwarz no logit is larger in magnitude than the bound. A small bound saves two passes over all logits. On
    a GPU these passes cost less than waiting for the bound.
    """
    if queries.device.type != "cpu":
        return True
    if not len(queries) or not len(candidates):
        return False
    bound = torch.linalg.vector_norm(queries, dim=1).max() * torch.linalg.vector_norm(candidates, dim=1).max()
    if weights is not None:
        bound = bound + weights[0].abs().max() + weights[1].abs().max()
    return not float(bound) < SAFE_LOGIT  # True for NaN, too
