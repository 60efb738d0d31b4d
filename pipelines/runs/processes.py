"""Several processes on one recipe, as torchrun starts them: which device each takes, and how all end when one fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from features.errors import ConfigError, FreezeframeError
from models import recommenders
from models.items.towers import share_out
from models.shared.process_group import ALONE, LostProcessError, Ranks
from models.shared.recommender import Recommender
from models.shared.representation import TOWERS
from pipelines import console
from pipelines.recipe.recipe import Recipe

TIMEOUT = timedelta(minutes=30)  # how far behind the others a process may be, as when it reads its features


@contextmanager
def processes(device: str) -> Iterator[tuple[Ranks, str]]:
    """Join the processes that torchrun started, if it did, and yield this one's place among them and its device.

    Only the first process prints. Where several fail, only the first to fail says why; all end with exit code 2.

    Args:
        device: as on the command line: 'auto', 'cpu' or 'cuda'; each process takes one GPU of its machine.

    Raises:
        ConfigError: there is not a device for every process, or another process ended or does not answer.
    """
    if not started_by_torchrun():
        yield ALONE, device
        return
    store, rank, world = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    if rank:
        console.silence()
    try:
        place = _device(device, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
        gpu = None if place == "cpu" else torch.device(place)
        backend = "nccl" if gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT, device_id=gpu)
        yield Ranks(rank, world), place
        dist.destroy_process_group()
    except FreezeframeError:
        _silent_unless_first(store)
        raise
    except LostProcessError as error:
        _silent_unless_first(store)
        raise ConfigError(
            f"another process of this run ended or does not answer ({error}); if memory was short, use fewer processes "
            "or items.micro_batch; the same command goes on from the last checkpoint"
        ) from error


def started_by_torchrun() -> bool:
    """Return whether this process is one of several that torchrun started."""
    return dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1


def refuse_verb() -> NoReturn:
    """Raise ConfigError, once for all processes: only `train` shares its work among them."""
    with processes("cpu"):
        raise ConfigError(
            "torchrun starts several processes, but only `train` shares its work among them; run this without torchrun"
        )
    raise AssertionError


def refuse_recipe(recipe: Recipe, ranks: Ranks) -> None:
    """Raise ConfigError for a recipe that several processes cannot train, or would not train faster."""
    if ranks.alone:
        return
    if recipe.items.kind not in TOWERS or not recommenders()[recipe.model.name].uses_items:
        raise ConfigError(
            f"recipe {recipe.name!r} trains no encoder (items.kind is {recipe.items.kind!r}), and only encoders are "
            f"shared among {ranks.world} processes; run it without torchrun"
        )
    if recipe.train.optimizer == "lazy":
        raise ConfigError("train.optimizer 'lazy' works in one process only; use 'adamw', or run without torchrun")


def share_model(model: Recommender, recipe: Recipe, ranks: Ranks) -> None:
    """Share a model's encoders among processes; ConfigError if the result would differ from that of one process."""
    try:
        share_out(model, ranks)
    except ValueError as error:
        raise ConfigError(f"recipe {recipe.name!r}: {error}") from error


def _device(asked: str, local: int, here: int) -> str:
    """Return the device of process number `local` of the `here` on this machine, and make it the current one."""
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if asked not in ("auto", "cuda"):
        raise ConfigError(
            f"--device is {asked!r}; with several processes each takes a GPU of its own: auto, cuda or cpu"
        )
    found = torch.cuda.device_count()
    if here > found:
        raise ConfigError(f"{here} processes on this machine and {found} GPUs; use --nproc-per-node={max(found, 1)}")
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _silent_unless_first(store: Any) -> None:
    """End this process silently if another one failed before it: that one says why."""
    try:
        failures = store.add("freezeframe-failures", 1)
    except RuntimeError:  # the store ended with the process that held it
        raise SystemExit(2) from None
    if failures > 1:
        raise SystemExit(2)
