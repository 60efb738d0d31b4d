"""What a recommender must beat: popularity and a first-order Markov chain, under every mask of seen items.

    python benchmarks/floors.py --data DIR [--keep-last 13]

The chain first ranks the items that followed the newest item of the history in training, by count; then that item
itself; then the rest by popularity. Items that are equal in all of this tie. Counts come from the training part. Prints
a table of results on the test part.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from models.popularity import MODEL as POPULARITY
from models.shared.recommender import NoInnerProduct, Recommender, TrainBatch, TrainingFacts, TrainOutput, UserBatch
from pipelines.data.data_config import DataConfig
from pipelines.data.load import load_data
from pipelines.data.split import Split
from pipelines.ranking.full_ranking import Mask, evaluate
from pipelines.runs.inputs import training_facts


class Markov(NoInnerProduct):
    """Followers of the newest item, by count."""

    def __init__(self, facts: TrainingFacts, followers: Any) -> None:
        super().__init__(None, None, facts)
        self.followers = followers  # (I, I) scipy CSR counts
        self.shares = (facts.item_counts / (facts.item_counts.max() + 1)).float()  # below 1, to decide among equals

    def forward(self, batch: TrainBatch) -> TrainOutput:
        """Nothing is trained."""
        raise NotImplementedError

    def scores(self, batch: UserBatch) -> Tensor:
        """Return (B, I): 1 + count for followers, 1 for the newest item itself; popularity between."""
        newest = batch.items[:, -1]
        counts = torch.from_numpy(self.followers[newest.numpy()].toarray()).float()
        scores = torch.where(counts > 0, 1 + counts, 0)
        rows = torch.arange(len(newest))
        scores[rows, newest] = scores[rows, newest].clamp(min=1)
        return scores + self.shares


def chain(split: Split) -> Any:
    """Return (I, I) counts of what came right after what in the training part."""
    from scipy.sparse import csr_array

    users, items = split.train_edges
    same = users[1:] == users[:-1]
    before, after = items[:-1][same], items[1:][same]
    shape = (len(split.items), len(split.items))
    return csr_array((np.ones(len(before), np.float32), (before, after)), shape=shape)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Popularity and a first-order Markov chain on the test part.")
    parser.add_argument("--data", required=True, help="a dataset folder")
    parser.add_argument("--keep-last", type=int, default=13, help="newest interactions of a user that are used")
    arguments = parser.parse_args()
    split = load_data(DataConfig(folder=arguments.data, keep_last=arguments.keep_last, max_length=10)).split
    facts = training_facts(split)
    models: dict[str, Recommender] = {
        "popularity": POPULARITY(POPULARITY.config_class(), None, facts),
        "Markov chain": Markov(facts, chain(split)),
    }
    sys.stdout.write(
        "| floor | mask | HR@10 | NDCG@10 | HR@20 | NDCG@20 |\n| --- | --- | ---: | ---: | ---: | ---: |\n"
    )
    for name, model in models.items():
        for mask in get_args(Mask):
            found = evaluate(model, split.test, split.train_counts, mask=mask).metrics
            cells = " | ".join(f"{found[metric]:.4f}" for metric in ("HR@10", "NDCG@10", "HR@20", "NDCG@20"))
            sys.stdout.write(f"| {name} | {mask} | {cells} |\n")


if __name__ == "__main__":
    main()
