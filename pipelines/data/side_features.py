"""Side features of items (MicroLens, arXiv 2309.15379, Table 11): levels of popularity, and tags.

Letters: I items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np
import torch

from features.errors import ConfigError
from models.items.build import Categories
from pipelines.data.dataset import Dataset
from pipelines.data.split import Split

LEVELS = 10  # as in the paper; level 0 holds the tenth of the items that occur most often in training


def side_features(names: Iterable[str], split: Split, dataset: Dataset) -> dict[str, Categories]:
    """Return the categories for each name in a recipe's `items.side`.

    Raises:
        ConfigError: `names` holds 'tags', but the dataset has none.
    """
    return {name: popularity_levels(split) if name == "popularity" else tags(split, dataset) for name in names}


def popularity_levels(split: Split) -> Categories:
    """Return one of ten levels of training count per item; levels are equally large, ties go by the item's number."""
    count = len(split.items)
    order = np.argsort(-split.train_counts, kind="stable")
    levels = np.empty(count, dtype=np.int64)
    levels[order] = np.arange(count) * LEVELS // count
    return Categories(torch.from_numpy(levels), torch.arange(count + 1), LEVELS)


def tags(split: Split, dataset: Dataset) -> Categories:
    """Return the tags of each item, which may be several or none; ConfigError if the dataset has no tags."""
    if not dataset.tags:
        raise ConfigError(
            f"items.side names 'tags', but dataset {dataset.name!r} ({dataset.layout}) has none; "
            "remove 'tags' from items.side, or add them as docs/datasets.md says"
        )
    per_item = [dataset.tags.get(item, ()) for item in split.items.ids]
    known = sorted(set(chain.from_iterable(per_item)))
    number = {tag: place for place, tag in enumerate(known)}
    codes = torch.tensor([number[tag] for tag in chain.from_iterable(per_item)], dtype=torch.int64)
    sizes = torch.tensor([len(found) for found in per_item], dtype=torch.int64)
    return Categories(codes, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), max(len(known), 1))


def fingerprint(sides: Mapping[str, Categories]) -> str:
    """Return a sha256 of side features; a run resumes only with the same ones."""
    digest = hashlib.sha256()
    for name, side in sorted(sides.items()):
        digest.update(f"{name} {side.size} ".encode())
        digest.update(side.codes.numpy().tobytes() + side.offsets.numpy().tobytes())
    return digest.hexdigest()
