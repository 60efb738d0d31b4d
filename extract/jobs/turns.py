"""One run at a time brings a feature file up to date; another run of the same files helps it, and then looks itself."""

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
    """Yield the encoders, their jobs as the disk is now, while no other run is at work on the files.

    Where another run makes the same files, this one helps it as a worker, and its turn comes when that run has ended,
    however it did.

    Raises:
        ConfigError: a run that makes other files as well is at work on one of these; it is named.
    """
    busy = [work for work in works if not work.job.unchanged]
    if not busy:  # nothing is written then: nothing is locked
        yield list(works)
        return
    run = f"{run_key(works)}-{busy[0].options.shard_size}"  # shards of another size are other shards
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
    """Return the same with its job opened again, where files of it have changed; failed rows are tried once."""
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
    """Make what is left of some encoders; wait for the shards that workers elsewhere have, or inherit them."""
    told = False
    while left := run_shards(catalog, busy, claims_of(works), progress):
        if tell is not None and not told:
            tell(f"{left} shards are in the hands of other workers: waiting for them, or for a sign that they died")
            told = True
        time.sleep(POLL_S)
