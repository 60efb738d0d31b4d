"""Peak memory of a run, also where one process makes several."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import torch

PROC = Path("/proc/self")
RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs: the peak resident size becomes the present one


def start_peaks(device: torch.device) -> bool:
    """Let peaks start from what is held now; return whether the system could do so for main memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        (PROC / "clear_refs").write_text(RESET_PEAK)
    except OSError:
        return False
    return _peak_of_the_run() is not None


def peaks(device: torch.device, own: bool) -> dict[str, Any]:
    """Return peak bytes for the record; main memory that of the process since its start, unless it is the run's `own`.

    What earlier runs in the process have left in memory counts in either case.
    """
    bytes_held = _peak_of_the_run() if own else None
    return {
        "peak_memory_bytes": bytes_held or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_memory_of": "run" if bytes_held else "process",
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    }


def _peak_of_the_run() -> int | None:
    """Return VmHWM in bytes; None where there is none."""
    try:
        lines = (PROC / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
