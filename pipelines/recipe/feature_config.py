"""The section `features` of a recipe: its entries for feature files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from features.errors import ConfigError
from features.paths import readings
from features.store import AbsentPolicy

ChangedPolicy = Literal["error", "keep"]


@dataclass(frozen=True)
class FeatureConfig:
    """A feature file that the items are made from."""

    path: str
    """The file. It may hold `*` if exactly one file matches, so that nobody has to type fingerprints."""
    absent: AbsentPolicy = "error"
    """What happens to an item without a vector: 'error' stops, 'mean' gives it the mean vector, 'zero' gives it zeros.
    In files of pixels both 'mean' and 'zero' give it the mean colour."""
    encoder: str | None = None
    """Name of the encoder that must have made the vectors or layers, or of the imported array; None accepts any."""
    changed: ChangedPolicy = "error"
    """What happens if the dataset's titles or media differ from those that the file was made from: 'error' stops,
    'keep' says how many differ and goes on."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse an empty path."""
        if not Path(self.path).name:
            raise ConfigError(f"features.path is {self.path!r}; name a feature file")

    def matches(self) -> list[Path]:
        """Return the files that `path` names."""
        for pattern in readings(self.path):
            if pattern.is_file():  # even if its name holds characters with a meaning in patterns
                return [pattern]
            pieces = Path(pattern.anchor or ".").glob(str(pattern.relative_to(pattern.anchor)))
            if found := sorted(path for path in pieces if path.is_file()):
                return found
        return []

    def resolve(self) -> Path:
        """Return the one file that `path` names; ConfigError if there are none or several."""
        found = self.matches()
        if len(found) == 1:
            return found[0]
        if not found:
            raise ConfigError(f"no feature file matches {self.path}; make it with `extract`, or check features.path")
        raise ConfigError(
            f"{len(found)} feature files match {self.path}: {', '.join(path.name for path in found[:3])}; name one"
        )
