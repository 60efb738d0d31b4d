"""A corpus whose answer is known: users and items fall into clusters, and users only meet items of their own.

Every user has seen all but two items of a cluster's warm ones, in random order; with seen items hidden, a model that
has understood ranks the target first or second. Each cluster also has cold items, which nobody meets: only content
reaches them. Arrays are made directly, so that these tests need no reader and no splitter.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch

from models import build_recommender, recommenders
from models.base import PairBatch, Recommender, TrainBatch
from models.items import ItemsConfig, build_items
from pipelines.data.split import EvalPart, Split, TrainWindows
from pipelines.data.vocabulary import Vocabulary
from pipelines.experiment import training_facts

CLUSTERS, WARM, COLD, PER_CLUSTER, LENGTH = 4, 8, 2, 16, 6
USERS, ITEMS = CLUSTERS * PER_CLUSTER, CLUSTERS * (WARM + COLD)
CLUSTER_OF_ITEM = np.arange(ITEMS) % CLUSTERS
CLUSTER_OF_USER = np.arange(USERS) % CLUSTERS
IS_COLD = np.arange(ITEMS) >= CLUSTERS * WARM

REPRESENTATIONS = {
    "id": ItemsConfig(kind="id", dim=16),
    "v": ItemsConfig(kind="v", dim=16),
    "dnn": ItemsConfig(kind="dnn", dim=16),
    "id+v": ItemsConfig(kind="id+v", dim=16, fuse="sum"),
    "id+v concat": ItemsConfig(kind="id+v", dim=16, fuse="concat"),
    "id+v gate": ItemsConfig(kind="id+v", dim=16, fuse="gate"),
}


def _takes(model: type[Recommender], items: ItemsConfig) -> bool:
    return items.kind in model.takes and items.fuse in model.fuses


CASES = [
    (name, items if kind.uses_items else "none")
    for (name, kind), items in product(recommenders().items(), REPRESENTATIONS)
    if (_takes(kind, REPRESENTATIONS[items]) if kind.uses_items else items == "id")
]


def left_pad(rows: list[list[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, length) items and mask holding the ends of the rows."""
    items, mask = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), bool)
    for row, values in enumerate(rows):
        kept = values[-length:]
        items[row, length - len(kept) :] = kept
        mask[row, length - len(kept) :] = True
    return items, mask


def eval_part(histories: list[list[int]], targets: list[int], length: int = LENGTH) -> EvalPart:
    """Return a part of users 0..N-1 with these histories and targets."""
    items, mask = left_pad(histories, length)
    offsets = np.cumsum([0] + [len(history) for history in histories])
    seen = np.array([item for history in histories for item in history], np.int64)
    return EvalPart(np.arange(len(histories)), items, mask, np.array(targets, np.int64), seen, offsets)


def checkerboard(seed: int = 0) -> Split:
    """Return the corpus described above."""
    rng = np.random.default_rng(seed)
    sequences = [
        [int(i) for i in rng.permutation(np.flatnonzero((c == CLUSTER_OF_ITEM) & ~IS_COLD))[: WARM - 1]]
        for c in CLUSTER_OF_USER
    ]
    items, mask = left_pad([s[:-2] for s in sequences], LENGTH + 1)
    counts = np.bincount(items[mask], minlength=ITEMS)
    edges = np.stack([np.repeat(np.arange(USERS), mask.sum(1)), items[mask]])
    return Split(
        dataset="checkerboard",
        users=Vocabulary(tuple(f"u{u}" for u in range(USERS)), "user"),
        items=Vocabulary(tuple(f"i{i}" for i in range(ITEMS)), "item"),
        train=TrainWindows(np.arange(USERS), items, mask),
        valid=eval_part([s[:-2] for s in sequences], [s[-2] for s in sequences]),
        test=eval_part([s[:-1] for s in sequences], [s[-1] for s in sequences]),
        train_counts=counts,
        train_edges=edges,
        fingerprint=f"checkerboard-{seed}",
        dropped_users=0,
    )


def cluster_features(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return vectors that show an item's cluster, through noise and with an offset and a scale like real features'."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLUSTERS, 12))
    shown = centres[CLUSTER_OF_ITEM] + 0.1 * rng.normal(size=(ITEMS, 12))
    return {"video": torch.tensor(40 * shown + 7, dtype=torch.float32)}


def build(name: str, representation: str, seed: int = 0, split: Split | None = None, **options: Any) -> Recommender:
    """Return an untrained recommender with default options and the ones given."""
    split = split or checkerboard()
    generator = torch.Generator().manual_seed(seed)
    kind = recommenders()[name]
    items = None
    if kind.uses_items:
        items = build_items(REPRESENTATIONS[representation], ITEMS, cluster_features(), generator)
    return build_recommender(name, kind.config_class(**options), items, training_facts(split), generator)


def train_batch(split: Split) -> TrainBatch:
    """Return all training windows as one batch."""
    windows = split.train
    return TrainBatch(*(torch.from_numpy(array) for array in (windows.users, windows.items, windows.mask)))


def batch_for(model: Recommender, split: Split) -> TrainBatch | PairBatch:
    """Return all training windows, or all training pairs, as the model wants them."""
    if model.trains_on == "windows":
        return train_batch(split)
    return PairBatch(*torch.from_numpy(split.train_edges))
