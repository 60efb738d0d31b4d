"""Files of decoded frames and covers in miniature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from extract.encoders.registry import ENCODERS
from extract.jobs.extractor import extract
from extract.jobs.options import ExtractOptions
from extract.media.catalog import Catalog, build_catalog
from extract.media.covers.image import read_cover
from extract.media.decoders import read_auto
from features.store import FeatureFile, FeatureRows, write_features
from tests.support.media import pictures, write_clip, write_cover

COUNT, BAD = 7, "2"
GOOD = [str(number) for number in range(COUNT) if str(number) != BAD]
SPEC = {"video": ENCODERS["videomae-tiny"], "cover": ENCODERS["resnet-tiny"]}


def write_media(folder: Path, ids: list[str], *, broken: str = "") -> Catalog:
    for place in ("videos", "covers"):
        (folder / place).mkdir(parents=True)
    for kind, item in enumerate(ids):
        write_clip(folder / "videos" / f"{item}.mp4", pictures(12, size=(80, 120), kind=kind))
        write_cover(folder / "covers" / f"{item}.png", kind=kind, size=(100, 70))
    if broken:
        for path in (folder / "videos" / f"{broken}.mp4", folder / "covers" / f"{broken}.png"):
            path.write_bytes(b"")
    return build_catalog("toy", [*ids, "nothing"], videos=folder / "videos", covers=folder / "covers")


def options(out: Path, **changes: Any) -> ExtractOptions:
    run = ExtractOptions(
        out, weights="random", dtype="float32", pixels=True, batch_size=2, shard_size=3, max_failed=0.5
    )
    return replace(run, **changes)


def made(out: Path, catalog: Catalog, media: str, **changes: Any) -> FeatureFile:
    return FeatureFile(extract(catalog, SPEC[media], options(out, **changes)).path)


def source(catalog: Catalog, item: str, media: str) -> Path:
    entry = next(entry for entry in catalog.items if entry.id == item)
    path = entry.video if media == "video" else entry.cover
    assert isinstance(path, Path)
    return path


def decoded(catalog: Catalog, item: str, media: str) -> np.ndarray[Any, Any]:
    path = source(catalog, item, media)
    if media == "cover":
        return read_cover(path)
    policy = SPEC["video"].frames
    assert policy is not None
    return read_auto(path, policy).frames


def from_pixels(catalog: Catalog, file: FeatureFile, media: str) -> Catalog:
    ids = [item.id for item in catalog.items]
    return build_catalog("toy", ids, **{f"{media}s": file.path})  # type: ignore[arg-type]


def subset(file: FeatureFile, path: Path, ids: list[str], **changes: Any) -> Path:
    """Write some rows of a file of pixels; `changes` replace parts of the provenance."""
    rows = file.rows(ids).tolist()
    texts = [[getattr(file.columns, name)[row] for row in rows] for name in ("reasons", "stamps", "digests")]
    vectors = np.array(file.mapped()[rows])
    write_features(
        path, FeatureRows(ids, vectors, file.columns.states[rows], *texts), replace(file.provenance, **changes)
    )
    return path
