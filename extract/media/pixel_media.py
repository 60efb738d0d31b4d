"""Files of `extract --pixels` as media: frames and covers that are already decoded, resized and cropped.

What was cut for one input contract fits encoders with the same one and no others: mean and deviation are applied when
the pixels are read. Letters: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import ConfigError, MediaError, StoreError
from features.store import FeatureFile, State

OPEN_FILES = 8  # that a process keeps mapped


@dataclass(frozen=True)
class PixelEntry:
    """One item's row in a file of pixels."""

    path: Path
    """The file."""
    key: str
    """The item id."""
    row: int
    """Where its pixels are."""
    digest: str
    """Of the bytes they were decoded from."""
    reason: str
    """Why there are none, '' where there are."""
    vectors_sha256: str
    """Of the file when it was listed."""

    @property
    def name(self) -> str:
        """Return how messages call it."""
        return f"{self.key} in {self.path.name}"


def is_pixel_file(path: Path) -> bool:
    """Return whether a path is a feature file, by its name."""
    return path.suffix == ".h5" and path.is_file()


def list_pixels(path: Path, what: str, dataset: str | None = None) -> dict[str, PixelEntry]:
    """Return item id -> entry of a file of pixels; items that had no source there are left out.

    Args:
        path: the file.
        what: 'videos' or 'covers'.
        dataset: refuse the file of another one.

    Raises:
        ConfigError: a feature file of vectors, or pixels of the other kind.
        StoreError: no feature file, a damaged one, or one of another dataset.
    """
    file = FeatureFile(path, dataset=dataset)
    held = contract_in(file)
    if held is None or f"{held['media']}s" != what:
        found = "vectors" if held is None else f"pixels of {held['media']}s"
        raise ConfigError(
            f"{path} is a feature file of {found}; as {what} it must hold their pixels: make it with `extract --pixels`"
        )
    columns = file.columns
    return {
        key: PixelEntry(path, key, row, columns.digests[row], columns.reasons[row], file.vectors_sha256)
        for row, key in enumerate(columns.ids)
        if columns.states[row] != State.MISSING
    }


def read_pixels(entry: PixelEntry) -> NDArray[np.uint8]:
    """Return an item's frames (T, H, W, 3), or its cover (H, W, 3).

    Raises:
        MediaError: it could not be decoded when the file was made.
        StoreError: the file is another one than when it was listed.
    """
    if entry.reason:
        raise MediaError(entry.reason)
    pixels, media = _mapped(entry.path, entry.vectors_sha256)
    row = np.array(pixels[entry.row])
    return row if media == "video" else row[0]


@lru_cache(OPEN_FILES)
def _mapped(path: Path, vectors_sha256: str) -> tuple[NDArray[np.uint8], str]:
    file = FeatureFile(path)
    held = contract_in(file)
    if held is None or file.vectors_sha256 != vectors_sha256:
        raise StoreError(f"{path} was replaced while it was read; run `extract` again")
    return file.mapped(), held["media"]


def contract_in(file: FeatureFile) -> Mapping[str, Any] | None:
    """Return the contract that a file's pixels were cut for; None where it holds none."""
    held: Mapping[str, Any] | None = file.provenance.recipe.get("pixels")
    return held if file.dtype == np.uint8 else None
