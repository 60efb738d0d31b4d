"""The leave-one-out split: each user's last item is the test target, the one before it the validation target.

Letters: as in split.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields

import numpy as np
import polars as pl

from features.errors import ConfigError
from features.provenance import canonical_json
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset
from pipelines.data.filters import candidates, frequent_items, newest, without_repeats, without_short_users
from pipelines.data.split import EvalPart, Ints, Sequences, Split, encode, histories, windows
from pipelines.data.vocabulary import Vocabulary


def leave_one_out(dataset: Dataset, config: DataConfig, catalog_ids: Iterable[str] = ()) -> Split:
    """Return the leave-one-out split; arguments and errors are those of `make_split`."""
    if not dataset.ordered:
        raise ConfigError(
            f"{config.folder} has no timestamps ({dataset.layout}); leave-one-out needs an order: set data.split=given"
        )
    # sort users as the vocabulary does, by text: MMRec's rows are in the order of numbers, with 10 after 9
    frequent = frequent_items(without_repeats(dataset.interactions, config).sort("user", maintain_order=True), config)
    kept = without_short_users(frequent, config)
    tail = newest(kept, config)
    per_user = tail.group_by("user", maintain_order=True).len()
    users = Vocabulary(tuple(per_user["user"].to_list()), "user")
    items = Vocabulary(tuple(candidates(dataset, frequent, tail, config, catalog_ids)), "item")
    sizes = per_user["len"].to_numpy().astype(np.int64)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    sequences = Sequences(encode(tail["item"], items), offsets)
    owner = np.repeat(np.arange(len(users)), sizes)
    in_training = np.arange(len(owner)) < offsets[owner + 1] - 2
    edges = np.stack([owner[in_training], sequences.flat[in_training]])
    return Split(
        dataset=dataset.name,
        users=users,
        items=items,
        train=windows(sequences, offsets[1:] - 2, config.max_length),
        valid=_eval_part(sequences, offsets[1:] - 2, config.max_length),
        test=_eval_part(sequences, offsets[1:] - 1, config.max_length),
        train_counts=np.bincount(edges[1], minlength=len(items)),
        train_edges=edges,
        fingerprint=_fingerprint(users, items, sequences, config),
        dropped_users=dataset.users_met - len(users),
        dropped_items=_dropped_items(dataset, frequent, config),
    )


def _dropped_items(dataset: Dataset, frequent: pl.DataFrame, config: DataConfig) -> int:
    """Return how many items the filter removed; nothing is counted where there is no filter."""
    if not config.min_item_interactions:
        return 0
    return len(dataset.items_met) - frequent["item"].n_unique()


def _eval_part(sequences: Sequences, target: Ints, length: int) -> EvalPart:
    users = np.arange(len(target))
    items, mask, seen, offsets = histories(sequences, users, target, length)
    return EvalPart(users, items, mask, sequences.flat[target], seen, offsets)


def _fingerprint(users: Vocabulary, items: Vocabulary, sequences: Sequences, config: DataConfig) -> str:
    told = [users.ids, items.ids, config.max_length]
    if config.min_item_interactions:
        told.append([config.min_item_interactions, config.item_filter])
    digest = hashlib.sha256(canonical_json(told).encode())
    for column in fields(sequences):
        digest.update(getattr(sequences, column.name).tobytes())
    return digest.hexdigest()
