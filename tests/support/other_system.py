"""A system that is not Linux, pretended: the product's own code misses what Windows lacks; libraries miss nothing.

`pretend_windows` is for a process of its own: it does not undo what it changes. It shows what the product takes for
granted about the system, and nothing about how libraries behave on one.

- Modules `resource`, `fcntl` and the like cannot be imported, `os` has no fork, `signal` no SIGKILL; `sys.platform` is
  'win32'.
- /proc and /dev/fd are not there, and no folder can be opened.
- No file can be renamed, replaced or deleted while this process has it open or mapped, and no folder renamed while that
  holds for a file in it.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

PRODUCT = ("extract", "features", "models", "pipelines", "run_pipeline")
MODULES = ("resource", "fcntl", "termios", "pwd", "grp", "pty", "posix", "syslog")
ABSENT = {
    "os": """
        fork forkpty kill killpg setsid getpgid getuid geteuid nice wait4 pread pwrite readv posix_fadvise chown uname
        sched_getaffinity statvfs sysconf mkfifo set_blocking O_DIRECTORY O_ASYNC O_NONBLOCK O_NOFOLLOW
    """,
    "signal": "SIGKILL SIGIO SIGPROF SIGALRM SIGHUP SIGUSR1 SIGCHLD alarm setitimer pthread_sigmask",
    "sys": "",
}
HIDDEN_PATHS = ("/proc", "/dev/fd")


def pretend_windows() -> None:
    """Hide from the product what Windows lacks, for the rest of this process."""
    proxies = {name: _without(name, names) for name, names in ABSENT.items()}
    proxies["sys"].__dict__["platform"] = "win32"
    proxies["os"].__dict__["open"] = _no_folder(os.open)
    real = builtins.__import__

    def looked_up(name: str, globals: Any = None, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 (__import__'s name)
        ours = ((globals or {}).get("__name__") or "").partition(".")[0] in PRODUCT
        if ours and name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return proxies[name] if ours and name in proxies else real(name, globals, *args, **kwargs)

    builtins.__import__ = looked_up
    _hide_paths()
    for name in ("replace", "rename", "unlink", "remove"):
        setattr(os, name, _unless_open(getattr(os, name)))


def _without(name: str, absent: str) -> ModuleType:
    """Return a copy of a module that lacks some names; what it has is looked up in the module itself."""
    module = __import__(name)
    copy = ModuleType(name)

    def missing(wanted: str) -> Any:
        if wanted in absent.split():
            raise AttributeError(f"module {name!r} has no attribute {wanted!r}")
        return getattr(module, wanted)

    copy.__dict__["__getattr__"] = missing
    return copy


def _no_folder(opened: Callable[..., int]) -> Callable[..., int]:
    def refusing(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    return refusing


def _hide_paths() -> None:
    """Let `open` and `Path.exists` know nothing of `HIDDEN_PATHS`."""
    opened, stat = io.open, Path.stat

    def refuse(path: Any) -> None:
        if isinstance(path, str | Path) and str(path).startswith(HIDDEN_PATHS):
            raise FileNotFoundError(2, "No such file or directory", str(path))

    def opening(path: Any, *args: Any, **kwargs: Any) -> Any:
        refuse(path)
        return opened(path, *args, **kwargs)

    def looking(path: Path, **kwargs: Any) -> Any:
        refuse(path)
        return stat(path, **kwargs)

    io.open = builtins.open = opening
    Path.stat = looking


def _unless_open(do: Callable[..., None]) -> Callable[..., None]:
    def refusing(*paths: Any, **kwargs: Any) -> None:
        for path in paths:
            held = in_use(str(Path(path).absolute())) if "dir_fd" not in kwargs else ""
            if held:
                raise PermissionError(13, f"{do.__name__}: this process has {held} open or mapped", str(path))
        do(*paths, **kwargs)

    return refusing


def in_use(path: str) -> str:
    """Return the path, or that of a file below it, which this process has open or mapped; '' if there is none."""
    held = set()
    for number in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor of the listing itself is closed by now
            held.add(str(number.readlink()))
    descriptor = os.open("/proc/self/maps", os.O_RDONLY)
    with os.fdopen(descriptor) as maps:
        held |= {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if len(line.split()) > 5}
    return next((one for one in sorted(held) if one == path or one.startswith(f"{path}/")), "")


if sys.platform != "linux":
    raise ImportError("this pretends another system on Linux")
