"""Recommenders: tensors in, vectors out. One paper, one file; a file that defines `MODEL` is registered."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import Any

import torch

from models.shared.recommender import Recommender, TrainingFacts
from models.shared.representation import ItemRepresentation
from models.shared.seeding import seeded


@cache
def recommenders() -> dict[str, type[Recommender]]:
    """Return all recommenders by name, which is the name of their file."""
    modules = {info.name: import_module(f"models.{info.name}") for info in pkgutil.iter_modules(__path__)}
    return {name: module.MODEL for name, module in sorted(modules.items()) if hasattr(module, "MODEL")}


def build_recommender(
    name: str, config: Any, items: ItemRepresentation | None, facts: TrainingFacts, generator: torch.Generator
) -> Recommender:
    """Build a recommender on the CPU.

    Args:
        name: one of `recommenders()`.
        config: an instance of its `config_class`.
        items: from `build_items`; None where `uses_items` is False.
        facts: what the model may know of the training part.
        generator: source of the initial weights (CPU).

    Raises:
        ValueError: the name is unknown, the config belongs to another model, or items are missing.
    """
    if name not in recommenders():
        raise ValueError(f"unknown model {name!r}; known: {', '.join(recommenders())}")
    kind = recommenders()[name]
    if not isinstance(config, kind.config_class):
        raise ValueError(f"model {name!r} takes a {kind.config_class.__module__}.Config, not {config!r}")
    if kind.uses_items and items is None:
        raise ValueError(f"model {name!r} needs an item representation, but none is given; build one with build_items")
    with seeded(generator):
        return kind(config, items if kind.uses_items else None, facts)
