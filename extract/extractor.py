"""Catalog in, feature file out: decode ahead, batch, encode, write shards. A bad source costs its row, a crash a shard.

Batches never cross a shard, so a run that was killed and started again writes the same bytes as an unbroken one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from extract.catalog import Catalog
from extract.encoders import EncoderSpec
from extract.loading import Encoder, load_encoder
from extract.rows import ExtractOptions, Reader, Rows
from features.errors import ConfigError, MediaError
from features.provenance import FINGERPRINT_CHARS, Provenance, library_versions
from features.shards import FeatureJob, Wanted

__all__ = ["ExtractOptions", "ExtractReport", "extract", "recipe_of"]

LIBRARIES = (
    "freezeframe",
    "torch",
    "torchvision",
    "transformers",
    "pytorchvideo",
    "open_clip_torch",
    "decord",
    "av",
    "pillow",
)


@dataclass(frozen=True)
class ExtractReport:
    """What one encoder's run did.

    Attributes:
        path: the feature file.
        encoder: name of the encoder.
        fingerprint: of the recipe.
        counts: rows by state: 'done', 'missing', 'failed'.
        new_rows: rows made in this run.
        unchanged: nothing was to do.
        bad: (item id, state, reason) of every row that is not done.
        seconds: 'wait' for decoding, 'encode', 'write'.
        warning: what the user must know of the numbers, '' if nothing.
    """

    path: Path
    encoder: str
    fingerprint: str
    counts: dict[str, int]
    new_rows: int
    unchanged: bool
    bad: list[tuple[str, str, str]]
    seconds: dict[str, float] = field(default_factory=dict)
    warning: str = ""


def extract(
    catalog: Catalog,
    spec: EncoderSpec,
    options: ExtractOptions,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> ExtractReport:
    """Run one encoder over a catalog and return what became of it.

    Args:
        catalog: the items, in the order of the rows.
        spec: the encoder's entry.
        options: see ExtractOptions.
        progress: called with (rows made, rows to make) after every shard; what it raises ends the run, shards stay.

    Raises:
        ConfigError: an encoder or weights that cannot be used, or a catalog without a single source.
        MediaError: more bad rows than `max_failed` allows; shards stay, no feature file is written.
        StoreError: a full disk, or a file of another recipe in the way.
    """
    spec = spec.with_frames(options.frames)
    if len(catalog.missing(spec.modality)) == len(catalog.items):
        raise ConfigError(f"dataset {catalog.dataset!r} has not one {spec.modality}, which {spec.name} needs")
    encoder = load_encoder(spec, options.weights, options.seed)
    provenance = _provenance(catalog, encoder, options)
    job = _job(catalog, spec, options, provenance)
    warning = _warning(spec, options)
    new = len(job.pending)
    if job.unchanged:
        return _report(job, spec, 0, True, {}, warning)
    seconds = _make_shards(catalog, encoder.to(options.device), options, job, progress)
    _refuse_too_many(job, spec, options)
    began = time.perf_counter()
    job.finish()
    seconds["write"] += time.perf_counter() - began
    return _report(job, spec, new, False, seconds, warning)


def _warning(spec: EncoderSpec, options: ExtractOptions) -> str:
    if options.weights != "random":
        return ""
    return f"{spec.name} has RANDOM weights (seed {options.seed}): its features test the machinery, nothing else"


def recipe_of(encoder: Encoder, options: ExtractOptions) -> dict[str, Any]:
    """Return everything that fixes the numbers as plain data; its hash is the fingerprint."""
    spec = encoder.spec
    recipe: dict[str, Any] = {
        "encoder": spec.name,
        "modality": spec.modality,
        "weights": f"random, seed {options.seed}" if options.weights == "random" else "trained",
        "weights_sha256": encoder.weights_sha256,
        "width": encoder.width,
        "pooling": spec.pooling,
        "dtype": options.dtype,
        "precision": "float32",
    }
    if spec.modality == "title":
        return recipe | {"max_tokens": spec.max_tokens, "tokeniser": encoder.tokeniser}
    pixels = {name: getattr(spec, name) for name in ("resize", "crop", "mean", "std", "interpolation")}
    if spec.modality == "video":
        pixels |= {"frames": str(spec.frames), "decoder": options.decoder}
    return recipe | pixels


def _provenance(catalog: Catalog, encoder: Encoder, options: ExtractOptions) -> Provenance:
    return Provenance(
        dataset=catalog.dataset,
        recipe=recipe_of(encoder, options),
        weights_sha256=encoder.weights_sha256,
        libraries=library_versions(LIBRARIES),
        command=options.command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _job(catalog: Catalog, spec: EncoderSpec, options: ExtractOptions, provenance: Provenance) -> FeatureJob:
    dataset = re.sub(r"[^\w.-]+", "_", catalog.dataset)
    name = f"{dataset}.{spec.name}.{provenance.fingerprint[:FINGERPRINT_CHARS]}.h5"
    wanted = Wanted([item.id for item in catalog.items], [item.stamp(spec.modality) for item in catalog.items])
    options.out.mkdir(parents=True, exist_ok=True)
    return FeatureJob(options.out / name, provenance, wanted, retry_failed=options.retry_failed)


def _make_shards(
    catalog: Catalog,
    encoder: Encoder,
    options: ExtractOptions,
    job: FeatureJob,
    progress: Callable[[int, int], None] | None,
) -> dict[str, float]:
    """Make every pending row and return seconds of waiting for sources, encoding and writing."""
    seconds = {"wait": 0.0, "encode": 0.0, "write": 0.0}
    shards = job.shards(options.shard_size)
    if encoder.spec.modality == "title":  # similar lengths side by side: less padding; rows keep their place
        shards = [sorted(shard, key=lambda row: len(catalog.items[row].title or "")) for shard in shards]
    total, made = sum(len(shard) for shard in shards), 0
    with Reader([catalog.items[row] for shard in shards for row in shard], encoder.spec, options) as sources:
        for shard in shards:
            rows = Rows([catalog.items[row] for row in shard], encoder, options)
            for row in range(len(shard)):
                began = time.perf_counter()
                outcome = next(sources)
                seconds["wait"] += time.perf_counter() - began
                seconds["encode"] += rows.add(row, outcome)
            seconds["encode"] += rows.flush()
            began = time.perf_counter()
            job.write(rows.finished())
            seconds["write"] += time.perf_counter() - began
            made += len(shard)
            if progress:
                progress(made, total)
    return seconds


def _refuse_too_many(job: FeatureJob, spec: EncoderSpec, options: ExtractOptions) -> None:
    bad = job.rejected()
    if len(bad) <= options.max_failed * len(job.wanted.ids):
        return
    reasons = "; ".join(f"{item}: {reason}" for item, _, reason in bad[:3])
    raise MediaError(
        f"{spec.name}: {len(bad)} of {len(job.wanted.ids)} {spec.modality}s are missing or bad, more than --max-failed "
        f"{options.max_failed:g} allows ({reasons}); repair them, or raise --max-failed: what was made is kept"
    )


def _report(
    job: FeatureJob, spec: EncoderSpec, new: int, unchanged: bool, seconds: dict[str, float], warning: str
) -> ExtractReport:
    bad = job.rejected()
    states = [state for _, state, _ in bad]
    return ExtractReport(
        path=job.target,
        encoder=spec.name,
        fingerprint=job.provenance.fingerprint,
        counts={
            "done": len(job.wanted.ids) - len(bad),
            "missing": states.count("missing"),
            "failed": states.count("failed"),
        },
        new_rows=new,
        unchanged=unchanged,
        bad=bad,
        seconds=seconds,
        warning=warning,
    )
