"""The processes that train one model together: each holds all of it and encodes a share of every batch's items.

Letters: n items of a batch, D model width, P processes.

Every process computes the loss of the whole batch from the vectors of all its items. So any loss, any drawn negative
and any masking is that of one process, and there is nothing to correct. The encoder is what costs, and only it is
shared out. Vectors are gathered. The loss is the same everywhere, and so is its gradient with respect to the vectors;
each process passes on the part that belongs to its own items. Summed over processes, the encoder's gradients are those
of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

STRIDE = 1_000_003  # distance between the seeds of batches, larger than the number of streams
BUCKET = 2**25  # numbers of gradients that are summed in one go: 128 MB
T = TypeVar("T")


class LostProcessError(RuntimeError):
    """Another process of the run is gone, or does not answer."""


@dataclass(frozen=True)
class Ranks:
    """This process and the number of processes in the run; collectives use torch.distributed's default group."""

    rank: int = 0
    """Number of this process, from 0; only process 0 writes."""
    world: int = 1
    """Number of processes, P."""

    @property
    def first(self) -> bool:
        """Return whether this process is the one that writes and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Return whether there is no other process."""
        return self.world == 1

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's part of rows (n, ...) that all hold: n / P of them, one more in the first processes."""
        return torch.tensor_split(rows, self.world)[self.rank]

    def gather(self, own: Tensor, count: int) -> Tensor:
        """Return the rows (count, D) of all processes, each of which gives its `share` of them; gradients flow back."""
        if self.alone:
            return own
        gathered: Tensor = _Gather.apply(own, count, self)
        return gathered

    def of_first(self, value: T) -> T:
        """Return, in every process, the value that the first process passes; plain data."""
        if self.alone:
            return value
        held = [value]
        _collective(dist.broadcast_object_list, held, src=0)
        return held[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if not self.alone:
            _collective(dist.barrier)

    def start_alike(self, model: nn.Module) -> None:
        """Give every process the first one's weights; rounding may have made them differ."""
        if not self.alone:
            for tensor in model.state_dict().values():
                whole = tensor.contiguous()
                _collective(dist.broadcast, whole, src=0)
                tensor.copy_(whole)

    def join_gradients(self, shared: Sequence[nn.Parameter], rest: Sequence[nn.Parameter]) -> None:
        """Make all gradients those of one process, the same bits everywhere; None where no process has one.

        Args:
            shared: parameters of what ran on this process's share alone; their gradients are summed.
            rest: parameters of what every process has computed whole; the first process's gradients are taken.
        """
        if self.alone:
            return
        for bucket in _buckets([*((p, True) for p in shared), *((p, self.first) for p in rest)]):
            flat = torch.cat([_flat(parameter, mine) for parameter, mine in bucket])
            has = [float(mine and parameter.grad is not None) for parameter, mine in bucket]
            flat = torch.cat([flat, flat.new_tensor(has)])
            _collective(dist.all_reduce, flat)
            parts = torch.split(flat, [*(parameter.numel() for parameter, _ in bucket), len(bucket)])
            for (parameter, _), part, found in zip(bucket, parts, parts[-1].tolist(), strict=False):
                parameter.grad = part.view_as(parameter) if found else None


ALONE = Ranks()


@contextmanager
def own_randomness(device: torch.device, stream: int, batch: int) -> Iterator[None]:
    """Seed torch's global generators from the CPU's state, `stream` and `batch`; restore them at the end.

    Processes that encode different items draw differently inside and alike afterwards. `batch` is a number that tells
    steps apart, because the CPU's generator may be in the same state in several of them.
    """
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed((int(torch.randint(2**62, ())) + stream + STRIDE * batch) % 2**63)
        yield


class _Gather(torch.autograd.Function):
    """Rows of all processes, one after another; each takes the gradient, the same in all, of the rows it gave."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, count: int, ranks: Ranks) -> Tensor:
        """Gather rows padded to one length, because collectives need equal ones."""
        sizes = [count // ranks.world + (rank < count % ranks.world) for rank in range(ranks.world)]
        ctx.start, ctx.length = sum(sizes[: ranks.rank]), len(own)
        padded = own.new_zeros(sizes[0], *own.shape[1:])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in sizes]
        _collective(dist.all_gather, found, padded)
        return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Take the gradient of this process's rows; no sum, because the others hold the same gradient."""
        return grads[0][ctx.start : ctx.start + ctx.length], None, None


def _flat(parameter: nn.Parameter, mine: bool) -> Tensor:
    if parameter.grad is None or not mine:
        return parameter.new_zeros(parameter.numel())
    return parameter.grad.flatten()


def _buckets(parts: Sequence[tuple[nn.Parameter, bool]]) -> Iterator[list[tuple[nn.Parameter, bool]]]:
    """Yield buckets of (parameter, whether this process has a part in its sum)."""
    bucket: list[tuple[nn.Parameter, bool]] = []
    size = 0
    for parameter, mine in parts:
        if bucket and size + parameter.numel() > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append((parameter, mine))
        size += parameter.numel()
    if bucket:
        yield bucket


def _collective(call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    try:
        call(*args, **kwargs)
    except RuntimeError as error:  # gloo has no class of its own for a peer that is gone
        raise LostProcessError((str(error) or "no answer").splitlines()[0]) from error
