"""Fixtures of the tests of shards: where a file is to be, and the same file made without a break."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.shards.job import FeatureJob
from features.store import FeatureFile
from tests.support.stores import JOB, run, wanted


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "features.h5"


@pytest.fixture
def unbroken(tmp_path: Path) -> FeatureFile:
    return run(FeatureJob(tmp_path / "unbroken" / "f.h5", JOB, wanted(range(20))))[0]
