"""Examples after `>>>` in docstrings and pages give what stands below them."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("extract", "features", "models", "pipelines")


def with_examples(*patterns: str) -> list[str]:
    found = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return sorted(str(path.relative_to(ROOT)) for path in found if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", with_examples("*.py", *(f"{package}/**/*.py" for package in PACKAGES)))
def test_examples_in_docstrings(path: str) -> None:
    module = import_module(".".join(Path(path).with_suffix("").parts).removesuffix(".__init__"))
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_examples_in_pages() -> None:
    for path in with_examples("*.md", "docs/*.md"):
        assert not doctest.testfile(str(ROOT / path), module_relative=False).failed
