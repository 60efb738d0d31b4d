"""How everything is measured: time, peak memory, arithmetic and its floor, and the share of time the GPU is busy."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_stages.reporting import one_line
from benchmarks.gpu_stages.sizes import Sizes
from pipelines.device import tf32

OPERATORS = 10  # of a profile
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
CPUINFO = Path("/proc/cpuinfo")


class Enough(Exception):  # noqa: N818
    """Raised from a callback of the product when the time is over; what was made by then counts."""


def now(device: torch.device) -> float:
    """Return the time in seconds at which the device has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rate(work: Callable[[], object], device: torch.device, seconds: float, *, warm: int = 2, least: int = 2) -> float:
    """Return how often `work` runs per second, after `warm` runs; at least `least` runs, then until time is over."""
    for _ in range(warm):
        work()
    began, count, step = now(device), 0, 1
    while True:
        for _ in range(step):
            work()
        count += step
        spent = now(device) - began
        if spent > seconds and count >= least:
            return count / spent
        step = max(1, min(2 * step, int(count * (seconds - spent) / spent)))  # rarely waits for the device


def product_rate(device: torch.device, kind: str, sizes: Sizes) -> float:
    """Return FLOP/s of the product of two square matrices of random numbers in 'float32', 'tf32' or 'bfloat16'."""
    side = sizes.product
    one, two = (torch.randn(side, side, device=device, dtype=DTYPES[kind]) for _ in range(2))
    made = torch.empty_like(one)
    with tf32(kind == "tf32"):
        return 2 * side**3 * rate(lambda: torch.mm(one, two, out=made), device, min(0.3, sizes.row_s), warm=3)


def count_flops(work: Callable[[], object]) -> int:
    """Return the floating-point operations of products and convolutions in a piece of work.

    Attention runs as plain products meanwhile: not every fused kernel is counted in every version of torch.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Watched:
    """What torch's profiler saw of a piece of work."""

    busy: float | None
    """Share of the time in which a kernel or a copy ran on the GPU; None where there is no GPU, or it was not seen."""
    operators: list[dict[str, Any]]
    """The operators that took longest by themselves: name, milliseconds, calls."""
    why: str = ""
    """Why nothing was seen; '' otherwise."""


def watch(work: Callable[[], object], device: torch.device) -> Watched:
    """Run a piece of work under the profiler; keep it short, since every kernel leaves a record."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    try:
        with profile(activities=kinds) as seen:
            began = now(device)
            work()
            wall = now(device) - began
        operators = _longest(seen.key_averages(), on_gpu)
        busy = _covered(seen.events(), wall) if on_gpu else None
    except Exception as error:
        return Watched(None, [], f"the profiler failed: {one_line(error)}")
    return Watched(busy, operators, "the profiler saw nothing on the GPU" if on_gpu and not busy else "")


def _longest(averages: Iterable[Any], on_gpu: bool) -> list[dict[str, Any]]:
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = sorted(averages, key=lambda one: getattr(one, field), reverse=True)[:OPERATORS]
    return [{"operator": one.key[:80], "ms": getattr(one, field) / 1e3, "calls": one.count} for one in found]


def _covered(events: Iterable[Any], wall: float) -> float | None:
    """Return the share of `wall` seconds that is covered by what ran on the GPU, overlaps counted once."""
    kind = torch.autograd.DeviceType.CUDA
    spans = sorted((one.time_range.start, one.time_range.end) for one in events if one.device_type == kind)
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return min(1.0, total / 1e6 / wall) if spans else None


class StepClock:
    """Takes the time of training steps, as `progress` of `fit`; ends the training when the time or the epoch is over.

    Steps may be queued on the device and run later. So the device is waited for twice only: after the steps that warm
    up, and at the end.
    """

    def __init__(self, device: torch.device, seconds: float, *, warm: int = 3, most: int | None = None) -> None:
        self._device, self._seconds, self._warm, self._most = device, seconds, warm, most
        self._began, self._step_s, self._before = now(device), 0.0, 0
        self.measured = self.steps = 0

    def __call__(self, at: Any) -> None:
        """Take note of a step; raise Enough at the end."""
        self.steps = at.steps
        if not self._before and min(self._warm, at.steps - 1) <= at.step < at.steps:
            self._began, self._before = now(self._device), at.step
            return
        count = at.step - self._before
        spent = time.perf_counter() - self._began
        if count > 0 and (spent > self._seconds or at.step == at.steps or count == self._most):
            self._step_s, self.measured = (now(self._device) - self._began) / count, count
            raise Enough

    @property
    def step_s(self) -> float:
        """Return the seconds of a step."""
        return self._step_s

    @property
    def epoch_s(self) -> float:
        """Return the seconds of an epoch: those of a step times the number of steps."""
        return self._step_s * self.steps

    @property
    def seen(self) -> int:
        """Return the steps that were done, those that warm up included."""
        return self._before + self.measured

    def told(self) -> dict[str, Any]:
        """Return the columns of a table."""
        return {
            "step (s)": self.step_s,
            "epoch (s)": self.epoch_s,
            "measured": f"{self.measured} of {self.steps} steps",
        }


def peak_bytes(device: torch.device, own: bool) -> int:
    """Return the peak since `start_peaks`: of the GPU's memory, elsewhere of the process's."""
    from pipelines.runs.memory import peaks

    found = peaks(device, own)
    return int(found["peak_gpu_memory_bytes" if device.type == "cuda" else "peak_memory_bytes"] or 0)


def card_facts(device: torch.device) -> dict[str, Any]:
    """Return what computes: card, driver, CUDA, cuDNN; processor and cores."""
    facts: dict[str, Any] = {"device": str(device), "processor": _processor(), "cores": os.cpu_count()}
    facts["python"], facts["torch"] = platform.python_version(), torch.__version__
    if device.type != "cuda":
        return facts | {"card": "none", "threads": torch.get_num_threads()}
    card = torch.cuda.get_device_properties(device)
    facts |= {"card": card.name, "memory (GB)": round(card.total_memory / 2**30, 1), "driver": _driver()}
    return facts | {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}


def _driver() -> str:
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.split()[0]
    return "unknown"


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.machine()
