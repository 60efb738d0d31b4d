"""Where a feature file comes from: recipe, fingerprint, weights hash, library versions, command.

A recipe is plain JSON data that fixes the numbers: encoder, weights hash, frames, preprocessing, pooling, precision.
Its fingerprint names the file, so two recipes can never share one. Versions, dates and commands are recorded but do
not enter the fingerprint, because a recipe is the same on another day or machine.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from features.atomic import fsync_folder, write_atomic
from features.errors import StoreError

__all__ = [
    "Provenance",
    "canonical_json",
    "file_sha256",
    "fingerprint",
    "fsync_folder",
    "library_versions",
    "write_atomic",
]

FINGERPRINT_CHARS = 16  # 64 bits in file names; the file itself holds the whole sha256


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces; NaN and infinities are refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """Return the sha256 (64 hex characters) of a recipe; independent of key order."""
    return hashlib.sha256(canonical_json(recipe).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hex characters."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of the named distributions and of Python; 'absent' for those not installed."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


@dataclass(frozen=True)
class Provenance:
    """What a feature file says of itself."""

    dataset: str
    """Name of the dataset that the ids belong to; readers refuse a file of another dataset."""
    recipe: Mapping[str, Any]
    """Plain JSON data that fixes the numbers (see module docstring)."""
    weights_sha256: str = ""
    """Hash of the encoder's tensors as loaded, "" if there is no encoder (imported features)."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Versions of libraries, by distribution name."""
    command: str = ""
    """The command line that made the file."""
    created: str = ""
    """When the file was made, in UTC, ISO 8601."""
    weights_source: str = ""
    """Where the encoder's weights were taken from, such as 'MCG-NJU/videomae-base @ 1a2b3c4d'; "" for random weights
    and in files of versions that did not record it."""

    @property
    def fingerprint(self) -> str:
        """Return the sha256 of the recipe."""
        return fingerprint(self.recipe)

    def to_json(self) -> str:
        """Return all fields as JSON text; characters that are not Unicode (odd file names in a command) read '?'."""
        return canonical_json(asdict(self)).encode(errors="replace").decode()

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read what `to_json` wrote; StoreError on anything else."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise StoreError(f"provenance is not readable ({error})") from error
