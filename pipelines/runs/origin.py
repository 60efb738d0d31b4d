"""What made the content of a run's items: encoder, weights, faults. The feature file says so, never its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.errors import ConfigError
from features.store import FeatureFile
from models import recommenders
from models.shared.representation import CONTENT
from pipelines.recipe.recipe import Recipe
from pipelines.runs.frozen_vectors import content_for, content_of
from pipelines.runs.run_files import read_object

CLEAN = "clean"


@dataclass(frozen=True)
class Origin:
    """What made one part of the items' content."""

    name: str
    """The encoder's name, or that of an imported array whose encoder is not known."""
    content: str
    """What the file holds per item: 'vectors', 'layers', 'activations' or 'pixels'; 'media' where an encoder reads
    titles or pixels while it trains."""
    weights: str
    """Where the encoder's weights come from, such as 'random, seed 0' or 'MCG-NJU/videomae-base @ 1a2b3c'."""
    recipe: str = CLEAN
    """How the features were made: 'clean', 'microlens' (the benchmark's way), or 'unknown' for imported arrays."""
    faults: tuple[str, ...] = ()
    """Names of the benchmark's departures from correct use that the features have."""

    @property
    def random(self) -> bool:
        """Return whether the encoder's weights are random."""
        return self.weights.startswith("random")

    @property
    def label(self) -> str:
        """Return the name for a table, marked where weights are random, the recipe is faulty, or the array imported.

        >>> Origin("resnet50", "vectors", "random, seed 0").label
        'resnet50 (RANDOM weights)'
        """
        marks = [
            *(["RANDOM weights"] if self.random else []),
            *(["FAULTY recipe"] if self.faults else []),
            *(["imported"] if self.recipe == "unknown" else []),
        ]
        return self.name + (f" ({', '.join(marks)})" if marks else "")

    @property
    def line(self) -> str:
        """Return the whole origin in words."""
        faults = f" with its faults {', '.join(self.faults)}" if self.faults else ""
        return f"{self.content} of {self.name}, weights {self.weights}, recipe {self.recipe}{faults}"


def origin(file: FeatureFile) -> Origin:
    """Return what made a feature file."""
    made, content = file.provenance.recipe, content_of(file)
    if "encoder" not in made:
        name = str(made.get("name", file.path.stem))
        return Origin(name, content, f"imported from {made.get('source', 'an unknown source')}", "unknown")
    weights = f"random, seed {made.get('seed', 0)}"
    if made.get("weights") != "random":
        weights = file.provenance.weights_source or f"sha256 {file.provenance.weights_sha256[:12] or 'unknown'}"
    return Origin(
        str(made["encoder"]), content, weights, str(made.get("recipe", CLEAN)), tuple(map(str, made.get("faults", ())))
    )


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
