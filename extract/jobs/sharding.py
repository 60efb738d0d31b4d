"""Cut, claim and make shards: the rows that one worker makes in one go, on any machine.

Shards and the batches inside them are cut the same way after every restart, so a run that was killed ends with the
same bytes as one that was not.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from extract.encoders.encoder import Encoder
from extract.encoders.preprocess import View, view_of
from extract.jobs.batches import Feeder
from extract.jobs.options import ExtractOptions
from extract.jobs.outputs import Output
from extract.jobs.reading import Request, Source, read_ahead
from extract.media.catalog import Catalog
from extract.media.folder_listing import Ignored
from extract.media.modality import Modality
from extract.media.sandbox import passes
from features.precision import disk_type
from features.provenance import Provenance
from features.shards.claims import Claims
from features.shards.job import FeatureJob, Wanted
from features.store import State

Progress = Callable[[int, int, int], None]
"""Takes (rows made, rows wanted, rows that failed in this run)."""


class Job(FeatureJob):
    """A feature job that makes rows again if they failed for a passing reason, whatever `retry_failed` says.

    Such rows of a finished file are pending from the start. Such rows of an unfinished run stand until
    `forget_passing` is called, by a run when it starts and never by its workers.
    """

    def __init__(self, target: Path, provenance: Provenance, wanted: Wanted, **options: bool) -> None:
        super().__init__(target, provenance, wanted, **options)
        self.forget_finished(passes)

    def forget_passing(self) -> None:
        """Drop the failed rows of an unfinished run if one of them failed for a passing reason."""
        if any(passes(reason) for _, _, reason in self.rejected()):
            self.forget_failed()


@dataclass(frozen=True, eq=False)
class Work:
    """One encoder's part of a run."""

    encoder: Encoder
    """The loaded encoder."""
    job: Job
    """The feature file in the making."""
    options: ExtractOptions
    """How to extract."""
    output: Output
    """What is stored of each item."""
    ignored: Ignored = field(default_factory=Ignored)
    """Files in the media folder that belong to no item."""
    seconds: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "encode": 0.0, "write": 0.0})
    """Wall clock spent so far, by stage."""
    failed: set[int] = field(default_factory=set)
    """Rows that this process has tried to make in this run, and that failed."""

    @property
    def modality(self) -> Modality:
        """Return the modality that the encoder reads."""
        return self.encoder.spec.modality

    @property
    def view(self) -> View | None:
        """Return what the encoder sees of media; None if it reads titles."""
        return view_of(self.encoder.spec, cropped=self.output.pixels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the numpy type on disk."""
        return np.dtype(np.uint8) if self.output.pixels else disk_type(self.options.disk_dtype)

    def since(self, before: Mapping[str, float]) -> dict[str, float]:
        """Return the seconds spent on decoding and encoding since `seconds` was `before`."""
        return {stage: round(self.seconds[stage] - before[stage], 3) for stage in ("decode", "encode")}

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
    """Position of the item in the catalog."""
    request: Request
    """The source to read."""
    takers: tuple[Work, ...]
    """The encoders that wait for it."""


@dataclass(frozen=True)
class Shard:
    """Tasks whose rows are written together, into one file per encoder."""

    name: str
    """Name of the shard, the same in every worker of a run."""
    tasks: tuple[Task, ...]
    """The sources to read, in order."""

    def rows(self, work: Work) -> list[int]:
        """Return the rows of one encoder, in the order in which they are written."""
        return [task.row for task in self.tasks if work in task.takers]

    @property
    def works(self) -> list[Work]:
        """Return the encoders that have rows here."""
        return list(dict.fromkeys(work for task in self.tasks for work in task.takers))

    @property
    def count(self) -> int:
        """Return the number of rows to make."""
        return sum(len(task.takers) for task in self.tasks)


def plan(catalog: Catalog, works: Sequence[Work], shard_size: int) -> list[Shard]:
    """Cut the rows that the finished feature files lack into shards; leave out rows that shards on disk hold.

    The cut depends on the finished files alone, so every worker and every restart cuts the same shards. Inside a shard
    videos come first, then covers, then titles by length, because batches of similar lengths need little padding.
    """
    pending = {work: set(work.job.pending) for work in works}
    rows = sorted(set().union(*(work.job.needed for work in works)))
    order: tuple[Modality, ...] = ("video", "cover", "title")
    shards = []
    for start in range(0, len(rows), shard_size):
        tasks = []
        for modality in order:
            for row in rows[start : start + shard_size]:
                takers = tuple(work for work in works if work.modality == modality and row in pending[work])
                views = dict.fromkeys(work.view for work in takers if work.view is not None)
                if takers:
                    tasks.append(Task(row, Request(catalog.items[row], modality, tuple(views)), takers))
        if tasks:
            shards.append(Shard(f"{rows[start]}-{shard_size}", tuple(sorted(tasks, key=_title_length))))
    return shards


def _title_length(task: Task) -> int:
    return len(task.request.item.title or "") if task.request.modality == "title" else -1


def claims_of(works: Sequence[Work]) -> Claims:
    """Return the claims that all workers of these encoders share, in a hidden folder beside the feature files."""
    options = works[0].options
    return Claims(options.out / f".{run_key(works)}.claims", stale_s=options.stale_s)


def run_key(works: Sequence[Work]) -> str:
    """Return a key that is equal in all runs and workers that make the same feature files, finished or not."""
    return hashlib.sha256(" ".join(sorted(work.job.target.name for work in works)).encode()).hexdigest()[:16]


def run_shards(
    catalog: Catalog, works: Sequence[Work], claims: Claims | None = None, progress: Progress | None = None
) -> int:
    """Make the shards that are neither made nor claimed by another worker; return how many others have claimed."""
    if not works:
        return 0
    shards = plan(catalog, works, works[0].options.shard_size)
    total = len(catalog.items) * len(works)
    done, elsewhere = total - sum(shard.count for shard in shards), 0
    if progress is not None:
        progress(done, total, failed_of(works))
    for shard in shards:
        with nullcontext(True) if claims is None else claims.take(shard.name) as mine:
            if mine:
                left = shard if claims is None else _left(shard)
                done += shard.count - left.count
                for count, finished in extract_shard(left):
                    done += count
                    if progress is not None and not finished:
                        progress(done, total, failed_of(works))
            else:
                elsewhere += 1
        if progress is not None and mine:  # after the write, so that rows reported as made are on disk
            progress(done, total, failed_of(works))
    return elsewhere


def failed_of(works: Sequence[Work]) -> int:
    """Return how many rows have failed in this run, those that other workers made since it began among them."""
    return sum(len(work.failed) + work.job.failed_of_others for work in works)


def _left(shard: Shard) -> Shard:
    """Return a shard without the rows that other workers have made since it was planned."""
    made = {work for work in shard.works if work.job.made_elsewhere(shard.rows(work))}
    tasks = (replace(task, takers=tuple(work for work in task.takers if work not in made)) for task in shard.tasks)
    return replace(shard, tasks=tuple(task for task in tasks if task.takers))


def extract_shard(shard: Shard) -> Iterator[tuple[int, bool]]:
    """Read, encode and write one shard; a worker does nothing else.

    Yields:
        (rows made since the last time, whether the shard is written), after each batch and at the end.
    """
    if not shard.tasks:
        return
    options = shard.tasks[0].takers[0].options
    feeders = {work: Feeder(work.encoder, work.options, work.output) for work in shard.works}
    before = {work: dict(work.seconds) for work in shard.works}
    made = 0
    with _full_precision(options.device), closing(read_ahead((t.request for t in shard.tasks), options)) as sources:
        for task in shard.tasks:
            start = time.perf_counter()
            source = next(sources)
            waited = time.perf_counter() - start
            full = [_feed(work, feeders[work], task, source, waited) for work in task.takers]
            made += len(task.takers)
            if any(full) and task is not shard.tasks[-1]:
                yield made, False
                made = 0
    for work, feeder in feeders.items():
        with work.timed("encode"):
            rows = feeder.finish()
        work.failed.update(
            row for row, state in zip(shard.rows(work), rows.states, strict=True) if state == State.FAILED
        )
        with work.timed("write"):
            work.job.write(rows, dtype=str(work.dtype), seconds=work.since(before[work]))
    yield made, True


def _feed(work: Work, feeder: Feeder, task: Task, source: Source, waited: float) -> bool:
    work.seconds["decode"] += waited
    wanted = work.job.wanted
    if source.state == State.FAILED:
        work.failed.add(task.row)
    with work.timed("encode"):
        return feeder.add(wanted.ids[task.row], wanted.stamps[task.row], source)


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Keep convolutions in float32 on GPUs, as the recipe says; torch would use TF32 there."""
    if not device.startswith("cuda"):
        return nullcontext()
    manager: AbstractContextManager[Any] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return manager
