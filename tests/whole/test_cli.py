"""The command line: every verb once, and every kind of bad input in one line with exit code 2 and nothing left over."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import run_pipeline
from extract.encoders.registry import ENCODERS
from models import recommenders
from pipelines.recipe.yaml_text import dump_yaml
from tests.support.media import pictures, write_clip, write_cover
from tests.support.small import item_ids, plain_recipe, small_dataset, write, write_interactions, write_vectors

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with one dataset in `data/`, its features in `f.h5` and a recipe in `r.yaml`."""
    monkeypatch.chdir(tmp_path)
    small_dataset(tmp_path / "data")
    write_vectors(tmp_path / "f.h5", "data", item_ids())
    changes = {"items": {"kind": "id+v", "dim": 8}, "features": [{"path": "f.h5"}]}
    write(tmp_path / "r.yaml", dump_yaml(plain_recipe(Path("data"), changes)))
    return tmp_path


def cli(*arguments: object) -> int:
    return run_pipeline.main([str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what there is


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, run_pipeline\ntry: run_pipeline.main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "whole job on a generated corpus" in done.stdout
    assert not {"torch", "numpy", "h5py", "polars", "rich"} & set(done.stderr.split())


@pytest.mark.parametrize(
    "verb", ["demo", "extract", "features", "train", "evaluate", "compare", "report", "recommend", "similar"]
)
def test_every_verb_explains_itself(verb: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as left:
        cli(verb, "--help")
    assert left.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"usage: run_pipeline.py {verb}" in printed
    assert not re.search(r"\(default: (None|\[\])?\)", printed)
    assert (verb in ("features", "similar")) or "(default: " in printed


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in dict.fromkeys(action.choices.values()):
                yield from parsers(inner)


def all_parsers() -> list[argparse.ArgumentParser]:
    return [parser for verb in run_pipeline.VERBS for parser in parsers(run_pipeline.parser_of([verb]))]


def test_no_verb_takes_an_abbreviated_option(capsys: Capture) -> None:
    assert not [parser.prog for parser in all_parsers() if parser.allow_abbrev]
    with pytest.raises(SystemExit) as left:
        cli("extract", "--data", "d", "--encoders", "e", "--out", "o", "--eng", "slurm", "--task", "3")
    assert left.value.code == 2
    assert "unrecognized arguments: --eng slurm --task 3" in capsys.readouterr().err


def test_every_option_that_may_follow_an_id_is_known() -> None:
    """'--item --top 3' must say that the item is missing, and '--item -5' must not say that -5 is an option."""
    takers = [p for p in all_parsers() if set(run_pipeline.ID_OPTIONS) & set(p._option_string_actions)]
    assert len(takers) == 2
    assert {name for parser in takers for name in parser._option_string_actions} == set(run_pipeline.NO_IDS)


def test_ids_that_look_like_options_or_emoji(tmp_path: Path, capsys: Capture) -> None:
    odd = ["-5", "--x=1", "-h2", ":smile:", "[red]r[/red]"]
    write_vectors(tmp_path / "f.h5", "data", odd)
    for number, item in enumerate(odd):
        assert cli("similar", tmp_path / "f.h5", "--item", item, "--top", 9, "--json") == 0
        assert {hit["item"] for hit in json.loads(capsys.readouterr().out)} == {*odd[:number], *odd[number + 1 :]}
    assert cli("similar", tmp_path / "f.h5", "--item", "-5") == 0
    printed = capsys.readouterr().out
    assert "similar to item -5" in printed
    assert all(item in printed for item in odd[1:])
    with pytest.raises(SystemExit):
        cli("similar", tmp_path / "f.h5", "--item", "--top", "3")
    assert "--item: expected one argument" in capsys.readouterr().err


def test_encoders_and_models_are_listed(capsys: Capture) -> None:
    assert cli("encoders", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["encoder"] for row in listed] == list(ENCODERS)
    assert all(row["licence"] != "-" for row in listed if "-tiny" not in row["encoder"])
    assert cli("models", "--json") == 0
    assert {row["model"] for row in json.loads(capsys.readouterr().out)} == set(recommenders())
    assert cli("encoders") == cli("models") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*ENCODERS, *recommenders()])


# ---- the way through


def test_from_a_recipe_to_recommendations(here: Path, capsys: Capture) -> None:
    assert cli("train", "r.yaml", "train.epochs=1", "--out", "run", "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "trained small, run folder run" in printed
    assert "30 candidates, seen items: " in printed
    assert cli("train", "r.yaml", "train.epochs=1", "--out", "run", "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert cli("train", "r.yaml", "train.epochs=1", "--out", "run") == 0
    assert "run was finished before; nothing to train" in capsys.readouterr().out
    assert cli("evaluate", "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["test"]["all"] == pytest.approx(metrics["test"]["all"])
    assert cli("evaluate", "run", "--mask", "keep") == 0
    assert "seen items: keep" in capsys.readouterr().out
    assert cli("recommend", "run", "--user", "u03", "--top", 4) == 0
    printed = capsys.readouterr().out
    assert "recommended to user u03" in printed
    assert "seen" in printed
    assert cli("recommend", "run", "--user", "u03", "--top", 4, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 4


def media_folder(folder: Path) -> Path:
    for place in ("videos", "covers"):
        (folder / place).mkdir(parents=True)
    for number in range(3):
        write_clip(folder / "videos" / f"{number}.mp4", pictures(12, kind=number))
        write_cover(folder / "covers" / f"{number}.jpg", kind=number)
    return folder


def test_extract_reports_and_does_nothing_twice(here: Path, capsys: Capture) -> None:
    media_folder(here / "media")
    (here / "media" / "videos" / "1.mp4").write_bytes(b"")
    extract = ["extract", "--data", "media", "--encoders", "videomae-tiny,resnet-tiny", "--weights", "random"]
    extract += ["--out", "features", "--frames", "uniform:4"]
    assert cli(*extract) == 2
    assert "1 of 3 items have no vector (0 missing, 1 failed), more than --max-failed 0.05" in capsys.readouterr().err
    assert cli(*extract, "--max-failed", 0.5) == 0
    first = capsys.readouterr()
    assert "failed  1: " in first.out
    assert "random weights" in first.err
    assert first.out.splitlines()[-1] == "next: python run_pipeline.py init media"
    assert cli(*extract, "--max-failed", 0.5) == 0
    assert capsys.readouterr().out.count("nothing to do, all rows are there") == 2
    assert cli(*extract, "--max-failed", 0.5, "--json") == 0
    assert [report["unchanged"] for report in json.loads(capsys.readouterr().out)] == [True, True]


def test_mmrec_folder_from_the_command_line(here: Path, capsys: Capture) -> None:
    export = ["export", "mmrec", "--data", "data", "--text", "f.h5", "--name", "toy", "--out", "mmrec"]
    assert cli(*export) == 0
    assert (here / "mmrec" / "data" / "toy" / "toy.inter").is_file()


def test_a_stopped_command_says_how_to_go_on(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.commands.train.run", stop)
    assert cli("train", "r.yaml") == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"


@pytest.mark.slow
def test_the_demo_ends_with_a_table_and_all_artefacts(here: Path, capsys: Capture) -> None:
    shutil.rmtree(here / "data")
    assert cli("demo", "--out", "demo", "--seeds", 1, "--items", 160, "--users", 300) == 0
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed
    for part in ("video of zero bytes", "recommended to user", "similar to item", "MMRec folder", "cold HR@10"):
        assert part in printed
    lines = (here / "demo" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:7]] == ["| id", "| v", "| dnn", "| id+v", "| popularity"]
    cold = {line.split(" | ")[0][2:]: float(line.split(" | ")[-1].split()[0]) for line in lines[2:7]}
    assert cold["id"] == cold["popularity"] == 0
    assert max(cold["v"], cold["id+v"]) > 0.05
    assert len(list((here / "demo" / "features").glob("*.h5"))) == 6
    assert "report written to demo/report.html" in printed.replace(chr(92), "/")
    page = (here / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp;base64,") > 100
    assert "synthetic corpus" in page
    assert cli("demo", "--out", "demo", "--seeds", 1, "--items", 160, "--users", 300) == 0
    assert "nothing to do, all rows are there" in capsys.readouterr().out


# ---- bad input


def truncated(here: Path) -> None:
    content = (here / "f.h5").read_bytes()
    (here / "f.h5").write_bytes(content[: len(content) // 2])


def other_dataset(here: Path) -> None:
    write_vectors(here / "f.h5", "elsewhere", [f"x{item}" for item in item_ids()])


def not_finite(here: Path) -> None:
    array = np.ones((30, 4), dtype=np.float32)
    array[7, 2] = np.nan
    np.save(here / "x.npy", array)


def array(here: Path) -> None:
    np.save(here / "x.npy", np.ones((30, 4), dtype=np.float32))


def table(*lines: str) -> Callable[[Path], None]:
    def spoil(here: Path) -> None:
        write(here / "data" / "interactions.tsv", "".join(f"{line}\n" for line in lines))

    return spoil


def short_user(here: Path) -> None:
    write_interactions(here / "data", [("a", "1", 1), ("a", "2", 2), ("b", "1", 1), ("b", "2", 2), ("b", "3", 3)])


def title_twice(here: Path) -> None:
    write(here / "data" / "items.csv", "item,title\n001,one\n002,two\n001,again\n")


def nothing(_: Path) -> None:
    pass


def no_validation(here: Path) -> None:
    (here / "data" / "interactions.tsv").unlink()
    (here / "data" / "items.csv").unlink()
    write(here / "data" / "data.inter", "userID\titemID\tx_label\n0\t1\t0\n0\t2\t2\n")


EXTRACT = ["extract", "--data", "data", "--weights", "random", "--out", "out"]
TRAIN = ["train", "r.yaml", "--out", "out"]
EXPORT = ["export", "mmrec", "--data", "data", "--text", "f.h5", "--name", "toy", "--out"]
IMPORT = ["features", "import", "x.npy", "--ids", "row+1", "--unmatched", "keep", "--data", "data", "--name", "x"]
IMPORT += ["--out", "out"]
BAD: dict[str, tuple[Callable[[Path], None], Sequence[str], str]] = {
    "unknown encoder": (nothing, [*EXTRACT, "--encoders", "resnet-tyny"], "did you mean 'resnet-tiny'"),
    "unknown key": (nothing, [*TRAIN, "train.epocs=3"], "did you mean 'epochs'"),
    "unknown model": (nothing, [*TRAIN, "model.name=sasrek"], "did you mean 'sasrec'"),
    "wrong type": (nothing, [*TRAIN, "train.epochs=many"], "train.epochs"),
    "missing recipe": (nothing, ["train", "no.yaml", "--out", "out"], "no.yaml"),
    "processes of a worker": (
        nothing,
        [*EXTRACT, "--encoders", "minilm-tiny", "--engine", "worker", "--processes", "2"],
        "--processes 2 is for --engine local and ray, not for --engine worker; start the same command several times",
    ),
    "processes of Slurm": (
        nothing,
        [*EXTRACT, "--encoders", "minilm-tiny", "--engine", "slurm", "--processes", "2"],
        "not for --engine slurm; set --tasks",
    ),
    "missing folder": (nothing, [*EXTRACT, "--encoders", "resnet-tiny", "--data", "nowhere"], "nowhere does not exist"),
    "missing features": (nothing, [*TRAIN, "features.0.path=no.h5"], "no.h5"),
    "media that are not there": (nothing, [*EXTRACT, "--encoders", "resnet-tiny"], "has no cover for any of its"),
    "empty interactions": (table("user\titem\ttimestamp"), TRAIN, "interactions.tsv holds no interactions"),
    "empty file": (table(), TRAIN, "interactions.tsv holds no interactions"),
    "missing column": (table("user\titem\ttme", "a\t1\t1"), TRAIN, "has no column 'timestamp'"),
    "short user": (short_user, [*TRAIN, "data.short_users=error"], "first 'a' with 2"),
    "title twice": (title_twice, [*EXTRACT, "--encoders", "minilm-tiny"], "names item '001' twice"),
    "NaN in an import": (not_finite, IMPORT, "1 of 30 rows hold NaN or infinity"),
    "no such import": (nothing, IMPORT, "x.npy does not exist"),
    "MMRec from another dataset": (other_dataset, [*EXPORT, "mmrec"], "rows for 0 of the 30 items of 'data', whose"),
    "features of another dataset": (other_dataset, TRAIN, "elsewhere"),
    "truncated file": (truncated, TRAIN, "f.h5"),
    "truncated file, verified": (truncated, ["features", "verify", "f.h5"], "f.h5"),
    "truncated file, exported": (truncated, [*EXPORT, "mmrec"], "f.h5"),
    "truncated file, searched": (truncated, ["similar", "f.h5", "--item", "001"], "f.h5"),
    "no feature file": (nothing, ["features", "inspect", "r.yaml"], "r.yaml is no HDF5 file; name a feature file"),
    "features of a recipe": (array, [*TRAIN, "features.0.path=x.npy"], "x.npy is no HDF5 file; name a feature file"),
    "extracting into a file": (nothing, [*EXTRACT[:-1], "r.yaml", "--encoders", "minilm-tiny"], "cannot use r.yaml"),
    "training into a file": (nothing, [*TRAIN[:-1], "r.yaml"], "cannot use r.yaml"),
    "comparing into a file": (nothing, ["compare", "r.yaml", "--out", "r.yaml"], "cannot use r.yaml"),
    "demo into a file": (nothing, ["demo", "--out", "r.yaml"], "cannot write r.yaml"),
    "importing into a file": (array, [*IMPORT[:-1], "r.yaml"], "cannot write r.yaml"),
    "exporting into a file": (nothing, [*EXPORT, "r.yaml"], "cannot write r.yaml"),
    "no run": (nothing, ["recommend", "data", "--user", "u01"], "is no finished run"),
    "tiny demo": (nothing, ["demo", "--items", "3", "--out", "out"], "at least 1 seed, 64 items"),
    "no seeds": (nothing, ["compare", "r.yaml", "--seeds", "0", "--out", "out"], "--seeds is 0"),
    "unknown frames": (nothing, [*EXTRACT, "--encoders", "videomae-tiny", "--frames", "midle:5"], "midle"),
    "unknown metric": (nothing, [*TRAIN, "evaluate.metrics=[HR, NDGC]"], "did you mean 'NDCG'"),
    "empty validation part": (no_validation, TRAIN, "the validation part of 'data' is empty: no row has x_label 1"),
    "unknown baseline": (nothing, ["compare", "r.yaml", "--baseline", "smal", "--out", "out"], "did you mean 'small'"),
    "unknown device": (nothing, [*TRAIN, "--device", "gpu"], "device 'gpu'"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_exit_code_2(here: Path, capsys: Capture, what: str) -> None:
    spoil, command, expected = BAD[what]
    spoil(here)
    before = contents(here)
    assert cli(*command) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert contents(here) == before


def test_users_too_short_for_a_split_are_dropped_and_counted(here: Path, capsys: Capture) -> None:
    rows = [(f"u{user}", f"{item:03}", item) for user in range(6) for item in range(user, user + 5)]
    write_interactions(here / "data", [*rows, ("short", "001", 1), ("short", "002", 2)])
    assert cli("train", "r.yaml", "--out", "run", "train.epochs=1") == 0
    assert json.loads((here / "run" / "record.json").read_text())["dataset"]["dropped_users"] == 1
    assert "1 users left out for too few interactions" in capsys.readouterr().out
    assert cli("evaluate", "run") == 0
    assert "1 users left out for too few interactions" in capsys.readouterr().out


USAGE = [
    [],
    ["trian"],
    ["extract"],
    ["features"],
    ["evaluate", "run", "--no"],
    ["train", "r.yaml", "--lr=3"],
    ["demo", "a=b"],
]


@pytest.mark.parametrize("arguments", USAGE)
def test_usage_errors_exit_with_2(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as left:
        cli(*arguments)
    assert left.value.code == 2
    assert "usage: run_pipeline.py" in capsys.readouterr().err
