"""Which dependencies have wheels for which systems: a Markdown table from the metadata of pip's configured index.

    python benchmarks/wheels.py            # all dependencies of pyproject.toml but those of `dev`
    python benchmarks/wheels.py decord av  # some packages

It asks `pip index versions` for the newest wheel per package, system and Python. Nothing is installed, and nothing but
index pages is downloaded. The index is the one that pip is configured to use. pip must be of release 26 or later: older
ones (23.2 was tried) count archives of source code as well.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
GLIBC = range(39, 4, -1)  # glibc 2.39 down to 2.5: pip takes a tag such as manylinux_2_28 for that release alone
OLD = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}
SYSTEMS = {
    "Linux x86-64": [f"manylinux_2_{minor}_x86_64" for minor in GLIBC] + [f"{old}_x86_64" for old in OLD["x86_64"]],
    "Linux arm64": [f"manylinux_2_{minor}_aarch64" for minor in GLIBC] + [f"{old}_aarch64" for old in OLD["aarch64"]],
    "macOS arm64": ["macosx_15_0_arm64"],  # pip adds the older releases itself
    "Windows x86-64": ["win_amd64"],
}
WORKERS = 3


def main() -> None:
    """Ask for every package, and print one table per part of pyproject.toml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*")
    asked = parser.parse_args().packages
    if int(metadata.version("pip").partition(".")[0]) < 26:
        raise SystemExit(f"pip is {metadata.version('pip')}; use 26 or later: python -m pip install --upgrade pip")
    parts = {"packages": asked} if asked else declared()
    print(f"Read on {datetime.now(UTC):%Y-%m-%d}; Python {', '.join(PYTHONS)}.\n")
    for name, packages in parts.items():
        print(f"| {name} | {' | '.join(SYSTEMS)} |\n| --- |{' --- |' * len(SYSTEMS)}")
        for package in packages:
            print(f"| {package} | {' | '.join(row(package))} |", flush=True)
        print()


def declared() -> dict[str, list[str]]:
    """Return the packages of the base install and of each extra but `dev`, without versions and markers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: words for name, words in project["optional-dependencies"].items() if name != "dev"}
    parts = {"base install": project["dependencies"]} | extras
    return {name: [re.split(r"[><=\[; ]", word)[0] for word in words] for name, words in parts.items()}


def row(package: str) -> list[str]:
    """Return for each system the newest wheel per Python, written once where all Pythons have the same."""
    asks = [(package, SYSTEMS[system], python) for system in SYSTEMS for python in PYTHONS]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(lambda ask: newest_wheel(*ask), asks))
    cells = []
    for start in range(0, len(found), len(PYTHONS)):
        versions = found[start : start + len(PYTHONS)]
        same = len(set(versions)) == 1
        cells.append(versions[0] if same else ", ".join(map(": ".join, zip(PYTHONS, versions, strict=True))))
    return cells


def newest_wheel(package: str, platforms: Sequence[str], python: str) -> str:
    """Return the version of the newest wheel that pip would take there, or 'none'."""
    command = [sys.executable, "-m", "pip", "index", "versions", package, "--only-binary=:all:"]
    command += [f"--platform={platform}" for platform in platforms] + [f"--python-version={python}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        match = re.match(r"\S+ \((.+?)\)", done.stdout)
        if match is None:
            raise SystemExit(f"{package}: pip said {done.stdout[:200]!r}")
        return match[1]
    if "No matching distribution" in done.stderr:
        return "none"
    raise SystemExit(f"{package}: {done.stderr.strip()[-300:]}")


if __name__ == "__main__":
    main()
