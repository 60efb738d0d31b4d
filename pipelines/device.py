"""The torch device that a command runs on."""

from __future__ import annotations

import torch

from features.errors import ConfigError


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
