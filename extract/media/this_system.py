"""What this system lacks for opening media: Linux nothing, macOS a memory limit; Windows cannot open any.

docs/platforms.md says which parts of this were never run on such a system.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from features.errors import ConfigError

STATUS = Path("/proc/self/status")


def refuse_system() -> None:
    """Raise ConfigError where media cannot be opened within limits."""
    if sys.platform == "win32":
        raise ConfigError(
            "videos and covers are opened in processes under a time limit that Windows does not have; extract them on "
            "Linux, on macOS or in WSL, and copy the feature files here (encoders of titles work here, too)"
        )


def shortfalls(decoder: str) -> list[str]:
    """Return what is missing here for reading videos and covers, one line each."""
    lines = []
    if not STATUS.exists():
        lines.append("this system does not tell how much memory a process takes: --decode-mb is not enforced")
    if decoder == "auto" and importlib.util.find_spec("decord") is None:
        lines.append("decord is not installed here: PyAV decodes all videos, with the same frames")
    return lines
