"""Progress without a terminal, and what of a bar's line finds room."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pipelines import console, progress
from pipelines.console import Manner, in_manner
from pipelines.progress import fit_line

Capture = pytest.CaptureFixture[str]


def test_a_line_for_every_five_percent(capsys: Capture) -> None:
    with progress.progress("extract resnet-tiny") as advance:
        for done in range(0, 1001, 4):
            advance(done, 1000, done // 100)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 20
    assert [int(re.findall(r"(\d+) %", line)[0]) for line in lines] == list(range(5, 101, 5))
    told = r"extract resnet-tiny: 300 of 1000 items \(30 %\), 3 failed, [\d.]+ items/s, \d+:\d\d:\d\d left"
    assert re.fullmatch(told, lines[5])
    assert "left" not in lines[-1]


def test_rows_of_earlier_runs_are_not_in_the_rate(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 100.0, 110.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    with progress.progress("extract", unit="rows") as advance:
        advance(900, 1000)
        advance(950, 1000)
    assert capsys.readouterr().err == "extract: 950 of 1000 rows (95 %), 0 failed, 5.0 rows/s, 0:00:10 left\n"


def test_other_work_begins_anew(capsys: Capture) -> None:
    with progress.progress("extract") as advance:
        for total in (50, 20):
            for done in range(total + 1):
                advance(done, total)
    assert len(capsys.readouterr().err.splitlines()) == 40


@pytest.mark.parametrize("how", ["asked for", "another process tells it"])
def test_nobody_is_told_twice_or_against_his_will(how: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "another process tells it":
        monkeypatch.setattr(console.ERR, "quiet", True)
    with in_manner(Manner(quiet=how == "asked for")), progress.progress("extract") as advance:
        for done in range(11):
            advance(done, 10)
        console.note("a note")
    assert capsys.readouterr().err == ""
    console.warn("still told")
    assert ("still told" in capsys.readouterr().err) == (how == "asked for")


@given(
    st.text(max_size=60, alphabet="ab 视"),
    st.lists(st.text(min_size=1, max_size=20, alphabet="ab 1"), max_size=8),
    st.integers(20, 200),
)
def test_a_bar_is_one_line(title: str, parts: list[str], width: int) -> None:
    line = fit_line(title, parts, width)
    pieces = [cell_len(line.title), line.bar, cell_len(line.text)]
    assert sum(pieces) + sum(piece > 0 for piece in pieces) - 1 < width
