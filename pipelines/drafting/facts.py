"""What a draft is chosen from: counts of a dataset and of its split.

Letters: U users, I items, E interactions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset
from pipelines.data.report import DataReport
from pipelines.data.split import Ints, Split

RARE = 5  # an item with fewer interactions has hardly a training row to learn an id from


@dataclass(frozen=True)
class Facts:
    """Counts of a dataset, split with every filter off."""

    users: int
    """U, the number of users in the split."""
    short_users: int
    """How many users were left out because they have too few interactions."""
    fewest: int
    """The fewest interactions of a user in the split."""
    items: int
    """I, the number of items that are ranked."""
    unseen_items: int
    """How many of these occur in no training row."""
    rare_items: int
    """How many items have fewer than `RARE` interactions."""
    further_items: int
    """How many items have a title, a video or a cover, but no interaction."""
    rows: int
    """E, the number of training interactions."""
    windows: int
    """How many windows of histories the training interactions are cut into."""
    targets: int
    """How many test targets there are."""
    cold_targets: int
    """How many of these occur in no training row."""
    repeats: int
    """Rows whose user and item occur in an earlier row."""
    duplicates: int
    """Rows whose user, item and time occur in an earlier row."""
    given_split: bool = False
    """Whether the split came with the dataset."""
    ordered: bool = True
    """Whether a user's interactions have an order."""

    @property
    def sequential(self) -> bool:
        """Return whether a model of sequences has something to learn from."""
        return self.ordered and self.windows > 0

    @property
    def cold_share(self) -> float:
        """Return the share, in [0, 1], of test targets that occur in no training row."""
        return self.cold_targets / max(1, self.targets)

    @property
    def rows_per_item(self) -> float:
        """Return the mean number of training interactions of an item."""
        return self.rows / max(1, self.items)


def interactions_per_user(dataset: Dataset, config: DataConfig) -> Ints:
    """Return the number of interactions (U,) of users who are not short; of a given split, of the training rows."""
    rows = dataset.interactions
    if dataset.given_split:
        rows = rows.filter(rows["part"] == 0)
    elif config.repeats != "keep":
        rows = rows.unique(["user", "item"])
    sizes = rows.group_by("user").len()["len"].to_numpy().astype(np.int64)
    return sizes if dataset.given_split else sizes[sizes >= config.min_interactions]


def length_of_most(lengths: Ints) -> int:
    """Return the number of interactions (U,) that nine of ten users do not exceed."""
    return int(np.quantile(lengths, 0.9, method="inverted_cdf"))


def gather(dataset: Dataset, report: DataReport, split: Split, lengths: Ints) -> Facts:
    """Return the facts of a dataset; `lengths` (U,) are those of `interactions_per_user`."""
    counts = dataset.interactions.group_by("item").len()["len"].to_numpy()
    return Facts(
        users=len(split.users),
        short_users=split.dropped_users,
        fewest=int(lengths.min()),
        items=len(split.items),
        unseen_items=int((split.train_counts == 0).sum()),
        rare_items=int((counts < RARE).sum()),
        further_items=max((joined.others for joined in report.joined), default=0),
        rows=split.train_edges.shape[1],
        windows=len(split.train.users),
        targets=len(split.test.targets),
        cold_targets=int((split.train_counts[split.test.targets] == 0).sum()),
        repeats=report.repeats,
        duplicates=report.duplicates,
        given_split=split.protocol == "given",
        ordered=dataset.ordered,
    )
