"""Where float64 is computed: on a tensor's own device, or on the CPU for devices that have none (Apple's GPUs)."""

from __future__ import annotations

import torch

WITHOUT_FLOAT64 = {"mps"}  # types of devices


def float64_device(device: torch.device) -> torch.device:
    """Return the device on which to compute in float64 what lies on `device`."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device
