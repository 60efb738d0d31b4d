"""The frozen vectors, or layers, that a recipe's items are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from features.errors import ConfigError
from features.store import FeatureFile
from models import recommenders
from models.shared.representation import CONTENT, ItemsConfig
from pipelines.data.split import Split
from pipelines.recipe.file_origin import content_of
from pipelines.recipe.recipe import Recipe

Tensors: TypeAlias = Mapping[str, Tensor]


def read_vectors(recipe: Recipe, split: Split, files: Sequence[FeatureFile]) -> tuple[Tensors, Tensors]:
    """Read the feature files that a recipe's kind of items uses.

    Other files are ignored, so that one recipe can list files for several kinds.

    Args:
        recipe: its `items` say whether vectors or layers are wanted.
        split: the split whose items are read.
        files: the recipe's files, in its order.

    Returns:
        Two mappings by file: vectors (I, F) or layers (I, L, F), and which items have their own (I,) bool. An item
        without its own has the filling that the recipe asks for. Both are empty for kinds that read no whole files
        ('id', 'top', 'e2e').

    Raises:
        ConfigError: there are files, but none that the kind can use.
        StoreError: as `FeatureFile.read`.
    """
    items = recipe.items
    if items.kind not in CONTENT or not recommenders()[recipe.model.name].uses_items:
        return {}, {}
    wanted = content_for(items)
    if files and all(content_of(file) != wanted for file in files):
        raise ConfigError(_refusal(recipe, files[0]))
    vectors, present = {}, {}
    for number, (file, feature) in enumerate(zip(files, recipe.features, strict=True)):
        if content_of(file) == wanted:
            name = f"{number}:{file.path.stem}"
            vectors[name] = torch.from_numpy(file.read(split.items.ids, absent=feature.absent))
            present[name] = torch.from_numpy(file.done(split.items.ids))
    return vectors, present


def content_for(items: ItemsConfig) -> str:
    """Return what a kind of items that is made from frozen content reads: 'vectors' or 'layers'."""
    return "layers" if items.reads_layers else "vectors"


def _refusal(recipe: Recipe, file: FeatureFile) -> str:
    items, found = recipe.items, content_of(file)
    said = f"items.kind is {items.kind!r}"
    if items.reads_layers:
        mixed = "" if items.kind == "adapter" else " with items.mix"
        return (
            f"{said}{mixed}, which reads layers, but {file.path} holds {found} of shape {file.shape[1:]} per item; "
            "make a file of layers with `extract --layers all`"
        )
    instead = "set items.mix=true, or use kind 'adapter'" if found == "layers" else "use kind 'top' or 'e2e'"
    return (
        f"{said}, but {file.path} holds {found} of shape {file.shape[1:]} per item; extract vectors (without "
        f"--top-blocks, --layers and --pixels), or {instead}"
    )
