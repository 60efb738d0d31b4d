"""Peak memory of a run, even where one process makes several runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

PROC = Path("/proc/self")
RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs: sets the peak resident size to the present one


def start_peaks(device: torch.device) -> bool:
    """Reset peaks to the memory that is held now; return whether the system could do so for main memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        (PROC / "clear_refs").write_text(RESET_PEAK, encoding="ascii", newline="")
    except OSError:
        return False
    return _peak_of_the_run() is not None


def peaks(device: torch.device, own: bool) -> dict[str, Any]:
    """Return peak bytes for the record.

    The peak of main memory is the run's if `own`, otherwise that of the process since its start. In either case it
    includes what earlier runs in the process have left in memory. A number is None where the system, or torch for
    devices other than CUDA, does not tell it.
    """
    bytes_held = _peak_of_the_run() if own else None
    on_gpu: int | None = 0 if device.type == "cpu" else None
    return {
        "peak_memory_bytes": bytes_held or _peak_of_the_process(),
        "peak_memory_of": "run" if bytes_held else "process",
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else on_gpu,
    }


def _peak_of_the_process() -> int | None:
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kilobytes elsewhere


def _peak_of_the_run() -> int | None:
    """Return VmHWM of this process in bytes; None where the system does not tell it."""
    try:
        lines = (PROC / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
