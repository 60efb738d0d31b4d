"""Many workers on one extraction: each makes whatever shard nobody else has claimed; the finished shards are the truth.

A worker may be a process of this machine, a task of Ray or of a Slurm array, or anything else that runs `work` on the
same folder. Any of them may die at any moment and be started again; the last command merges.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from extract.encoders.encoder import EncoderSpec
from extract.encoders.registry import get_encoder
from extract.jobs.changed_sources import Tell
from extract.jobs.extractor import finish, forget_failed, prepare_all, report
from extract.jobs.options import ExtractOptions
from extract.jobs.report import ExtractReport
from extract.jobs.sharding import Progress, Work, claims_of, run_shards
from extract.jobs.turns import in_turn, make_all
from extract.media.catalog import Catalog
from features.errors import ConfigError, FreezeframeError

POLL_S = 0.5
PATIENCE = 3  # times a dead local worker is replaced before the parent does the rest alone


@dataclass(frozen=True)
class Order:
    """What a worker is told: plain data that any process or machine can be handed."""

    catalog: Catalog
    encoders: tuple[str, ...]
    options: ExtractOptions


def work(order: Order, *, progress: Progress | None = None) -> int:
    """Make shards until none is left that nobody works on; return how many others still work on.

    It neither merges nor judges: run `extract` on the same folder for that.
    """
    works = prepare_all(order.catalog, _specs(order), order.options, progress=progress)
    busy = [work for work in works if not work.job.unchanged]
    # claims go by all encoders, finished or not: so all workers find the same ones, whenever they start
    return run_shards(order.catalog, busy, claims_of(works), progress) if busy else 0


def _specs(order: Order) -> list[EncoderSpec]:
    return [get_encoder(name) for name in order.encoders]


def extract_locally(
    order: Order, processes: int, *, progress: Progress | None = None, tell: Tell | None = None
) -> list[ExtractReport]:
    """Extract with several processes of this machine, each on a GPU of its own where there are several.

    A process that dies is replaced a few times; what is left in the end is made here. Raises as `extract_all`.
    """
    if processes < 1:
        raise ConfigError(f"--processes is {processes}; give at least 1")
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
        supervise: runs workers that call `work(order)`; gets the encoders with work to do, returns when no worker is
            left, however they ended.
        progress: as in `extract_all`.
        tell: as in `extract_all`.

    Raises:
        As `extract_all`.
    """
    works = prepare_all(order.catalog, _specs(order), order.options, progress=progress, tell=tell)
    asked = {work.job.target: len(work.job.pending) for work in works if not work.job.unchanged}
    with in_turn(order.catalog, works, progress=progress, tell=tell) as works:
        forget_failed(works)
        busy = [work for work in works if not work.job.unchanged]
        asked |= {work.job.target: max(asked.get(work.job.target, 0), len(work.job.pending)) for work in busy}
        if busy:
            supervise(busy)
            works = [replace(work, job=work.job.reopened()) for work in works]  # with what was made meanwhile
            busy = [work for work in works if not work.job.unchanged]
            make_all(order.catalog, busy, works, progress=progress, tell=tell)
            finish(busy)
        claims_of(works).clear()
        return [report(work, asked.get(work.job.target, 0), unchanged=work.job.target not in asked) for work in works]


def _supervise(order: Order, processes: int, works: Sequence[Work], progress: Progress | None) -> None:
    """Run the processes until all have ended well or too often badly; show what the shards on disk say."""
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


def rows_made(works: Sequence[Work], items: int) -> tuple[int, int]:
    """Return (rows there are, rows wanted): those there were when `works` were prepared, and finished shards since."""
    total = items * len(works)
    left = sum(len(work.job.pending) - work.job.rows_of_others() for work in works)
    return min(total, total - left), total


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
    """Let processes that start here never hear of Ctrl-C, which a terminal sends to all: the parent ends them.

    Each would print a traceback of wherever it was, be it in its imports. They inherit what is blocked here.
    """
    resource_tracker.ensure_running()  # which would unblock it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _local_worker(order: Order, parent: int, threads: int) -> None:
    """Run in a process of its own, with the parent's number of threads (it decides last bits); ends with the parent."""
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        work(order)
    except FreezeframeError:  # the parent meets the same error, and says it once
        return


def slurm_script(command: Sequence[str], tasks: int, folder: Path) -> str:
    """Return a script for `sbatch`: an array of workers, which submits one task behind it that merges.

    That task first makes what dead workers left behind, so it asks for a GPU, too.

    Args:
        command: the `extract` command line without engine options.
        tasks: size of the array, at least 1.
        folder: where to start it.
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
