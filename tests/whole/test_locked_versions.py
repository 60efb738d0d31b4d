"""requirements-lock.txt: one exact version each, within the bounds of pyproject.toml, and nothing of one machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
NOT_LOCKED = {"freezeframe", "torchcodec", "faiss-gpu"}  # itself, and extras that `make install` leaves out


def locked() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements-lock.txt").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    found = dict(line.split("==") for line in lines)
    assert len(found) == len(lines)
    return {canonicalize_name(name): version for name, version in found.items()}


def test_every_direct_dependency_is_locked_within_its_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [word for extra in project["optional-dependencies"].values() for word in extra]
    versions = locked()
    for text in (*project["dependencies"], *extras):
        asked = Requirement(text)
        if asked.name not in NOT_LOCKED:
            assert asked.specifier.contains(versions[canonicalize_name(asked.name)], prereleases=True), text
