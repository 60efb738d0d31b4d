"""Full ranking: every user's targets among all items, in chunks of users.

Letters: N users, R targets of all users together, I items, D model width, K list length, S seen items of all users, n
users of a chunk, r targets of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.errors import ConfigError
from models.items.towers import held_tables
from models.shared.recommender import Recommender, UserBatch
from pipelines.data.split import Bools, EvalPart, Ints, ManyTargets
from pipelines.device import tf32
from pipelines.ranking.metrics import (
    DEFAULT,
    LIST_METRICS,
    METRICS,
    Floats,
    Offered,
    Ranked,
    check_lengths,
    check_metrics,
    ranks,
)

Mask = Literal["keep", "hide", "strict"]
Lists = NDArray[np.int32]
Counted = tuple[Tensor, Tensor]  # (r,) ranks and ties
SCORES_CPU = 2**21  # scores at a time on a CPU: 8 MB stay in its cache while ranks are counted


@dataclass(frozen=True)
class EvaluateConfig:
    """The section `evaluate` of a recipe: how items are ranked and what is measured."""

    mask: Mask = "hide"
    """What happens to items that the user has seen: 'keep' ranks them; 'hide' leaves them out, but not the target;
    'strict' leaves them out, the target too, and a user with a hidden target counts as a miss."""
    at: tuple[int, ...] = (10, 20)
    """List lengths K of HR@K, NDCG@K and so on."""
    metrics: tuple[str, ...] = DEFAULT
    """Which metrics. HR, NDCG, Recall, Precision, MRR and MAP are computed from ranks. Coverage, Popularity, Gini and
    NeverMet are computed from the lists of all users. See docs/evaluation.md."""
    lists: bool = False
    """Whether to keep each test user's list of the longest K, in the run's lists.npy."""
    batch_size: int = 512
    """Users scored at a time."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse values that nothing can be ranked with."""
        check_lengths(self.at, "evaluate.at")
        check_metrics(self.metrics, "evaluate.metrics")
        if not any(name in METRICS for name in self.metrics):
            needed = ", ".join(METRICS)
            raise ConfigError(f"evaluate.metrics is {list(self.metrics)}; it needs at least one of {needed}")
        if self.batch_size < 1:
            raise ConfigError(f"evaluate.batch_size is {self.batch_size}; it must be at least 1")


@dataclass(frozen=True)
class NeverMet:
    """Shares of items without any training row, whose scores no graph model and no in-batch loss ever pushes down."""

    at: int
    """List length K."""
    offered: float
    """Share of such items in all places of the lists of K items."""
    targets: float
    """Share of such items among the targets."""
    candidates: float
    """Share of such items among the candidates."""


@dataclass(frozen=True)
class Evaluation:
    """The result of a model on one part."""

    metrics: dict[str, float]
    """Means of 'HR@10', 'NDCG@10' and so on over all users."""
    warm: dict[str, float] | None
    """The same means over users whose targets all occur in training; None if there are no such users."""
    cold: dict[str, float] | None
    """The same means over the other users; None if there are no others."""
    n_users: int
    """N, the number of users."""
    n_warm: int
    """Number of users whose targets all occur in training."""
    n_cold: int
    """Number of users with a target that does not occur in training."""
    candidates: int
    """Number of items ranked against each other, before any are hidden."""
    mask: Mask
    """Which seen items were hidden."""
    ranks: Floats
    """(R,) best place of each target, in the order of the part's users and best first within a user. inf = the target
    was hidden, which is a miss at any K. With one target per user R = N."""
    ties: Ints | None = None
    """(R,) how many items share each target's score, the target included; None if no target ties."""
    offsets: Ints | None = None
    """(N + 1,) positions in `ranks` where each user's ranks start; None if each user has one target."""
    lists: Lists | None = None
    """(N, K) dense indices of the items listed at the longest K, best first; -1 = a user has no more. None unless asked
    for. Among items with equal scores the sorting routine chooses."""
    catalog: dict[str, float] | None = None
    """'Coverage@10' and the like, from the lists; None unless asked for."""
    never_met: NeverMet | None = None
    """Shares of items that occur in no training row; None unless asked for, or if all items occur."""

    @property
    def ranked(self) -> Ranked:
        """Return the ranks and ties, grouped by user."""
        return (
            Ranked.of_one(self.ranks, self.ties)
            if self.offsets is None
            else Ranked(self.ranks, self.offsets, self.ties)
        )


def evaluate(
    model: Recommender,
    part: EvalPart,
    train_counts: Ints,
    *,
    mask: Mask,
    at: tuple[int, ...] = (10, 20),
    metrics: tuple[str, ...] = DEFAULT,
    lists: bool = False,
    never_met_at: int | None = None,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Rank every user's targets among all items.

    Args:
        model: the model, on `device`; in eval mode during the call.
        part: the users, their histories and targets.
        train_counts: (I,) how often each item occurs in training; 0 = cold item.
        mask: 'keep' hides nothing; 'hide' hides the items a user has seen, except the targets; 'strict' also hides
            targets that were seen before, which makes them misses (as IISAN, MicroLens and MMRec count).
        at: list lengths K.
        metrics: names from `METRICS` and `LIST_METRICS`; the latter need the lists of all users.
        lists: whether to keep each user's list.
        never_met_at: list length at which to count listed items that occur in no training row; None = do not count.
        batch_size: users encoded at a time, and on a GPU scored at a time; a CPU scores as many as fit its cache.
        device: where to score.

    Raises:
        ConfigError: the mask or a metric does not exist, there are no users, or vectors are not finite.
    """
    check_metrics(metrics, "metrics")
    if mask not in get_args(Mask):
        raise ConfigError(f"mask is {mask!r}; known: {', '.join(get_args(Mask))}")
    if not len(part.users):
        raise ConfigError("nothing to evaluate: the part has no users; check the split")
    of_lists = [name for name in metrics if name in LIST_METRICS]
    unmet = never_met_at is not None and bool((train_counts == 0).any())
    lengths = tuple(dict.fromkeys([*at, never_met_at])) if unmet and never_met_at else at
    asked = _Lists(lengths, len(train_counts), bool(of_lists or unmet)) if lists or of_lists or unmet else None
    training = model.training
    model.eval()
    try:
        with tf32(False), held_tables(model):  # an encoder runs once over all items, not again for every batch of users
            user_ranks, ties = _all_ranks(model, part, mask, batch_size, torch.device(device), asked)
    finally:
        model.train(training)
    ranked = Ranked(user_ranks, part.bounds, ties)
    warm = ranked.sums((train_counts[part.targets] > 0).astype(np.float64)) == ranked.counts
    everyone = np.ones_like(warm)
    of_ranks = {f"{name}@{k}": METRICS[name](ranked, k) for k in at for name in metrics if name in METRICS}
    return Evaluation(
        metrics=_means(of_ranks, everyone) or {},
        warm=_means(of_ranks, warm),
        cold=_means(of_ranks, ~warm),
        n_users=len(warm),
        n_warm=int(warm.sum()),
        n_cold=int((~warm).sum()),
        candidates=len(train_counts),
        mask=mask,
        ranks=user_ranks,
        ties=ties,
        offsets=part.bounds if isinstance(part, ManyTargets) else None,
        lists=asked.listed(max(at)) if asked and lists else None,
        catalog=asked.metrics(train_counts, of_lists, at) if asked and of_lists else None,
        never_met=_never_met(asked, train_counts, part, never_met_at) if asked and unmet and never_met_at else None,
    )


def _never_met(lists: _Lists, train_counts: Ints, part: EvalPart, at: int) -> NeverMet:
    unmet = train_counts == 0
    offered = LIST_METRICS["NeverMet"](lists.offered[at], train_counts)
    return NeverMet(at, offered, float(unmet[part.targets].mean()), float(unmet.mean()))


class _Lists:
    """The lists of all users, collected and counted chunk by chunk.

    Args:
        at: list lengths K.
        n_items: I, the number of items.
        counted: whether to count listed items for the metrics of lists.
    """

    def __init__(self, at: Sequence[int], n_items: int, counted: bool) -> None:
        self.top, self.n_items = min(max(at), n_items), n_items
        self.offered = {k: Offered.nothing(n_items) for k in at} if counted else {}
        self._chunks: list[Lists] = []

    def take(self, scores: Tensor) -> None:
        """Add the best items by scores (n, I), which are -inf where an item is hidden."""
        # One item more than is listed: if its score equals the last one's, a tie goes on beyond the end of the list.
        best, which = scores.topk(min(self.top + 1, self.n_items))
        listed = which.masked_fill_(best == -torch.inf, -1).int().cpu().numpy()
        self._chunks.append(listed[:, : self.top])
        for k, offered in self.offered.items():
            if k >= best.shape[1]:
                offered.add(listed)
                continue
            last = best[:, k - 1]
            tied = (last == best[:, k]) & (last > -torch.inf)
            loose = tied[:, None] & (best[:, :k] == last[:, None])  # another item of the tie may take this place
            offered.add(np.where(loose.cpu().numpy(), -1, listed[:, :k]))
            for rows in torch.split(torch.nonzero(tied)[:, 0], max(1, SCORES_CPU // self.n_items)):
                same = (scores[rows] == last[rows, None]).cpu().numpy()
                offered.add_tied(same, loose[rows].sum(1).cpu().numpy() / same.sum(1))

    def listed(self, length: int) -> Lists:
        """Return the first `length` items of each user's list, (N, length)."""
        return np.concatenate(self._chunks)[:, :length]

    def metrics(self, train_counts: Ints, names: Sequence[str], at: Sequence[int]) -> dict[str, float]:
        """Return the metrics of lists, such as 'Coverage@10'."""
        return {f"{name}@{k}": LIST_METRICS[name](self.offered[k], train_counts) for k in at for name in names}


def _means(values: dict[str, Floats], chosen: Bools) -> dict[str, float] | None:
    return {name: float(value[chosen].mean()) for name, value in values.items()} if chosen.any() else None


@torch.no_grad()
def _all_ranks(
    model: Recommender, part: EvalPart, mask: Mask, batch_size: int, device: torch.device, lists: _Lists | None
) -> tuple[Floats, Ints | None]:
    """Return (R,) ranks and (R,) ties, None if no target ties; `lists`, if any, collects each user's list."""
    items = model.item_vectors() if model.inner_product else None
    if items is not None:
        _check_finite(items, "item")
    users, histories, real = (torch.from_numpy(array).to(device) for array in (part.users, part.items, part.mask))
    size = batch_size if device.type != "cpu" else min(batch_size, max(1, SCORES_CPU // model.facts.n_items))
    # One buffer serves all chunks: touching new memory takes longer than writing the product to it.
    buffer = torch.empty(min(size, len(users)), model.facts.n_items, device=device)
    found: list[Counted] = []
    for start in range(0, len(users), batch_size):
        rows = slice(start, start + batch_size)
        batch = UserBatch(users[rows], histories[rows], real[rows])
        for first, scores in _scores(model, batch, items, buffer):
            found.append(_rank_chunk(scores, part, start + first, mask, lists))
    all_ranks, ties = (torch.cat(arrays).cpu().numpy() for arrays in zip(*found, strict=True))
    return all_ranks, ties if (ties > 1).any() else None


def _scores(model: Recommender, batch: UserBatch, items: Tensor | None, buffer: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (row of the first user, scores (n, I)) for the chunks of a batch.

    `items` holds the item vectors (I, D) if scores are inner products, else None.
    """
    if items is None:
        scores = model.scores(batch)
        _check_finite(scores, "score")
        yield 0, scores
        return
    vectors = model.user_vectors(batch)
    _check_finite(vectors, "user")
    for start in range(0, len(vectors), len(buffer)):
        part = vectors[start : start + len(buffer)]
        yield start, torch.mm(part, items.T, out=buffer[: len(part)])


def _rank_chunk(scores: Tensor, part: EvalPart, start: int, mask: Mask, lists: _Lists | None) -> Counted:
    """Return (r,) float64 ranks and (r,) int64 ties for the users from `start` on; overwrites scores (n, I)."""
    targets = _targets(part, start, len(scores), scores.device)
    target_scores = scores[targets]
    _check_finite(target_scores[:, None], "score")
    hidden = _hide_seen(scores, target_scores, targets, part, start, mask)
    if lists:
        lists.take(scores)
    count = _many_ranks if isinstance(part, ManyTargets) else _one_rank
    return count(scores, target_scores, targets, hidden)


def _targets(part: EvalPart, start: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the row (from 0) and item, (r,) each, of all targets of users start..start + count - 1."""
    if not isinstance(part, ManyTargets):
        return torch.arange(count, device=device), torch.from_numpy(part.targets[start : start + count]).to(device)
    bounds = part.bounds[start : start + count + 1]
    rows = np.repeat(np.arange(count), np.diff(bounds))
    items = part.targets[bounds[0] : bounds[-1]]
    return torch.from_numpy(rows).to(device), torch.from_numpy(items).to(device)


def _hide_seen(
    scores: Tensor, target_scores: Tensor, targets: tuple[Tensor, Tensor], part: EvalPart, start: int, mask: Mask
) -> Tensor | None:
    """Set the scores (n, I) of seen items to -inf, targets included only under 'strict'.

    Returns:
        (r,) which targets are hidden, or None if none can be.
    """
    if mask == "keep":
        return None
    scores[
        tuple(torch.from_numpy(array).to(scores.device) for array in seen_pairs(part, start, len(scores)))
    ] = -torch.inf
    if mask == "strict":
        return scores[targets] == -torch.inf
    scores[targets] = target_scores
    return None


def _one_rank(scores: Tensor, target_scores: Tensor, _: tuple[Tensor, Tensor], hidden: Tensor | None) -> Counted:
    """Return (n,) ranks and ties for one target per row; overwrites scores (n, I)."""
    return _hidden_last(*ranks(scores, target_scores[:, None]), hidden)


def _many_ranks(
    scores: Tensor, target_scores: Tensor, targets: tuple[Tensor, Tensor], hidden: Tensor | None
) -> Counted:
    """Return (r,) ranks and ties for several targets per row, best first within a row; scores are (n, I)."""
    rows = targets[0]
    pieces = zip(torch.split(rows, len(scores)), torch.split(target_scores, len(scores)), strict=True)
    counted = [ranks(scores[piece], wanted[:, None]) for piece, wanted in pieces]
    places, ties = _hidden_last(torch.cat([a for a, _ in counted]), torch.cat([b for _, b in counted]), hidden)
    order = torch.argsort(places, stable=True)
    order = order[torch.argsort(rows.to(places.device)[order], stable=True)]
    return places[order], ties[order]


def _hidden_last(places: Tensor, ties: Tensor, hidden: Tensor | None) -> Counted:
    """Return (r,) places and ties in which hidden targets have place inf and tie with nothing."""
    if hidden is None:
        return places, ties
    hidden = hidden.to(places.device)
    return places.masked_fill_(hidden, torch.inf), ties.masked_fill_(hidden, 1)


def seen_pairs(part: EvalPart, start: int, count: int) -> tuple[Ints, Ints]:
    """Return the row (from 0) and item of everything that users start..start + count - 1 of a part have seen."""
    offsets = part.seen_offsets[start : start + count + 1]
    rows = np.repeat(np.arange(count, dtype=np.int64), np.diff(offsets))
    return rows, part.seen[offsets[0] : offsets[-1]]


def _check_finite(vectors: Tensor, what: str) -> None:
    if not bool(torch.isfinite(vectors.sum())):
        bad = (~torch.isfinite(vectors).all(1)).sum()
        raise ConfigError(
            f"{int(bad)} of {len(vectors)} {what} vectors are not finite (NaN or infinite); train with a lower train.lr"
        )
