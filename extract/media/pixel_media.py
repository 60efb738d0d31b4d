"""Pixel files, made by `extract --pixels`, as media: frames and covers already decoded, resized and cropped.

Pixels that were cut for one input contract fit only encoders with the same one. Mean and standard deviation are applied
when the pixels are read. Letters: T frames, H W pixels.
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

OPEN_FILES = 8  # a process keeps this many mapped


@dataclass(frozen=True)
class PixelEntry:
    """One item's row in a pixel file."""

    path: Path
    """The pixel file."""
    key: str
    """The item id."""
    row: int
    """Number of the row that holds its pixels."""
    digest: str
    """Hash of the bytes that the pixels were decoded from."""
    reason: str
    """Why the row has no pixels; '' if it has them."""
    vectors_sha256: str
    """Hash of the pixels of the whole file when it was listed."""

    @property
    def name(self) -> str:
        """Return the name that messages use."""
        return f"{self.key} in {self.path.name}"


def is_pixel_file(path: Path) -> bool:
    """Return whether a path is a file with the suffix of feature files (.h5)."""
    return path.suffix == ".h5" and path.is_file()


def list_pixels(path: Path, what: str, dataset: str | None = None) -> dict[str, PixelEntry]:
    """Return item id -> entry of a pixel file, without the items that had no source when it was made.

    Args:
        path: the pixel file.
        what: 'videos' or 'covers'.
        dataset: dataset that the file must belong to; None for any.

    Raises:
        ConfigError: the file holds vectors, or pixels of the other kind.
        StoreError: not a feature file, a damaged one, or one of another dataset.
    """
    file = FeatureFile(path, dataset=dataset)
    held = contract_in(file)
    if held is None or f"{held['media']}s" != what:
        found = "vectors" if held is None else f"pixels of {held['media']}s"
        raise ConfigError(f"{path} holds {found}, not pixels of {what}; make a file of those with `extract --pixels`")
    columns = file.columns
    return {
        key: PixelEntry(path, key, row, columns.digests[row], columns.reasons[row], file.vectors_sha256)
        for row, key in enumerate(columns.ids)
        if columns.states[row] != State.MISSING
    }


def read_pixels(entry: PixelEntry) -> NDArray[np.uint8]:
    """Return an item's frames (T, H, W, 3) or its cover (H, W, 3), uint8.

    Raises:
        MediaError: the item could not be decoded when the file was made.
        StoreError: the file was replaced after it was listed.
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
    """Return the input contract that a file's pixels were cut for; None if it holds no pixels."""
    held: Mapping[str, Any] | None = file.provenance.recipe.get("pixels")
    return held if file.dtype == np.uint8 else None
