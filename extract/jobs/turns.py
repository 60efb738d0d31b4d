"""Let one run at a time update a feature file; a second run of the same files helps it and then takes its turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from extract.jobs.sharding import Progress, Work, claims_of, run_key, run_shards
from extract.media.catalog import Catalog
from features.errors import ConfigError
from features.shards.lock import POLL_S, RunLock


@contextmanager
def in_turn(
    catalog: Catalog,
    works: Sequence[Work],
    *,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[list[Work]]:
    """Yield the encoders, with their jobs as they are on disk now, while no other run works on the files.

    If another run makes the same files, this run helps it as a worker. Its own turn comes when the other run has ended,
    for whatever reason.

    Raises:
        ConfigError: a run of other encoders, or of another shard size, is at work on one of the files; it is named.
    """
    busy = [work for work in works if not work.job.unchanged]
    if not busy:  # nothing will be written, so nothing is locked
        yield list(works)
        return
    run = f"{run_key(works)}-{busy[0].options.shard_size}"  # shards of another size are different shards
    lock = RunLock([work.job.target for work in busy], run, stale_s=busy[0].options.stale_s)
    owner = lock.take()
    if owner is not None:
        if owner.run != run:
            raise ConfigError(
                f"{owner} is at work on {owner.target}; wait until it has ended, name the same --encoders and "
                "--shard-size to help it, or choose another --out"
            )
        if tell is not None:
            tell(f"{owner} is at work on {owner.target}: helping it")
        run_shards(catalog, busy, claims_of(works), progress)
        lock.wait()
    try:
        yield [_as_it_is(work, helped=owner is not None) for work in works]
    finally:
        lock.release()


def _as_it_is(work: Work, *, helped: bool) -> Work:
    """Return the work, its job opened again if its files have changed; a run that helped does not retry failed rows."""
    if not helped and not work.job.overtaken:
        return work
    return replace(work, job=work.job.reopened(retry_failed=work.options.retry_failed and not helped))


def make_all(
    catalog: Catalog,
    busy: Sequence[Work],
    works: Sequence[Work],
    *,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Make all shards that are left; wait for those that other workers hold, and take over those of dead workers."""
    told = False
    while left := run_shards(catalog, busy, claims_of(works), progress):
        if tell is not None and not told:
            tell(f"other workers hold {left} shards: waiting until they are made, or until their workers count as dead")
            told = True
        time.sleep(POLL_S)
