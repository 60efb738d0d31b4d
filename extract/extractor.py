"""Raw media to feature files: one pass over the items feeds all encoders, shard by shard; resumes where it stopped.

Shards and the batches inside them are cut the same way after every restart, so a run that was killed ends with the
same bytes as one that was not. Letters: B batch, I items, F feature width, T frames, H W pixels.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import torch

from extract.batches import Feeder
from extract.catalog import Catalog, Modality, stamp
from extract.decoders import get_decoder
from extract.encoder import Encoder, EncoderSpec
from extract.options import ExtractOptions, ExtractReport
from extract.reading import Request, Source, read_ahead
from features.errors import ConfigError, MediaError
from features.provenance import FINGERPRINT_CHARS, Provenance, library_versions
from features.shards import FeatureJob, Wanted

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "pytorchvideo",
    "decord",
    "av",
    "torchcodec",
    "pillow",
    "numpy",
)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Work:
    """One encoder's part of a run: what it encodes with, into what, and the time it took."""

    encoder: Encoder
    job: FeatureJob
    options: ExtractOptions
    seconds: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "encode": 0.0, "write": 0.0})

    @property
    def modality(self) -> Modality:
        """Return what the encoder reads."""
        return self.encoder.spec.modality

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's wall clock to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start


@dataclass(frozen=True)
class Task:
    """One item's source and the encoders that wait for it."""

    row: int
    request: Request
    takers: tuple[Work, ...]


def extract(
    catalog: Catalog, spec: EncoderSpec, options: ExtractOptions, *, progress: Progress | None = None
) -> ExtractReport:
    """Encode every item of a catalog with one encoder; see `extract_all`."""
    return extract_all(catalog, [spec], options, progress=progress)[0]


def extract_all(
    catalog: Catalog, specs: Sequence[EncoderSpec], options: ExtractOptions, *, progress: Progress | None = None
) -> list[ExtractReport]:
    """Encode every item of a catalog into one feature file per encoder, or bring those files up to date.

    Each video is decoded once for all encoders (the union of their frames), each cover read once.

    Args:
        catalog: the items; the order of the rows.
        specs: the encoders' entries.
        options: see there; `frames` is for video encoders and replaces the frames of all of them.
        progress: called with (rows there are, rows wanted) over all files after each batch; what it raises stops the
            run, and the next run goes on after the last finished shard.

    Raises:
        ConfigError: an option, weights, an encoder twice, or a modality the catalog lacks altogether.
        MediaError: more items without a vector than `max_failed`; the rows made so far are kept for the next run, and
            the files of the other encoders are written.
        StoreError: weights or a feature file that do not fit, or a full disk.
    """
    if options.frames is not None and all(spec.modality != "video" for spec in specs):
        names = ", ".join(spec.name for spec in specs)
        raise ConfigError(f"--frames {options.frames} is for videos, but {names} read none; leave --frames out")
    works = [prepare(catalog, spec, options) for spec in specs]
    targets = [work.job.target for work in works]
    twice = next((spec.name for spec, target in zip(specs, targets, strict=True) if targets.count(target) > 1), None)
    if twice is not None:
        raise ConfigError(f"encoder {twice!r} is given twice; name each encoder once")
    busy = [work for work in works if not work.job.unchanged]
    new_rows = {id(work): len(work.job.pending) if work in busy else 0 for work in works}
    _run(catalog, busy, options, progress)
    _finish(busy)
    return [_report(work, catalog, new_rows[id(work)], unchanged=work not in busy) for work in works]


def prepare(catalog: Catalog, spec: EncoderSpec, options: ExtractOptions) -> Work:
    """Load the encoder and open the feature job; the checks that need no media happen here."""
    get_decoder(options.decoder)
    _check_catalog(catalog, spec)
    if options.frames is not None and spec.modality == "video":
        spec = replace(spec, frames=options.frames)
    encoder = spec.backend(spec, options.weights, options.seed).to(options.device)
    provenance = Provenance(
        dataset=catalog.dataset,
        recipe=encoder.recipe()
        | {
            "dtype": options.dtype,
            "decoder": options.decoder if spec.modality == "video" else None,
            "precision": options.precision,
        },
        weights_sha256=encoder.weights_sha256,
        libraries=library_versions(LIBRARIES),
        command=options.command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if options.compile:
        encoder.compile()
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / feature_name(catalog.dataset, spec.name, provenance.fingerprint)
    wanted = Wanted([item.id for item in catalog.items], [stamp(item, spec.modality) for item in catalog.items])
    return Work(encoder, FeatureJob(target, provenance, wanted, retry_failed=options.retry_failed), options)


def feature_name(dataset: str, encoder: str, fingerprint: str) -> str:
    """Return the file name of features; signs that file systems dislike become '-'."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", dataset).strip("-")[:80] or "dataset"
    return f"{safe}.{encoder}.{fingerprint[:FINGERPRINT_CHARS]}.h5"


def _check_catalog(catalog: Catalog, spec: EncoderSpec) -> None:
    total, missing = len(catalog.items), catalog.count_missing()[spec.modality]
    if missing == total:
        raise ConfigError(
            f"dataset {catalog.dataset!r} has no {spec.modality} for any of its {total} items, which encoder "
            f"{spec.name!r} needs; check the folder or table of {spec.modality}s and that its names are the item ids"
        )


def plan(catalog: Catalog, works: Sequence[Work], shard_size: int) -> list[list[Task]]:
    """Cut the rows that any of `works` still needs into shards of tasks; the same cut after every restart.

    Inside a shard videos come first, then covers, then titles by length: batches of like lengths hold little padding.
    """
    pending = {id(work): set(work.job.pending) for work in works}
    rows = sorted(set().union(*pending.values()))
    order: tuple[Modality, ...] = ("video", "cover", "title")
    shards = []
    for start in range(0, len(rows), shard_size):
        tasks = []
        for modality in order:
            for row in rows[start : start + shard_size]:
                takers = tuple(w for w in works if w.modality == modality and row in pending[id(w)])
                policies = dict.fromkeys(w.encoder.spec.frames for w in takers if w.encoder.spec.frames)
                if takers:
                    tasks.append(Task(row, Request(catalog.items[row], modality, tuple(policies)), takers))
        shards.append(sorted(tasks, key=_title_length))
    return shards


def _title_length(task: Task) -> int:
    return len(task.request.item.title or "") if task.request.modality == "title" else -1


def _run(catalog: Catalog, works: Sequence[Work], options: ExtractOptions, progress: Progress | None) -> None:
    """Make and write the shards, decoding ahead across their borders."""
    shards = plan(catalog, works, options.shard_size)
    total = len(catalog.items) * len(works)
    done = total - sum(len(task.takers) for shard in shards for task in shard)
    sources = read_ahead((task.request for shard in shards for task in shard), options)
    try:
        with _full_precision(options.device):
            for shard in shards:
                for count, finished in extract_shard(shard, sources):
                    done += count
                    if progress is not None and not finished:
                        progress(done, total)
                if progress is not None:  # after the write: what a caller has been told of is on disk
                    progress(done, total)
    finally:
        sources.close()


def extract_shard(shard: Sequence[Task], sources: Iterator[Source]) -> Iterator[tuple[int, bool]]:
    """Encode one shard and write it, a file per encoder; takes one of `sources` per task.

    Yields:
        (rows made since, whether they are written) after each batch and at the end.
    """
    feeders = {id(work): (work, Feeder(work.encoder, work.options)) for task in shard for work in task.takers}
    made = 0
    for task in shard:
        start = time.perf_counter()
        source = next(sources)
        waited = time.perf_counter() - start
        for work in task.takers:
            work.seconds["decode"] += waited
            feeder = feeders[id(work)][1]
            wanted = work.job.wanted
            with work.timed("encode"):
                full = feeder.add(wanted.ids[task.row], wanted.stamps[task.row], source)
            made += 1
            if full and task is not shard[-1]:
                yield made, False
                made = 0
    for work, feeder in feeders.values():
        with work.timed("encode"):
            rows = feeder.finish()
        with work.timed("write"):
            work.job.write(rows)
    yield made, True


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Keep convolutions in float32 on GPUs, where torch would use TF32: the recipe says float32."""
    if not device.startswith("cuda"):
        return nullcontext()
    manager: AbstractContextManager[Any] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return manager


def _finish(works: Sequence[Work]) -> None:
    """Write the files of the encoders that had enough good items, then raise for the others."""
    failure: MediaError | None = None
    for work in works:
        try:
            _check_failures(work)
        except MediaError as error:
            failure = failure or error
            continue
        with work.timed("write"):
            work.job.finish()
    if failure is not None:
        raise failure


def _check_failures(work: Work) -> None:
    bad, total = work.job.rejected(), len(work.job.wanted.ids)
    if len(bad) <= work.options.max_failed * total:
        return
    missing = sum(state == "missing" for _, state, _ in bad)
    first = "; ".join(f"{item}: {reason}" for item, _, reason in bad[:3])
    raise MediaError(
        f"{len(bad)} of {total} items have no vector ({missing} missing, {len(bad) - missing} failed), more than "
        f"--max-failed {work.options.max_failed:g} allows. First: {first}. Repair them, or run again with "
        f"--max-failed {math.ceil(1000 * len(bad) / total) / 1000:g}; what is done is kept"
    )


def _report(work: Work, catalog: Catalog, new_rows: int, *, unchanged: bool) -> ExtractReport:
    bad = work.job.rejected()
    states = [state for _, state, _ in bad]
    counts = {name: states.count(name) for name in ("missing", "failed")}
    return ExtractReport(
        path=work.job.target,
        encoder=work.encoder.spec.name,
        modality=work.modality,
        fingerprint=work.job.provenance.fingerprint,
        counts={"done": len(catalog.items) - len(bad), **counts},
        new_rows=new_rows,
        unchanged=unchanged,
        bad=bad,
        seconds=dict(work.seconds),
        warning=work.encoder.warning,
    )
