"""A GPU that is not there: tensors that say they lie on a device, and whose numbers lie in ordinary memory.

What runs under `pretend_gpu` computes on the CPU, but an operation over tensors of both places fails, as on CUDA. That
shows mixed-up devices on machines without a GPU, and nothing about kernels, precision or memory. The device is
'lazy:0', a name of torch's that neither needs a driver nor is used here otherwise; branches for 'cuda' are not taken.

`counted_waits` counts what makes the host wait for a GPU, by the name of the operation: a number or a copy that the
host asks for, a copy to the device that blocks, and every operation whose shape depends on the numbers.

It lacks what Apple's GPUs (torch's 'mps') lack in some release of torch or macOS that the product may meet: float64,
sparse tensors and the kernel of `embedding_bag`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.optim import optimizer
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from extract.jobs import reading
from models.shared import float64

GPU = torch.device("lazy", 0)
aten = torch.ops.aten
BETWEEN = {aten.copy_.default, aten._to_copy.default}  # take tensors of two places
LACKING = {aten._embedding_bag.default, aten._embedding_bag_forward_only.default}
WAITING_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
BY_INDEX = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}

_waits: Counter[str] | None = None  # of all threads: the backward pass runs in its own


class OnGpu(Tensor):
    """A tensor that says it is on the GPU; its numbers are in `held`, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        return Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=GPU
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)

    def new_tensor(self, data: Any) -> Tensor:
        return torch.tensor(data, dtype=self.dtype).to(GPU)

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function} outside of pretend_gpu")


class _Pretend(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not torch.is_inference_mode_enabled():
            return self._compute(function, args, kwargs)
        with self:  # inference mode takes operations apart later than here
            parts = function.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        with torch.inference_mode(False), torch.no_grad():  # views of inference tensors can't be wrapped
            return self._compute(function, args, kwargs)

    def _compute(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = [leaf for leaf in leaves if isinstance(leaf, OnGpu)]
        asked = kwargs.get("device")
        asked = None if asked is None else torch.device(asked)
        if not on_gpu and (asked is None or asked.type != GPU.type):
            return function(*args, **kwargs)
        _refuse_mixed(function, args, leaves, on_gpu)
        if function in LACKING:
            raise NotImplementedError(f"{function} is not there on {GPU}")
        if _waits is not None and _waits_for_gpu(function, args, kwargs, bool(on_gpu), asked):
            _waits[str(function)] += 1
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        inner_args, inner_kwargs = pytree.tree_map_only(OnGpu, lambda leaf: leaf.held, (args, kwargs))
        inner = function(*inner_args, **inner_kwargs)
        goes = asked.type == GPU.type if asked is not None else bool(on_gpu)
        if function is aten.copy_.default:
            return args[0]
        if not goes:
            return inner
        _refuse_lacking(function, inner)
        known = {id(leaf.held): leaf for leaf in on_gpu}
        outer = pytree.tree_map_only(Tensor, lambda leaf: known[id(leaf)] if id(leaf) in known else OnGpu(leaf), inner)
        kwargs.pop("device", None)
        return outer if asked is not None else return_and_correct_aliasing(function, args, kwargs, outer)


def _waits_for_gpu(function: Any, args: Any, kwargs: Any, on_gpu: bool, asked: torch.device | None) -> bool:
    """Return whether the host waits, on CUDA, until all work before this operation is done."""
    if function is aten._to_copy.default:
        leaves = on_gpu and asked is not None and asked.type != GPU.type
        arrives = not on_gpu and asked is not None and asked.type == GPU.type and not kwargs.get("non_blocking")
        return leaves or arrives
    if function is aten.copy_.default:
        into, source = (isinstance(tensor, OnGpu) for tensor in args[:2])
        blocks = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        return (source and not into) or (into and not source and blocks)
    if function in BY_INDEX:
        return any(isinstance(index, OnGpu) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if function is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    return function is aten.bincount.default or bool(WAITING_TAGS & set(function.tags))


@contextmanager
def counted_waits() -> Iterator[Counter[str]]:
    """Yield how often, under `pretend_gpu`, an operation makes the host wait, by its name; clear() starts anew."""
    global _waits
    assert _waits is None
    _waits = Counter()
    try:
        yield _waits
    finally:
        _waits = None


def _refuse_mixed(function: Any, args: Any, leaves: list[Tensor], on_gpu: list[OnGpu]) -> None:
    """Raise as CUDA does where tensors of two places meet; single numbers of the CPU may, and indices of it."""
    if function in BETWEEN:
        return
    elsewhere = [leaf for leaf in leaves if not isinstance(leaf, OnGpu) and leaf.ndim]
    if function in BY_INDEX and isinstance(args[0], OnGpu):
        indices = [leaf for leaf in args[1] if leaf is not None]
        elsewhere = [leaf for leaf in elsewhere if all(leaf is not index for index in indices)]
    if on_gpu and elsewhere:
        shapes = [tuple(leaf.shape) for leaf in elsewhere]
        raise RuntimeError(f"{function}: expected all tensors to be on {GPU}, but {shapes} are on the CPU")


def _refuse_lacking(function: Any, made: Any) -> None:
    """Raise as torch does on 'mps' where a tensor would be float64 or sparse."""
    for leaf in pytree.tree_leaves(made):
        if isinstance(leaf, Tensor) and leaf.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{function}: {GPU} has no {leaf.dtype}")
        if isinstance(leaf, Tensor) and leaf.layout != torch.strided:
            raise NotImplementedError(f"{function}: {GPU} has no tensors of layout {leaf.layout}")


@contextmanager
def pretend_gpu() -> Iterator[str]:
    """Let torch know a device of this name, without mixed precision."""
    swap, autocast = torch.__future__.get_swap_module_params_on_conversion(), torch.autocast

    def without(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == GPU.type else autocast(device_type, *args, **kwargs)

    def moved(data: Any, device: Any = None, **kwargs: Any) -> Tensor:
        return as_tensor(data, **kwargs).to(device)

    def made(data: Any, device: Any = None, **kwargs: Any) -> Tensor:
        return tensor(data, **kwargs).to(device)

    def load(*args: Any, **kwargs: Any) -> Any:
        torch.__future__.set_swap_module_params_on_conversion(False)  # into the tensors that are there
        try:
            return load_state_dict(*args, **kwargs)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(True)

    def read_there(*args: Any) -> Any:
        with _Pretend():  # it holds for one thread, and media are resized where they are read
            return read(*args)

    read = reading.read
    as_tensor, tensor, load_state_dict = torch.as_tensor, torch.tensor, nn.Module.load_state_dict
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters stay the objects that optimisers hold
    try:
        with (
            mock.patch.object(float64, "WITHOUT_FLOAT64", {"mps", GPU.type}),
            mock.patch.object(nn.Module, "load_state_dict", load),
            mock.patch.object(torch, "autocast", without),
            mock.patch.object(torch, "as_tensor", moved),
            mock.patch.object(torch, "tensor", made),
            mock.patch.object(optimizer, "_get_fused_kernels_supported_devices", return_value=["cpu", GPU.type]),
            mock.patch.object(torch, GPU.type, SimpleNamespace(_initialized=False), create=True),  # for checkpointing
            mock.patch.object(reading, "read", read_there),
            _Pretend(),
        ):
            yield str(GPU)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swap)
