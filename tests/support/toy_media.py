"""A folder of clips, covers and titles to extract from, and what came of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.jobs.options import ExtractOptions
from extract.jobs.report import ExtractReport
from extract.media.catalog import Catalog, build_catalog
from features.store import FeatureFile
from tests.support.media import pictures, write_clip, write_cover

TITLES = [
    "cat plays piano",
    "football goals",
    "cooking rice",
    "a cat and a dog",
    "how to draw",
    "night drive",
    "猫 video",
]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    (folder / "videos").mkdir()
    (folder / "covers").mkdir()
    for number in range(7):
        size = (64, 96) if number % 2 else (90, 66)
        write_clip(folder / "videos" / f"{number}.mp4", pictures(20, size=size, kind=number))
        write_cover(folder / "covers" / f"{number}.jpg", kind=number)
    return folder


@pytest.fixture
def catalog(media: Path) -> Catalog:
    titles = {str(number): title for number, title in enumerate(TITLES)}
    return build_catalog("toy", None, videos=media / "videos", covers=media / "covers", titles=titles)


def options(out: Path, **changes: Any) -> ExtractOptions:
    return replace(ExtractOptions(out, weights="random", batch_size=3, shard_size=4), **changes)


def vectors(report: ExtractReport, ids: list[str]) -> np.ndarray[Any, Any]:
    return FeatureFile(report.path).read(ids)
