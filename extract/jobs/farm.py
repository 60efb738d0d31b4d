"""Extract with many workers: each makes the shards that no other worker has claimed.

A worker is anything that runs `work` on the shared folder: a process of this machine, a Ray task, a task of a Slurm
array. All that counts is the finished shards, so any worker may die at any moment and be started again. The last
command merges the shards.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from extract.encoders.registry import get_encoder
from extract.jobs.changed_sources import Tell
from extract.jobs.extractor import finish, forget_failed, prepare_all, report
from extract.jobs.options import ExtractOptions
from extract.jobs.report import ExtractReport
from extract.jobs.sharding import Progress, Work, claims_of, failed_of, run_shards
from extract.jobs.turns import in_turn, make_all
from extract.media.catalog import Catalog
from features.errors import ConfigError, FreezeframeError

POLL_S = 0.5
PATIENCE = 3  # replacements of dead workers, per worker; after that the parent makes the rest


@dataclass(frozen=True)
class Order:
    """What a worker needs to know, as plain data that can be sent to any process or machine."""

    catalog: Catalog
    """The items."""
    encoders: tuple[str, ...]
    """Names of the encoders."""
    options: ExtractOptions
    """How to extract."""


def work(order: Order, *, progress: Progress | None = None) -> int:
    """Make shards until other workers have claimed all that are left; return how many those are.

    It neither merges nor counts failures: `extract` on the same folder does that.
    """
    return make_unclaimed(order, prepared(order, progress=progress), progress=progress)


def prepared(order: Order, *, progress: Progress | None = None, tell: Tell | None = None) -> list[Work]:
    """Load each encoder of an order once and open its job; raise the errors of `extract_all`."""
    specs = [get_encoder(name) for name in order.encoders]
    return prepare_all(order.catalog, specs, order.options, progress=progress, tell=tell)


def make_unclaimed(order: Order, works: Sequence[Work], *, progress: Progress | None = None) -> int:
    """Do what `work` does with encoders that are loaded already."""
    busy = [work for work in works if not work.job.unchanged]
    # claims are named after all encoders, finished or not, so that workers that start late find the same ones
    return run_shards(order.catalog, busy, claims_of(works), progress) if busy else 0


def extract_locally(
    order: Order, processes: int, *, progress: Progress | None = None, tell: Tell | None = None
) -> list[ExtractReport]:
    """Extract with several processes on this machine; with CUDA they take its GPUs in turn.

    A process that dies is replaced a few times. The parent makes what is left in the end. Raises the errors of
    `extract_all`.
    """
    if processes < 1:
        raise ConfigError(f"--processes is {processes}; give at least 1")
    if processes > 1 and sys.platform == "win32":  # which tells no process that its parent has died
        raise ConfigError(f"--processes is {processes}; Windows runs one")
    return extract_by(order, lambda busy: _supervise(order, processes, busy, progress), progress=progress, tell=tell)


def extract_by(
    order: Order,
    supervise: Callable[[list[Work]], None],
    *,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> list[ExtractReport]:
    """Extract with whatever workers `supervise` runs, then make what they left, and merge.

    Args:
        order: what to extract.
        supervise: runs workers that call `work(order)`. It gets the encoders that have work to do, and returns when
            no worker is left, however they ended.
        progress: as in `extract_all`.
        tell: as in `extract_all`.

    Raises:
        The errors of `extract_all`.
    """
    works = prepared(order, progress=progress, tell=tell)
    asked = {work.job.target: len(work.job.pending) for work in works if not work.job.unchanged}
    with in_turn(order.catalog, works, progress=progress, tell=tell) as works:
        forget_failed(works)
        busy = [work for work in works if not work.job.unchanged]
        asked |= {work.job.target: max(asked.get(work.job.target, 0), len(work.job.pending)) for work in busy}
        if busy:
            supervise(busy)
            works = [replace(work, job=work.job.reopened()) for work in works]  # with what the workers made
            busy = [work for work in works if not work.job.unchanged]
            make_all(order.catalog, busy, works, progress=progress, tell=tell)
            finish(busy)
        claims_of(works).clear()
        return [report(work, asked.get(work.job.target, 0), unchanged=work.job.target not in asked) for work in works]


def _supervise(order: Order, processes: int, works: Sequence[Work], progress: Progress | None) -> None:
    """Run the processes until all have finished or too many have died; report progress from the shards on disk."""
    running = {number: _start(order, number) for number in range(processes)}
    deaths = 0
    try:
        while running:
            time.sleep(POLL_S)
            if progress is not None:
                progress(*rows_made(works, len(order.catalog.items)))
            for number, process in running.items():
                if process.exitcode is not None and process.exitcode != 0 and deaths < PATIENCE * processes:
                    deaths += 1
                    running[number] = _start(order, number)  # on the same GPU
            running = {number: process for number, process in running.items() if process.exitcode is None}
    finally:
        for process in running.values():
            process.kill()
            process.join()


def rows_made(works: Sequence[Work], items: int) -> tuple[int, int, int]:
    """Return (rows made, wanted, failed); made are the rows that `works` found and those of shards made since."""
    total = items * len(works)
    left = sum(len(work.job.pending) - work.job.rows_of_others() for work in works)
    return min(total, total - left), total, failed_of(works)


def _start(order: Order, number: int) -> SpawnProcess:
    options = order.options
    if options.device == "cuda":
        options = replace(options, device=f"cuda:{number % torch.cuda.device_count()}")
    context = multiprocessing.get_context("spawn")
    told = (replace(order, options=options), os.getpid(), torch.get_num_threads())
    process = context.Process(target=_local_worker, args=told)
    with _ctrl_c_is_the_parents():
        process.start()
    return process


@contextmanager
def _ctrl_c_is_the_parents() -> Iterator[None]:
    """Block Ctrl-C for processes that start inside the block: only the parent reacts to it, and ends them.

    A terminal sends Ctrl-C to all processes, and each would print a traceback. Processes inherit blocked signals.
    """
    resource_tracker.ensure_running()  # started later, it would unblock the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _local_worker(order: Order, parent: int, threads: int) -> None:
    """Run `work` in a process of its own that ends when the parent does.

    It uses the parent's number of threads, because that decides the last bits of the vectors.
    """
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        work(order)
    except FreezeframeError:  # the parent meets the same error and reports it once
        return


def slurm_script(command: Sequence[str], tasks: int, folder: Path) -> str:
    """Return a script for `sbatch`: an array of workers, whose first one submits a last task that merges.

    The last task first makes what dead workers left behind, so it asks for a GPU as well.

    Args:
        command: the `extract` command line without engine options.
        tasks: number of workers in the array, at least 1.
        folder: the folder in which the command starts.
    """
    if tasks < 1:
        raise ConfigError(f"--tasks is {tasks}; give at least 1")
    line, place = shlex.join(command), shlex.quote(str(folder))
    return f"""#!/bin/bash
# Submit with: sbatch THIS_FILE   Add what your cluster asks for: partition, account, time.
#SBATCH --job-name=freezeframe
#SBATCH --array=0-{tasks - 1}
#SBATCH --gres=gpu:1
#SBATCH --requeue
cd {place}
if [ "$SLURM_ARRAY_TASK_ID" = 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" = 0 ]; then
  sbatch --dependency="afterany:$SLURM_ARRAY_JOB_ID" --gres=gpu:1 --wrap={shlex.quote(f"cd {place} && {line}")}
fi
{line} --engine worker
"""
