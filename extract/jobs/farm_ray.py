"""Extraction on a Ray cluster: Ray places the workers and replaces those that die; the shared folder decides the rest.

Every worker is a Ray task that makes unclaimed shards until none is left, the same function that other engines run. Ray
Data's actor pool would hand out the shards itself, but the claims in the shared folder do so already, for workers that
Ray does not know as well; nothing flows through Ray but the order.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from typing import Any

import torch

from extract.jobs.changed_sources import Tell
from extract.jobs.farm import PATIENCE, POLL_S, Order, extract_by, rows_made, work
from extract.jobs.report import ExtractReport
from extract.jobs.sharding import Progress, Work
from features.errors import ConfigError, FreezeframeError

STORE_BYTES = 80 * 2**20  # of Ray's object store, the least it takes; nothing goes through it


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
        order: what to extract; every node sees the same data and `out` folders and has this package installed.
        processes: how many tasks; Ray starts as many at a time as the cluster has cores, or GPUs, for.
        address: of a running cluster ("auto": the one this machine belongs to); "" starts one on this machine.
        progress: as in `extract_all`.
        tell: as in `extract_all`.

    Raises:
        ConfigError: Ray is not installed, the cluster is not there, or it has no GPU where one is asked for.
        As `extract_all` besides.
    """
    if processes < 1:
        raise ConfigError(f"--processes is {processes}; give at least 1")
    ray = _ray()
    cuda = order.options.device.startswith("cuda")
    _connect(ray, address, processes)
    try:
        if cuda and ray.cluster_resources().get("GPU", 0) < 1:
            raise ConfigError(f"--device {order.options.device}, but the Ray cluster has no GPU; use --device cpu")
        task = ray.remote(num_cpus=1, num_gpus=int(cuda), max_retries=PATIENCE)(_ray_worker)

        def supervise(works: list[Work]) -> None:
            waiting = [task.remote(order, torch.get_num_threads()) for _ in range(processes)]
            while waiting:
                done, waiting = ray.wait(waiting, timeout=POLL_S)
                if progress is not None:
                    progress(*rows_made(works, len(order.catalog.items)))
                for reference in done:
                    _outlived(ray, reference)

        return extract_by(order, supervise, progress=progress, tell=tell)
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray; install it with `pip install -e '.[ray]'`") from error
    return ray


def _connect(ray: Any, address: str, processes: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    # a local cluster of exactly these workers, or the one that is named
    own = {"num_cpus": processes, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    try:
        _knock(address)
        ray.init(**quiet, **({"address": address} if address else {"address": "local"} | own))
    except (OSError, RuntimeError, ValueError) as error:
        where, reason = address or "this machine", " ".join(str(error).split())[:160]
        raise ConfigError(f"no Ray cluster at {where} ({reason}); start it, or leave --ray-address out") from error


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would wait for minutes, and then end the process."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def _ray_worker(order: Order, threads: int) -> int:
    """Run as a Ray task, with the parent's number of threads: it decides last bits."""
    torch.set_num_threads(threads)
    if order.options.device.startswith("cuda"):  # whichever was named: a task sees its own GPU alone
        order = replace(order, options=replace(order.options, device="cuda"))
    try:
        return work(order)
    except FreezeframeError:  # the parent meets the same error, and says it once
        return 0


def _outlived(ray: Any, reference: Any) -> None:
    """Look at a finished task; one that died too often leaves its shards to the others, or to the parent."""
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        logging.getLogger(__name__).warning("a Ray worker is lost: %s", " ".join(str(error).split())[:160])
