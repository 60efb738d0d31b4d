"""Extract on a Ray cluster: Ray places the workers and replaces those that die.

Every worker is a Ray task that makes unclaimed shards until none is left, like the workers of the other engines. The
claims in the shared folder hand out the shards, also to workers that Ray does not know. So Ray Data's actor pool, which
would hand them out itself, is not used, and only the order goes through Ray.
"""

from __future__ import annotations

import logging
import pickle
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from extract.jobs.changed_sources import Tell
from extract.jobs.farm import PATIENCE, POLL_S, Order, extract_by, make_unclaimed, prepared, rows_made
from extract.jobs.report import ExtractReport
from extract.jobs.sharding import Progress, Work
from features.errors import ConfigError, FreezeframeError
from features.installation import install_extra

_loaded: list[tuple[Order, list[Work]]] = []  # what this process has loaded: Ray may give it several tasks of a run
ROOT = Path(__file__).resolve().parents[2]
STORE_BYTES = 80 * 2**20  # the smallest object store that Ray accepts, because nothing is put into it


def extract_on_ray(
    order: Order,
    processes: int,
    *,
    address: str = "",
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> list[ExtractReport]:
    """Extract with Ray tasks, each on a GPU of its own where the device is CUDA.

    Args:
        order: what to extract. Every node must see the same data and `out` folders and have this package installed.
        processes: number of tasks. Ray runs as many of them at a time as the cluster has cores, or GPUs, for.
        address: address of a running cluster; "auto" is the one that this machine belongs to, "" starts a cluster on
            this machine.
        progress: as in `extract_all`.
        tell: as in `extract_all`.

    Raises:
        ConfigError: Ray is not installed, the cluster is not there, or it has no GPU where one is asked for.
        The errors of `extract_all`.
    """
    if processes < 1:
        raise ConfigError(f"--processes is {processes}; give at least 1")
    ray = _ray()
    cuda = order.options.device.startswith("cuda")
    _connect(ray, address, processes)
    try:
        if cuda and ray.cluster_resources().get("GPU", 0) < 1:
            raise ConfigError(f"--device {order.options.device}, but the Ray cluster has no GPU; use --device cpu")
        task = ray.remote(num_cpus=1, num_gpus=int(cuda), max_retries=PATIENCE)(_task(str(ROOT)))
        told = pickle.dumps((order, torch.get_num_threads()))

        def supervise(works: list[Work]) -> None:
            waiting = [task.remote(told) for _ in range(processes)]
            while waiting:
                done, waiting = ray.wait(waiting, timeout=POLL_S)
                if progress is not None:
                    progress(*rows_made(works, len(order.catalog.items)))
                for reference in done:
                    _log_loss(ray, reference)

        return extract_by(order, supervise, progress=progress, tell=tell)
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray; install it with `{install_extra('ray')}`") from error
    return ray


def _connect(ray: Any, address: str, processes: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    # without an address: a local cluster with one core per worker
    own = {"num_cpus": processes, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    try:
        _knock(address)
        ray.init(**quiet, **({"address": address} if address else {"address": "local"} | own))
    except (OSError, RuntimeError, ValueError) as error:
        where, reason = address or "this machine", " ".join(str(error).split())[:160]
        raise ConfigError(f"no Ray cluster at {where} ({reason}); start it, or leave --ray-address out") from error


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at the address; Ray would wait for minutes and then end this process."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def _task(root: str) -> Callable[[bytes], int]:
    """Return what Ray sends to its workers: it brings itself along and imports nothing of ours before the finder.

    Ray puts the working folder on the path of its workers, and with it a user's folders that are named as ours.
    """

    def work(told: bytes) -> int:
        import sys

        sys.path.insert(0, root)  # on another machine it may not exist; there freezeframe is installed
        import freezeframe

        sys.path.remove(root)
        made: int = freezeframe.call("extract.jobs.farm_ray", "_ray_worker", told)
        return made

    return work


def _ray_worker(order: Order, threads: int) -> int:
    """Do what `work` does as a Ray task, with the parent's number of threads: it decides the last bits of vectors."""
    torch.set_num_threads(threads)
    if order.options.device.startswith("cuda"):  # whatever its number there, a task sees only its own GPU
        order = replace(order, options=replace(order.options, device="cuda"))
    try:
        return make_unclaimed(order, _works(order))
    except FreezeframeError:  # the parent meets the same error and reports it once
        return 0


def _works(order: Order) -> list[Work]:
    """Return the encoders of an order, with their jobs as they are on disk now; load them once per process."""
    if _loaded and _loaded[0][0] == order:
        return [replace(work, job=work.job.reopened()) for work in _loaded[0][1]]
    _loaded[:] = [(order, prepared(order))]
    return _loaded[0][1]


def _log_loss(ray: Any, reference: Any) -> None:
    """Log a task that died too often; the other workers or the parent make its shards."""
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        logging.getLogger(__name__).warning("a Ray worker is lost: %s", " ".join(str(error).split())[:160])
