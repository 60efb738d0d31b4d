"""What made the content of a run's items, as its feature files say it and as its record keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from features.errors import ConfigError
from features.store import FeatureFile
from models import recommenders
from models.shared.representation import CONTENT
from pipelines.recipe.file_origin import Origin, content_of, origin
from pipelines.recipe.recipe import Recipe
from pipelines.runs.frozen_vectors import content_for
from pipelines.runs.run_files import read_object


def used(recipe: Recipe, files: Sequence[FeatureFile]) -> list[FeatureFile]:
    """Return the files that a recipe's kind of items is made from; a recipe may also list files for other kinds."""
    items = recipe.items
    if not recommenders()[recipe.model.name].uses_items:
        return []
    if items.kind in CONTENT:
        return [file for file in files if content_of(file) == content_for(items)]
    if items.kind == "top":
        return [
            file
            for file in files
            if content_of(file) == "activations" and file.provenance.recipe.get("encoder") in items.encoders
        ]
    return []


def refuse_origins(recipe: Recipe, files: Sequence[FeatureFile]) -> None:
    """Raise ConfigError if a file is not by the encoder that the recipe names, or clean and faulty files are mixed."""
    chosen = used(recipe, files)
    for number, (file, feature) in enumerate(zip(files, recipe.features, strict=False)):
        found = origin(file).name
        if feature.encoder is not None and file in chosen and found != feature.encoder:
            raise ConfigError(
                f"features.{number}.encoder is {feature.encoder!r}, but {file.path} was made by {found!r}; name the "
                f"file of {feature.encoder!r}, or set features.{number}.encoder={found}"
            )
    ways = {(where.recipe, where.faults): file.path for file in chosen for where in [origin(file)]}
    if len(ways) > 1 and not recipe.mix_recipes:
        told = "; ".join(
            f"{path.name}: {way}{', ' + ' '.join(faults) if faults else ''}" for (way, faults), path in ways.items()
        )
        raise ConfigError(
            f"recipe {recipe.name!r} mixes feature files made in {len(ways)} ways ({told}); give files of one recipe, "
            "or set mix_recipes=true"
        )


def described(
    recipe: Recipe, files: Sequence[FeatureFile], encoders: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the origins of a run's content as plain data for its record.

    Args:
        recipe: the run's recipe.
        files: its feature files.
        encoders: facts about the encoders that train, from `Towers.facts`.
    """
    found = [origin(file) for file in used(recipe, files)]
    if recipe.items.kind == "e2e":
        for facts in encoders:
            random = f"random, seed {facts.get('seed', 0)}"
            weights = (
                random if facts["weights"] == "random" else f"{facts['weights']}, sha256 {facts['weights_sha256'][:12]}"
            )
            found.append(Origin(facts["encoder"], "media", weights))
    return [asdict(one) for one in found]


def of_run(folder: Path) -> list[Origin] | None:
    """Return the origins in a run's record; None if an earlier version wrote it without them."""
    path = folder / "record.json"
    listed = read_object(path).get("content") if path.is_file() else None
    if listed is None:
        return None
    try:
        return [Origin(**{**one, "faults": tuple(one["faults"])}) for one in listed]
    except (TypeError, KeyError) as error:
        raise ConfigError(f"{path} is damaged ({error}); delete the run folder and train again") from error
