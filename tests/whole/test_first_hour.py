"""The first hour: the commands of docs/first-hour.md on sixty clips, in order, and what the page says they print."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import run_pipeline
from tests.support.own_clips import own_clips
from tests.support.shared import made_once

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8")
BLOCKS = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]
START = "python run_pipeline.py "
DRAWN = re.compile(r"[\s\u2500-\u257f]+")  # white space, and the lines of tables
FINGERPRINT = re.compile(r"[0-9a-f]{16}")  # of random weights, which another version of torch may draw otherwise


@pytest.fixture
def here(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    clips = made_once(tmp_path_factory, "own-clips", lambda folder: own_clips(folder / "mydata"))
    shutil.copytree(clips / "mydata", tmp_path / "mydata")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str, *more: str) -> None:
    assert line.startswith(START), line
    assert run_pipeline.main([*shlex.split(line.removeprefix(START)), *more]) == 0, line


def words(text: str) -> str:
    return FINGERPRINT.sub("FINGERPRINT", DRAWN.sub(" ", text)).strip()


@pytest.mark.slow
def test_from_git_clone_to_a_table_in_five_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[0] for line in BLOCKS[0]] == ["git", "make", "python", "python", "python"]
    extract, init, compare = BLOCKS[0][2:]
    run(extract)
    assert capsys.readouterr().out.splitlines()[-1] == init.replace(START, f"next: {START}")
    run(init)
    told = words(capsys.readouterr().out)
    assert told in words(PAGE)
    assert " ".join(compare.split()[: compare.split().index("--markdown")]) in told
    (recipe,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert words((here / "recipe.yaml").read_text()) == words(recipe)
    run(compare, "--set", "train.epochs=2", "--device", "cpu")
    found = (here / "table.md").read_text()
    for row in ("mydata[kind=id]", "mydata[kind=v]", "mydata[kind=id+v]"):
        assert re.search(rf"^\| {re.escape(row)} \|", found, re.MULTILINE)
        assert re.search(rf"^\| {re.escape(row)} \|", PAGE, re.MULTILINE)
    assert "paper" not in found
    train, recommend, search = BLOCKS[1]
    run(train, "train.epochs=2", "--device", "cpu")
    run(recommend)
    assert "recommended to user viewer-7" in capsys.readouterr().out
    run(search, "train.epochs=1", "--device", "cpu")


def test_a_missing_library_says_what_to_do(tmp_path: Path) -> None:
    code = "import sys; sys.modules['rich'] = None; import run_pipeline; sys.exit(run_pipeline.main(['data', '.']))"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: rich is not installed for {sys.executable}; after `make install` say")
