"""What opening one media file may cost."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """What opening one file may cost."""

    time_s: float = field(default=60.0, metadata={"flag": "--decode-seconds", "metavar": "SECONDS"})
    """Seconds on the processor that decoding one file may take; by the clock, waiting included, ten times as long."""
    memory_mb: int = field(default=4096, metadata={"flag": "--decode-mb", "metavar": "MB"})
    """Memory that decoding one file may take, in MB (2^20 bytes) above that of an idle worker."""
