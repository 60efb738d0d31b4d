"""What a search needs to know of a model: its item vectors, and how many there are."""

from __future__ import annotations

from features.errors import ConfigError
from models.shared.recommender import Recommender
from pipelines.runs.kept.kept_vectors import Floats, item_vectors

TOP = 10  # items in a list unless another number is asked for; fine for the smallest catalogue, too


def searchable_vectors(model: Recommender) -> Floats:
    """Return the model's (I, D) item vectors; ConfigError for a model whose scores are no inner products."""
    vectors = item_vectors(model)
    if vectors is None:
        raise ConfigError(
            f"{type(model).__name__}'s score is no inner product of a user and an item vector, so FAISS cannot search "
            "it; rank with `evaluate`, or train a model that the verb `models` lists as searchable"
        )
    return vectors


def check_top(top: int, items: int | None = None) -> None:
    """Raise ConfigError where no items are asked for, or, on the command line, more than the `items` there are."""
    if top < 1 or (items is not None and top > max(items, TOP)):
        most = "" if items is None else f", and at most the {items} that there are"
        raise ConfigError(f"--top is {top}; ask for at least 1{most}")
