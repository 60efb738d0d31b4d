"""How freezeframe is installed, from a wheel or as a checkout, and by which command it was called.

Every start of the command imports this module. `tomllib` and `importlib.metadata` take longer to import than the rest
of it, and few commands need them, so they are imported in functions.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]  # a checkout, or the folder that packages are installed in


def called_as() -> str:
    """Return how this process's command was called, to be printed in front of a verb."""
    given = Path(sys.argv[0]) if sys.argv else Path()
    if given.name == "run_pipeline.py":
        return f"python {shlex.quote(str(given))}"
    if given.name == "freezeframe.py":
        return "python -m freezeframe"
    if given.stem == "freezeframe":
        found = shutil.which("freezeframe")
        same = found is not None and Path(found).resolve() == given.resolve()
        return "freezeframe" if same or given.name == str(given) else shlex.quote(str(given))
    return "python run_pipeline.py" if _project() else "freezeframe"  # Python code calls us


def install_extra(name: str) -> str:
    """Return the command that installs an extra, such as `extract`."""
    return f"pip install -e '.[{name}]'" if _project() else f"pip install 'WHEEL[{name}]' (freezeframe's wheel)"


def version() -> str:
    """Return our version, from the checkout's pyproject.toml or the installed metadata; 'unknown' without both."""
    project = _project()
    if project:
        return str(project["version"])
    from importlib import metadata

    try:
        return metadata.version("freezeframe")
    except metadata.PackageNotFoundError:
        return "unknown"


def versions() -> str:
    """Return the line that `--version` prints; torch is not imported for it."""
    from importlib import metadata

    try:
        torch = f"torch {metadata.version('torch')}"
    except metadata.PackageNotFoundError:
        torch = "without torch"
    python = ".".join(map(str, sys.version_info[:3]))
    return f"freezeframe {version()} (Python {python}, {torch})"


def _project() -> dict[str, Any]:
    """Return the section `project` of the checkout's pyproject.toml; {} where we are installed."""
    path = ROOT / "pyproject.toml"
    if not path.is_file():
        return {}
    import tomllib

    project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    return project if project.get("name") == "freezeframe" else {}
