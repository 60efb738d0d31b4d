"""The house: how full its rooms are, and whether each says what lives there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST = 16  # modules in one folder, its __init__.py counted; more is a flat list that nobody reads
HOUSES = ("extract", "features", "models", "pipelines")
ROOMS = sorted({path.parent for house in HOUSES for path in (ROOT / house).rglob("*.py")})


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_a_room_says_what_lives_there_and_is_not_full(room: Path) -> None:
    told = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    assert told
    assert told.endswith(".")
    if room != ROOT / "models":  # a list of papers
        assert len(list(room.glob("*.py"))) <= MOST


def test_no_two_modules_of_a_house_have_one_name() -> None:
    for house in HOUSES:
        names = [path.stem for path in (ROOT / house).rglob("*.py") if path.stem != "__init__"]
        twice = {name for name in names if names.count(name) > 1}
        # Verbs are named as on the command line, and so are the rooms and libraries that they call.
        allowed = {"pipelines": {"search", "compare", "export", "mmrec", "demo", "schema", "report"}}.get(house, set())
        assert twice <= allowed, (house, twice)
