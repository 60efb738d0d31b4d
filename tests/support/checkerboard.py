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
from models.items.build import ItemsConfig, build_items
from models.items.towers import Tower
from models.shared.host_copy import host_copy, sent
from models.shared.recommender import PairBatch, Recommender, TrainBatch
from models.shared.sequential import SequentialRecommender
from pipelines.data.split import EvalPart, Split, TrainWindows
from pipelines.data.vocabulary import Vocabulary
from pipelines.runs.inputs import training_facts

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
    "v mix": ItemsConfig(kind="v", dim=16, mix=True),
    "adapter": ItemsConfig(kind="adapter", dim=16, hidden=4),  # a bottleneck: the vectors have 12 numbers
    "top": ItemsConfig(kind="top", dim=16, encoder="toy"),
}


def _takes(model: type[Recommender], items: ItemsConfig) -> bool:
    if items.kind == "top" and not (issubclass(model, SequentialRecommender) or model.__name__ == "DSSM"):
        return False  # a few models show it; all would take as long again as the rest of the exam
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


def cluster_layers() -> dict[str, torch.Tensor]:
    """Return three layers (I, 3, F) of such vectors, at scales and with noise of their own."""
    shown = cluster_features()["video"]
    noise = torch.randn(2, *shown.shape, generator=torch.Generator().manual_seed(0))
    return {"video": torch.stack([0.1 * (shown + noise[0]) - 9, shown, 10 * (shown + noise[1])], dim=1)}


class InMemory:
    """A source of inputs (I, ...) that lie in memory."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs = inputs

    def read(self, items: torch.Tensor) -> torch.Tensor:
        return sent(self.inputs[host_copy(items)], items.device)


def toy_tower(seed: int = 0) -> Tower:
    """Return a tower of two layers over activations (I, 3, 12) that show an item's cluster."""
    shown = cluster_features()["video"][:, None]
    noise = torch.randn(ITEMS, 3, 12, generator=torch.Generator().manual_seed(0))
    activations = (shown + 4 * noise) / 40
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = torch.nn.Sequential(torch.nn.Flatten(1), torch.nn.Linear(36, 24), torch.nn.GELU())
        layers.append(torch.nn.Linear(24, 12))
    return Tower(InMemory(activations), layers, (layers,))


def build(name: str, representation: str, seed: int = 0, split: Split | None = None, **options: Any) -> Recommender:
    """Return an untrained recommender with default options and the ones given."""
    split = split or checkerboard()
    generator = torch.Generator().manual_seed(seed)
    kind = recommenders()[name]
    items = None
    if kind.uses_items:
        config = REPRESENTATIONS[representation]
        towers = {"toy": toy_tower(seed)} if config.kind == "top" else {}
        features = cluster_layers() if config.reads_layers else cluster_features()
        items = build_items(config, ITEMS, features, generator, towers=towers)
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
