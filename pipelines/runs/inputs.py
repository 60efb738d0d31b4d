"""What a run is made from: data, features, encoders that train, and the model built from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from features.errors import ConfigError
from features.store import FeatureFile
from models import build_recommender, recommenders
from models.items.build import Categories, build_items
from models.shared.recommender import Recommender, TrainingFacts
from pipelines.data.joining import refuse_foreign
from pipelines.data.load import Data, load_data
from pipelines.data.side_features import side_features
from pipelines.data.split import Split
from pipelines.recipe.recipe import Recipe
from pipelines.runs.frozen_vectors import read_vectors
from pipelines.runs.origin import refuse_origins, used
from pipelines.runs.record import refuse_changes, refuse_other_encoders
from pipelines.towers.media import media_of
from pipelines.towers.open_towers import Media, Towers, open_towers


def open_features(recipe: Recipe, split: Split) -> list[FeatureFile]:
    """Open the recipe's files; none for 'e2e', whose encoders open their own. StoreError for a file of other items."""
    if recipe.items.kind == "e2e":
        return []
    files = [FeatureFile(feature.resolve()) for feature in recipe.features]
    for file in used(recipe, files):
        refuse_foreign(file, split.items.ids, split.dataset)
    refuse_origins(recipe, files)
    return files


def training_facts(split: Split) -> TrainingFacts:
    """Return what a recommender may know about a split."""
    counts, edges = torch.from_numpy(split.train_counts), torch.from_numpy(split.train_edges)
    return TrainingFacts(len(split.users), len(split.items), counts, edges)


def build_model(
    recipe: Recipe,
    split: Split,
    files: Sequence[FeatureFile],
    sides: Mapping[str, Categories],
    towers: Towers | None = None,
) -> Recommender:
    """Build the recommender of a recipe with freshly initialised weights; ConfigError for impossible settings."""
    vectors, present = read_vectors(recipe, split, files)
    encoders = towers.towers if towers else {}
    generator = torch.Generator().manual_seed(recipe.seed)
    try:
        items = None
        if recommenders()[recipe.model.name].uses_items:
            items = build_items(recipe.items, len(split.items), vectors, generator, sides, encoders, present)
        facts = training_facts(split)
        return build_recommender(recipe.model.name, recipe.model.settings, items, facts, generator)
    except ValueError as error:
        said = re.sub(r"\buser number (\d+)", lambda found: f"user {split.users.ids[int(found[1])]!r}", str(error))
        raise ConfigError(f"recipe {recipe.name!r}: {said}") from error


@dataclass(frozen=True)
class Inputs:
    """What the model of a run is built from."""

    data: Data
    """The dataset and its split."""
    files: list[FeatureFile]
    """The recipe's feature files; none for kind 'e2e', whose encoders open their own."""
    sides: Mapping[str, Categories]
    """Categories of items, by name."""


def read_inputs(recipe: Recipe, folder: Path, data: Data | None = None) -> Inputs:
    """Read the data, feature files and categories that a recipe names; `data` is read only if not given.

    Raises:
        ConfigError: the run in `folder` was made from other data or other features.
        StoreError: a feature file is damaged, or belongs to other items.
    """
    data = data or load_data(recipe.data)
    files = open_features(recipe, data.split)
    sides = side_features(recipe.items.side, data.split, data.dataset)
    refuse_changes(folder, data.split, files, sides)
    return Inputs(data, files, sides)


def build(recipe: Recipe, inputs: Inputs, folder: Path, media: Media | None = None) -> tuple[Recommender, Towers]:
    """Return the model of a run, with freshly initialised weights, and its encoders that train.

    Args:
        recipe: the run's recipe.
        inputs: what `read_inputs` returned.
        folder: the run folder.
        media: what kind 'e2e' reads; by default the dataset's titles and the recipe's pixels.

    Raises:
        ConfigError: impossible settings, or a run in `folder` that was made with other encoders.
    """
    data = inputs.data
    media = media or media_of(data.dataset, data.split, recipe.features)
    towers = open_towers(recipe, data.split, inputs.files, media)
    refuse_other_encoders(folder, towers.facts)
    return build_model(recipe, data.split, inputs.files, inputs.sides, towers), towers
