"""Recommenders: tensors in, vectors out. One paper, one file; a file that defines `MODEL` is registered."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.listing.declared import Declared, NotPlainError, declared, declared_by

if TYPE_CHECKING:  # `described` needs no torch, and listing the recommenders does not wait for it
    import torch

    from models.shared.recommender import Recommender, TrainingFacts
    from models.shared.representation import ItemRepresentation


@cache
def recommenders() -> dict[str, type[Recommender]]:
    """Return all recommenders by name, which is the name of their file."""
    modules = {info.name: import_module(f"models.{info.name}") for info in pkgutil.iter_modules(__path__)}
    return {name: module.MODEL for name, module in sorted(modules.items()) if hasattr(module, "MODEL")}


def described() -> dict[str, Declared]:
    """Return what the files of all recommenders declare, by name, without importing them.

    A file whose facts are computed is imported after all.
    """
    found = {name: _described(name) for name in sorted(info.name for info in pkgutil.iter_modules(__path__))}
    return {name: facts for name, facts in found.items() if facts is not None}


def _described(name: str) -> Declared | None:
    try:
        return declared(f"models.{name}")
    except NotPlainError:
        return declared_by(recommenders()[name]) if name in recommenders() else None


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
    from models.shared.seeding import seeded

    if name not in recommenders():
        raise ValueError(f"unknown model {name!r}; known: {', '.join(recommenders())}")
    kind = recommenders()[name]
    if not isinstance(config, kind.config_class):
        raise ValueError(f"model {name!r} takes a {kind.config_class.__module__}.Config, not {config!r}")
    if kind.uses_items and items is None:
        raise ValueError(f"model {name!r} needs an item representation, but none is given; build one with build_items")
    with seeded(generator):
        return kind(config, items if kind.uses_items else None, facts)
