"""A recipe's entry for a feature file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from features.errors import ConfigError
from features.store import AbsentPolicy

ChangedPolicy = Literal["error", "keep"]


@dataclass(frozen=True)
class FeatureConfig:
    """A feature file that the items are made from."""

    path: str
    """The file; may hold `*` as long as exactly one file matches (fingerprints need not be typed)."""
    absent: AbsentPolicy = "error"
    """What an item without a vector gets: 'error' stops, 'mean' the mean vector, 'zero' zeros. Without pixels it is the
    mean colour for both."""
    encoder: str | None = None
    """Name of the encoder that must have made the vectors or layers, or of the array that was imported; None takes any.
    """
    changed: ChangedPolicy = "error"
    """'error' stops where the dataset's titles or media are no longer those that the file was made from; 'keep' says
    how many differ and goes on."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse an empty path."""
        if not Path(self.path).name:
            raise ConfigError(f"features.path is {self.path!r}; name a feature file")

    def matches(self) -> list[Path]:
        """Return the files that `path` names."""
        pattern = Path(self.path)
        if pattern.is_file():  # also where its name holds characters that mean something in a pattern
            return [pattern]
        pieces = Path(pattern.anchor or ".").glob(str(pattern.relative_to(pattern.anchor)))
        return sorted(path for path in pieces if path.is_file())

    def resolve(self) -> Path:
        """Return the one file that `path` names; ConfigError when there are none or several."""
        found = self.matches()
        if len(found) == 1:
            return found[0]
        if not found:
            raise ConfigError(f"no feature file matches {self.path}; make it with `extract`, or check features.path")
        raise ConfigError(
            f"{len(found)} feature files match {self.path}: {', '.join(path.name for path in found[:3])}; name one"
        )
