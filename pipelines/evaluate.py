"""Full ranking: every user's target against all items, in chunks of users.

Letters: N users, I items, D model width, S seen items of all users together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from features.errors import ConfigError
from models.base import Recommender, UserBatch
from pipelines.data.split import Bools, EvalPart, Ints
from pipelines.metrics import Floats, hit_rate, ndcg, ranks

Mask = Literal["keep", "hide", "strict"]
SCORES_CPU = 2**21  # scores at a time on a CPU: 8 MB stay in its cache through the passes that count ranks


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on one part.

    Attributes:
        metrics: 'HR@10', 'NDCG@10', ... over all users.
        warm: the same over users whose target occurs in training; None where there is none.
        cold: the same over users whose target does not; None where there is none.
        n_users: N.
        n_warm: users with a warm target.
        n_cold: users with a cold target.
        candidates: items ranked against each other, before any are hidden.
        mask: which seen items were hidden.
        ranks: (N,) in the order of the part's users; inf = the target itself was hidden, a miss at any K.
    """

    metrics: dict[str, float]
    warm: dict[str, float] | None
    cold: dict[str, float] | None
    n_users: int
    n_warm: int
    n_cold: int
    candidates: int
    mask: Mask
    ranks: Floats


def evaluate(
    model: Recommender,
    part: EvalPart,
    train_counts: Ints,
    *,
    mask: Mask,
    at: tuple[int, ...] = (10, 20),
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Rank every user's target among all items.

    Args:
        model: on `device`; put in eval mode meanwhile.
        part: the users, their histories and targets.
        train_counts: (I,) occurrences in training; 0 = cold item.
        mask: 'keep' hides nothing; 'hide' hides the items a user has seen, except the target; 'strict' hides the target
            too where it was seen before, which makes it a miss (as IISAN and MicroLens count).
        at: list lengths K.
        batch_size: users encoded at a time, and scored at a time on a GPU; a CPU scores as many as fit its cache.
        device: where to score.

    Raises:
        ConfigError: a mask that does not exist, no users, or vectors that are not finite.
    """
    if mask not in get_args(Mask):
        raise ConfigError(f"mask is {mask!r}; known: {', '.join(get_args(Mask))}")
    if not len(part.users):
        raise ConfigError("nothing to evaluate: the part has no users")
    training = model.training
    model.eval()
    try:
        user_ranks = _all_ranks(model, part, mask, batch_size, torch.device(device))
    finally:
        model.train(training)
    warm = train_counts[part.targets] > 0
    everyone = np.ones_like(warm)
    return Evaluation(
        metrics=_means(user_ranks, everyone, at) or {},
        warm=_means(user_ranks, warm, at),
        cold=_means(user_ranks, ~warm, at),
        n_users=len(warm),
        n_warm=int(warm.sum()),
        n_cold=int((~warm).sum()),
        candidates=len(train_counts),
        mask=mask,
        ranks=user_ranks,
    )


def _means(user_ranks: Floats, chosen: Bools, at: tuple[int, ...]) -> dict[str, float] | None:
    if not chosen.any():
        return None
    kept = user_ranks[chosen]
    return {
        f"{name}@{k}": float(metric(kept, k).mean()) for k in at for name, metric in (("HR", hit_rate), ("NDCG", ndcg))
    }


@torch.no_grad()
def _all_ranks(model: Recommender, part: EvalPart, mask: Mask, batch_size: int, device: torch.device) -> Floats:
    items = model.item_vectors() if model.inner_product else None
    if items is not None:
        _check_finite(items, "item")
    users, histories, real, targets = (
        torch.from_numpy(array).to(device) for array in (part.users, part.items, part.mask, part.targets)
    )
    size = batch_size if device.type != "cpu" else min(batch_size, max(1, SCORES_CPU // model.facts.n_items))
    # One buffer for all chunks: memory touched for the first time costs more than the product written to it.
    buffer = torch.empty(min(size, len(users)), model.facts.n_items, device=device)
    found = []
    for start in range(0, len(users), batch_size):
        rows = slice(start, start + batch_size)
        batch = UserBatch(users[rows], histories[rows], real[rows])
        for first, scores in _scores(model, batch, items, buffer):
            chunk = slice(start + first, start + first + len(scores))
            found.append(_chunk_ranks(scores, targets[chunk, None], part, chunk.start, mask))
    return torch.cat(found).cpu().numpy()


def _scores(model: Recommender, batch: UserBatch, items: Tensor | None, buffer: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (first user's row, scores (n, I)) of a batch; `items` are the vectors if the score is an inner product."""
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


def _chunk_ranks(scores: Tensor, targets: Tensor, part: EvalPart, start: int, mask: Mask) -> Tensor:
    """Return (n,) float64 ranks of the chunk of users that begins at `start`; overwrites scores (n, I)."""
    target_scores = scores.gather(1, targets)
    _check_finite(target_scores, "score")
    if mask == "keep":
        return ranks(scores, target_scores)
    rows, seen = (torch.from_numpy(array).to(scores.device) for array in seen_pairs(part, start, len(scores)))
    scores[rows, seen] = -torch.inf
    hidden = scores.gather(1, targets)[:, 0] == -torch.inf
    found = ranks(scores.scatter_(1, targets, target_scores), target_scores)
    return found.masked_fill_(hidden, torch.inf) if mask == "strict" else found


def seen_pairs(part: EvalPart, start: int, count: int) -> tuple[Ints, Ints]:
    """Return row (from 0) and item of everything seen by users start..start + count - 1 of a part."""
    offsets = part.seen_offsets[start : start + count + 1]
    rows = np.repeat(np.arange(count, dtype=np.int64), np.diff(offsets))
    return rows, part.seen[offsets[0] : offsets[-1]]


def _check_finite(vectors: Tensor, what: str) -> None:
    if not bool(torch.isfinite(vectors.sum())):
        bad = (~torch.isfinite(vectors).all(1)).sum()
        raise ConfigError(
            f"{int(bad)} of {len(vectors)} {what} vectors are not finite (NaN or infinite); train with a lower lr"
        )
