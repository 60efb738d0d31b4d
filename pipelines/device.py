"""The torch device that a command runs on, and why it is this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from features.errors import ConfigError

Given = ParamSpec("Given")
Made = TypeVar("Made")


def resolve_device(name: str) -> torch.device:
    """Return the torch device for a name, or for 'auto': CUDA if available, else the CPU.

    Raises:
        ConfigError: the device does not exist or cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try auto") from error
    return device


def device_name(device: torch.device) -> str:
    """Return what computes there: the GPU's name as CUDA tells it, the CPU with its threads, or torch's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu x {torch.get_num_threads()}" if device.type == "cpu" else str(device)


def why_device(name: str, device: torch.device) -> str:
    """Return in one line which device a name gave, and why: 'device cpu x 2 (auto: torch finds no CUDA GPU)'."""
    if name != "auto":
        return f"device {device_name(device)} (as asked: {name})"
    why = "the first CUDA GPU"
    if device.type == "cpu":
        why = "torch finds no CUDA GPU" if torch.version.cuda else "this torch is built without CUDA"
    if device.type == "cpu" and torch.backends.mps.is_available():
        why += "; --device mps takes the Apple GPU, where freezeframe was never run"
    return f"device {device_name(device)} (auto: {why})"


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let CUDA round the factors of float32 products to TF32 inside, or forbid it: torch's own choice differs by layer.

    Torch allows it in convolutions and forbids it elsewhere.
    """
    products, layers = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, layers.allow_tf32
    products.allow_tf32 = layers.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, layers.allow_tf32 = before


def explain_missing_kernels(run: Callable[Given, Made]) -> Callable[Given, Made]:
    """Let a function raise ConfigError, not a traceback, where torch has no kernel for an Apple GPU."""

    @wraps(run)
    def explained(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        try:
            return run(*args, **kwargs)
        except NotImplementedError as error:
            if "MPS" not in str(error):
                raise
            why = str(error).split(" If you want")[0].splitlines()[0][:160]
            raise ConfigError(
                f"{why} Use --device cpu, or set PYTORCH_ENABLE_MPS_FALLBACK=1 (torch then takes the CPU for it)"
            ) from error

    return explained
