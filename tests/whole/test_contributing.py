"""The walk-throughs of CONTRIBUTING.md, followed word by word in a copy of the code, with the commands they show."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import pipelines

ROOT = Path(pipelines.__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = {line.partition(",")[0]: code for line, code in re.findall(r"```python\n# (.*?)\n(.*?)```", PAGE, re.DOTALL)}
COMMANDS = re.findall(r"^    \.venv/bin/python -m pytest (.*)$", PAGE, re.MULTILINE)
RECOMMENDER, READER = "models/recent.py", "pipelines/data/readers/histories.py"
READER_TEST = "tests/pipelines/data/test_histories.py"
ENTRIES, EXAM = "extract/encoders/entries/tiny.py", "tests/support/encoding.py"
# The page's commands in one session, which costs an import of torch. Of the recommender's exam, which trains it with
# every item representation, one of them; of the encoder's, not the test that the page says will fail.
WORDS = "several_targets_by_hand or test_histories or (words-tiny and not librarys_own) or (recent and (dnn or state))"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code in which the page was followed."""
    folder = tmp_path_factory.mktemp("contributing")
    without = shutil.ignore_patterns("__pycache__", "release-*")
    for name in ("extract", "features", "models", "pipelines", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=without)
    for name in ("pyproject.toml", "run_pipeline.py"):
        shutil.copy(ROOT / name, folder / name)
    for path in (RECOMMENDER, READER, READER_TEST):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(BLOCKS[path], encoding="utf-8")
    detection, first = folder / "pipelines/data/detection.py", "from pipelines.data.readers.iisan import IISAN\n"
    edit(detection, first, f"from pipelines.data.readers.histories import HISTORIES\n{first}")
    edit(detection, "\nREADERS: tuple[Reader, ...] = (", "\nREADERS: tuple[Reader, ...] = (HISTORIES, ")
    entries = (folder / ENTRIES).read_text(encoding="utf-8").rstrip()
    assert entries.endswith("\n)")  # TINY comes last
    (folder / ENTRIES).write_text(f"{entries.removesuffix(')')}{BLOCKS[ENTRIES].rstrip()},\n)\n", encoding="utf-8")
    edit(folder / EXAM, "\nBLOCKS = {\n", f"\nBLOCKS = {{\n{BLOCKS[EXAM]}")
    return folder


@pytest.fixture(scope="module")
def passed(copy: Path) -> list[str]:
    """The tests that the page's commands run, all of which pass, as 'file name, test'."""
    files = {command.split()[0].partition("::")[0] for command in COMMANDS if command.startswith("tests/")}
    assert len(files) == 4
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml=found.xml", "-k", WORDS]
    line += sorted(files)
    done = subprocess.run(line, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = ElementTree.parse(copy / "found.xml").getroot().iter("testcase")
    return [f"{case.attrib['classname'].rpartition('.')[2]} {case.attrib['name']}" for case in cases]


@pytest.mark.slow
def test_every_walk_through_passes_its_exam(passed: list[str]) -> None:
    assert "test_metrics test_several_targets_by_hand" in passed
    assert (
        "test_models_contract test_loss_falls_withheld_items_rank_first_and_content_places_new_ones[recent-dnn]"
        in passed
    )
    assert "test_models_contract test_no_state_sees_a_later_item[recent]" in passed
    assert "test_encoders test_vectors_have_the_promised_shape[words-tiny]" in passed
    assert "test_encoders test_tiny_encoders_tell_titles_apart[words-tiny]" in passed
    assert "test_histories test_histories_are_read_in_their_order" in passed
    assert len([name for name in passed if "[recent" in name]) >= 10
    assert len([name for name in passed if "[words-tiny]" in name]) >= 6


def test_the_walk_throughs_keep_the_habits(copy: Path) -> None:
    for path in (RECOMMENDER, READER, READER_TEST):
        for check in (["check"], ["format", "--check"]):
            line = [sys.executable, "-m", "ruff", *check, str(copy / path)]
            done = subprocess.run(line, cwd=copy, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout


def test_files_and_names_that_the_page_sends_to_are_there() -> None:
    rows = PAGE.partition("## Where things go")[2].partition("\n## ")[0]
    named = {path for path in re.findall(r"`([a-z_]+/[\w/.]*)`", rows) if "NAME" not in path}
    assert len(named) > 15
    for path in named:
        assert (ROOT / path).exists(), path
    pairs = re.findall(r"`(\w+)`(?: and `(\w+)`)? in `([\w/]+\.py)`", rows)
    assert len(pairs) >= 6
    for first, second, path in pairs:
        text = (ROOT / path).read_text(encoding="utf-8")
        for name in filter(None, (first, second)):
            assert re.search(rf"^(def |class )?{name}\b", text, re.MULTILINE), f"{name} in {path}"
