"""Peak memory of a run, even where one process makes several runs."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import torch

PROC = Path("/proc/self")
RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs: sets the peak resident size to the present one


def start_peaks(device: torch.device) -> bool:
    """Reset peaks to the memory that is held now; return whether the system could do so for main memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        (PROC / "clear_refs").write_text(RESET_PEAK)
    except OSError:
        return False
    return _peak_of_the_run() is not None


def peaks(device: torch.device, own: bool) -> dict[str, Any]:
    """Return peak bytes for the record.

    The peak of main memory is the run's if `own`, otherwise that of the process since its start. In either case it
    includes what earlier runs in the process have left in memory.
    """
    bytes_held = _peak_of_the_run() if own else None
    return {
        "peak_memory_bytes": bytes_held or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_memory_of": "run" if bytes_held else "process",
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    }


def _peak_of_the_run() -> int | None:
    """Return VmHWM of this process in bytes; None where the system does not tell it."""
    try:
        lines = (PROC / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
