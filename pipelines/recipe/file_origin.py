"""What made a feature file: encoder, weights, faults. The file itself says so, never its name."""

from __future__ import annotations

from dataclasses import dataclass

from features.store import FeatureFile

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


def content_of(file: FeatureFile) -> str:
    """Return what a file holds per item: 'vectors', 'layers', 'activations' or 'pixels'."""
    if len(file.shape) != 3:
        return "vectors" if len(file.shape) == 2 else "pixels"
    return "layers" if "layers" in file.provenance.recipe else "activations"
