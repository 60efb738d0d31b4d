"""What is seen in a terminal of 80 and of 200 columns, captured from a pseudo-terminal."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from rich.cells import cell_len

import run_pipeline
from extract.encoders.registry import ENCODERS
from models import recommenders
from pipelines.recipe.yaml_text import dump_yaml
from tests.support.shared import made_once
from tests.support.small import item_ids, plain_recipe, small_dataset, write, write_vectors
from tests.support.terminal import plain, run_in_terminal, screen, tables

WIDTHS = (80, 200)
LONG = "microlens-100k-sasrec-id+v"
RUNS = ["runs/ids-seed0", "runs/ids-seed1", f"runs/{LONG}-seed0", f"runs/{LONG}-seed1"]
SHOWN = {
    "encoders": ["encoders"],
    "models": ["models"],
    "groups": ["compare"],
    "compared": ["compare", *RUNS, "--costs", "--groups"],
    "evaluated": ["evaluate", RUNS[2], "--groups", "--metrics", "HR,NDCG,MRR,Recall,Precision,MAP,Coverage"],
    "similar": ["similar", "f.h5", "--item", "001"],
}
TRAIN = ["train", "r.yaml", "--out", "watched", "--device", "cpu"]
NUMBER = re.compile(r"[-+<]?\d+\.\d+")
Seen = dict[tuple[int, str], str]


def make(folder: Path) -> None:
    """Two recipes with two seeds each, and all that a terminal of each width then shows."""
    small_dataset(folder / "data")
    write_vectors(folder / "f.h5", "data", item_ids())
    paper = {"paper": {"source": "made up, table 1", "metrics": {"HR@10": 0.0496, "NDCG@10": 0.0123}}}
    quick = {"train": {"epochs": 1, "batch_size": 64}, **paper}
    both = {"items": {"kind": "id+v", "dim": 8}, "features": [{"path": str(folder / "f.h5")}]}
    for name, changes in (("ids", {}), (LONG, both)):
        recipe = plain_recipe(folder / "data", {"name": name, **quick, **changes})
        write(folder / f"{name}.yaml", dump_yaml(recipe))
    write(folder / "r.yaml", dump_yaml(plain_recipe(folder / "data")))
    made = ["compare", "ids.yaml", f"{LONG}.yaml", "--seeds", "2", "--out", "runs", "--device", "cpu"]
    commands = [(80, made), (80, TRAIN), *((width, words) for words in SHOWN.values() for width in WIDTHS)]
    commands += [(80, [*words, "--wide"]) for words in SHOWN.values()]
    found = run_in_terminal(commands, folder)
    write(folder / "seen.json", json.dumps([[*key, text] for key, text in found.items()]))
    pipes = {}
    with contextlib.chdir(folder):
        for name, words in SHOWN.items():
            with contextlib.redirect_stdout(io.StringIO()) as pipe:
                assert run_pipeline.main(words) == 0
            pipes[name] = pipe.getvalue()
    write(folder / "pipes.json", json.dumps(pipes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "terminal", make)


@pytest.fixture(scope="module")
def seen(folder: Path) -> Seen:
    return {(width, words): text for width, words, text in json.loads((folder / "seen.json").read_text())}


@pytest.fixture(scope="module")
def pipes(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "pipes.json").read_text())
    return found


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("width", WIDTHS)
def test_tables_fit_the_terminal(name: str, width: int, seen: Seen, pipes: dict[str, str]) -> None:
    text = plain(seen[width, " ".join(SHOWN[name])])
    assert max(map(cell_len, text.splitlines())) <= width
    drawn = tables(text)
    assert drawn
    for table in drawn:
        heads, *rows = table
        assert len({len(row) for row in table}) == 1
        for column in range(len(heads)):
            assert any(row[column].strip(" -") for row in rows), heads
    complete = pipes[name]
    whole = tables(complete)
    left_out = "left out here" in text
    cells = {cell for table in drawn for row in table for cell in row}
    for table in whole:
        for column in zip(*table[1:], strict=True):
            numbers = [cell for cell in column if NUMBER.match(cell.strip())]
            if len(numbers) == len(column) and not left_out:
                assert {cell.strip() for cell in numbers} <= {cell.strip() for cell in cells}
    every = set(NUMBER.findall(complete))
    assert set(NUMBER.findall(text)) <= every
    assert left_out or set(NUMBER.findall(text)) == every


@pytest.mark.parametrize("name", SHOWN)
def test_wide_takes_all_columns_as_a_pipe_does(name: str, seen: Seen, pipes: dict[str, str]) -> None:
    assert tables(plain(seen[80, " ".join([*SHOWN[name], "--wide"])])) == tables(pipes[name])


def test_lists_say_what_they_leave_out(seen: Seen) -> None:
    for name, known, short in (("encoders", ENCODERS, 80), ("models", recommenders(), 70)):
        text = plain(seen[80, name])
        assert all(f"│ {one} " in text for one in known)
        assert len(text.splitlines()) < short
        assert f"`{name} NAME` shows one in full, --wide all columns." in " ".join(text.split())
    assert "revision" in plain(seen[80, "encoders"]).splitlines()[-1] + plain(seen[80, "encoders"]).splitlines()[-2]


def test_groups_of_recipes_keep_their_paths(seen: Seen) -> None:
    text = plain(seen[80, "compare"])
    assert len(re.findall(r"^│ \S*pipelines/recipes/\S* +│ +\d+ │$", text, re.MULTILINE)) >= 16
    assert "  source: arXiv 2309.15379, Table 2" in text


def test_one_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_pipeline.main(["encoders", "videomae-base"]) == 0
    assert "dc740ceda42fce44faed2ea03c6d447db72f6af9" in capsys.readouterr().out
    assert run_pipeline.main(["models", "sasrec"]) == 0
    assert "mask_own=True" in capsys.readouterr().out
    assert run_pipeline.main(["encoders", "videomae-base", "--json"]) == 0
    assert [row["encoder"] for row in json.loads(capsys.readouterr().out)] == ["videomae-base"]
    assert run_pipeline.main(["models", "sasrek"]) == 2
    assert "did you mean 'sasrec'" in capsys.readouterr().err


# ---- bars


def test_the_bar_tells_of_training_and_leaves_nothing_behind(seen: Seen) -> None:
    text = seen[80, " ".join(TRAIN)]
    lines = [line.rstrip() for line in re.split("[\r\n]", plain(text))]
    assert max(map(cell_len, lines)) <= 80
    drawn = [line for line in lines if "epoch " in line and "best epoch" in line and "patience" in line]
    assert any(
        re.search(r"epoch 3/3 +loss \d\.\d+ +NDCG@10 0\.\d{4} +best epoch [123] +patience \d", one) for one in drawn
    )
    assert any("steps/s" in line for line in lines)
    left = screen(text)
    assert not [line for line in left if "epoch 3/3" in line or "steps/s" in line]
    assert "trained small, run folder watched" in left


def test_many_runs_say_which_one_it_is(seen: Seen) -> None:
    (text,) = (text for (_, words), text in seen.items() if words.startswith("compare ids.yaml"))
    left = screen(text)
    said = [line for line in left if line.startswith("run ")]
    assert said == [
        f"run {n} of 4: {name}, seed {seed}"
        for n, (name, seed) in enumerate([("ids", 0), ("ids", 1), (LONG, 0), (LONG, 1)], start=1)
    ]
    places = [left.index(line) for line in said]
    assert all(after - before == 1 for before, after in pairwise(places))  # each bar vanished


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_a_screen_is_what_is_left() -> None:
    assert screen("one\ntwo\r\x1b[2Kthree\n\x1b[1A\x1b[2Kfour") == ["one", "four", ""]
