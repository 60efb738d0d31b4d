"""Files of made-up pixels, for benchmarks that need pictures but no video library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from extract.encoders.spec import EncoderSpec
from extract.jobs.pixels import Pixels
from features.provenance import Provenance
from features.store import FeatureRows, write_features


def write_pixels(
    path: Path, spec: EncoderSpec, ids: Sequence[str], rng: np.random.Generator | None = None, dataset: str = "drawn"
) -> None:
    """Write a file of pixels that an encoder takes: one picture of noise per item, each with its own colour."""
    rng = rng or np.random.default_rng(0)
    made = Pixels(spec)
    contract = made.recipe()
    size, frames = contract["pixels"]["size"], spec.frames.count if spec.frames else 1
    colours = rng.integers(0, 206, (len(ids), 1, 1, 1, 3))
    noise = rng.integers(0, 50, (len(ids), frames, size, size, 3))
    blank = [""] * len(ids)
    rows = FeatureRows(ids, (colours + noise).astype(np.uint8), np.zeros(len(ids), np.uint8), blank, blank, blank)
    write_features(path, rows, Provenance(dataset, contract))
