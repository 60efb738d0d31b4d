"""What a search needs to know of a model: its item vectors, and how many there are."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from features.errors import ConfigError
from models.shared.recommender import Recommender

Floats = NDArray[np.float32]
TOP = 10  # items in a list unless another number is asked for; fine for the smallest catalogue, too


def item_vectors(model: Recommender) -> Floats:
    """Return the model's (I, D) item vectors; ConfigError for a model whose scores are no inner products."""
    if not model.inner_product:
        raise ConfigError(
            f"{type(model).__name__}'s score is no inner product of a user and an item vector, so FAISS cannot search "
            "it; rank with `evaluate`, or train a model that the verb `models` lists as searchable"
        )
    with torch.inference_mode():
        vectors: Floats = model.item_vectors().float().cpu().numpy()
    return vectors


def check_top(top: int, items: int | None = None) -> None:
    """Raise ConfigError where no items are asked for, or, on the command line, more than the `items` there are."""
    if top < 1 or (items is not None and top > max(items, TOP)):
        most = "" if items is None else f", and at most the {items} that there are"
        raise ConfigError(f"--top is {top}; ask for at least 1{most}")
