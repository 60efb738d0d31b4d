"""Command line `features`: inspect, verify, merge, import and export, and what each refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import run_pipeline
from features.store import FeatureFile
from tests.support.small import item_ids, small_dataset, write_interactions, write_vectors

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a dataset in `data/`, its features in `f.h5` and an array of ones in `x.npy`."""
    monkeypatch.chdir(tmp_path)
    small_dataset(tmp_path / "data")
    write_vectors(tmp_path / "f.h5", "data", item_ids(), missing=["007"])
    np.save(tmp_path / "x.npy", np.ones((30, 3), dtype=np.float32))
    return tmp_path


def cli(*arguments: object) -> int:
    return run_pipeline.main([str(argument) for argument in arguments])


def test_feature_files_in_and_out(here: Path, capsys: Capture) -> None:
    assert cli("features", "inspect", "f.h5") == 0
    assert "sound: 29 of 30 items have a vector" in capsys.readouterr().out
    assert cli("features", "inspect", "f.h5", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == {"done": 29, "missing": 1, "failed": 0}
    assert cli("features", "verify", "f.h5") == 0
    assert cli("features", "export", "f.h5", "--out", "out") == 0
    named = ["--ids", "out/ids.txt", "--data", "data", "--name", "published"]
    assert cli("features", "import", "out/vectors.npy", *named, "--out", "made", "--dtype", "float32") == 0
    (made,) = (here / "made").iterdir()
    capsys.readouterr()
    assert cli("similar", made, "--item", "003", "--top", 3, "--data", "data", "--json") == 0
    hits = json.loads(capsys.readouterr().out)
    assert len(hits) == 3
    assert any(hit["title"].startswith("title, ") for hit in hits)
    assert cli("similar", "f.h5", "--item", "003", "--top", 3, "--json") == 0
    assert [hit["item"] for hit in json.loads(capsys.readouterr().out)] == [hit["item"] for hit in hits]
    assert cli("features", "merge", "both.h5", "f.h5", "f.h5") == 0
    assert cli("features", "verify", "both.h5") == 0


def test_extract_makes_int8_and_says_what_it_cost(here: Path, capsys: Capture) -> None:
    line = ["extract", "--data", "data", "--encoders", "minilm-tiny", "--weights", "random", "--out", "made"]
    allowed = ["--max-failed", 1, "--dtype", "int8"]
    assert cli(*line, *allowed) == 0
    assert "minilm-tiny: rounding costs " in capsys.readouterr().out
    (made,) = (here / "made").glob("*.h5")
    assert FeatureFile(made).dtype == np.int8
    assert cli("features", "verify", made) == 0
    capsys.readouterr()
    assert cli("features", "inspect", made, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cosine_error"]["rows"] == found["rows"]["done"] > 0
    assert 0 < found["cosine_error"]["mean"] <= found["cosine_error"]["max"] < 1e-3
    assert cli(*line, "--dtype", "int4") == 2
    assert "dtype 'int4' cannot be stored; choose float16, float32 or int8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "ids", "foreign", "absent"),
    [
        (12, "row+1", "", "10 of the 22 items of 'n' are not among the ids, first '13'"),
        (27, "row+1", "5 of 27 ids have neither interactions nor a title in 'n', first '23'", ""),
        (22, "row", "1 of 22 ids have neither interactions nor a title in 'n', first '0'", "1 of the 22 items"),
    ],
)
def test_an_array_that_is_short_long_or_shifted_is_refused(
    here: Path, capsys: Capture, rows: int, ids: str, foreign: str, absent: str
) -> None:
    interactions = [(f"u{user}", item, item) for user in range(2) for item in range(1, 23)]
    write_interactions(here / "n", interactions)
    np.save("x.npy", np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32))
    line = ["features", "import", "x.npy", "--ids", ids, "--data", "n", "--name", "x", "--out", "made"]
    assert cli(*line) == 2
    said = capsys.readouterr().err
    assert foreign in said
    assert absent in said
    assert f"is --ids {ids} right? Nothing is imported; --unmatched keep imports it all the same" in said
    assert not (here / "made").exists()
    assert cli(*line, "--unmatched", "keep") == 0
    assert "warning: x.npy: " in capsys.readouterr().err
    (made,) = (here / "made").glob("*.h5")
    assert FeatureFile(made).counts()["done"] == rows


def test_ids_that_the_dataset_does_not_know_are_refused(here: Path, capsys: Capture) -> None:
    np.save("x.npy", np.ones((31, 3), dtype=np.float32))
    (here / "ids.txt").write_text("".join(f"{item}\n" for item in [*item_ids(), "031"]))
    assert cli(*IMPORT, "--ids", "ids.txt") == 2
    captured = capsys.readouterr()
    assert "1 of 31 ids have neither interactions nor a title in 'data', first '031'" in captured.err
    assert cli(*IMPORT, "--ids", "ids.txt", "--unmatched", "keep") == 0


@pytest.mark.parametrize("form", ["npy", "parquet", "safetensors", "mmrec"])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_every_format_goes_out_and_comes_back(here: Path, capsys: Capture, form: str, dtype: str) -> None:
    assert cli("features", "export", "f.h5", "--out", "out", "--format", form) == 0
    written = [Path(name) for name in capsys.readouterr().out.removeprefix("written: ").strip().split(", ")]
    assert sorted(written) == sorted(Path("out") / path.name for path in (here / "out").iterdir())
    ids = ["--ids", written[1]] if len(written) > 1 else []
    named = ["--data", "data", "--name", "again", "--dtype", dtype]
    assert cli("features", "import", written[0], *ids, *named, "--out", "again.h5") == 0
    captured = capsys.readouterr()
    assert f"rounding to {dtype} costs " in captured.out
    assert "1 of the 30 items of 'data' are not among the ids" in captured.err  # the one without a cover
    file = FeatureFile(here / "again.h5")
    assert file.dtype == dtype
    expected = FeatureFile(here / "f.h5").read(file.columns.ids)
    np.testing.assert_allclose(file.read(file.columns.ids), expected, atol=1e-3 if dtype == "float16" else 0.02)
    assert cli("features", "inspect", "again.h5", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cosine_error"]["rows"] == 29
    assert cli("features", "inspect", "again.h5") == 0
    assert "max: " in capsys.readouterr().out


def test_unknown_errors_and_reasons_are_shown_as_such(here: Path, capsys: Capture) -> None:
    assert cli("features", "export", "f.h5", "--out", "out") == 0
    assert cli("features", "inspect", "f.h5") == 0
    printed = capsys.readouterr().out
    assert "007: no cover" in printed
    assert "mean_cosine" in printed
    assert "effective_rank" in printed


IMPORT = ["features", "import", "x.npy", "--data", "data", "--name", "x", "--out", "out"]
BAD = {
    "misspelt ids": ([*IMPORT, "--ids", "rows"], "cannot be read from rows (no such file); give row, row+1 or"),
    "no array": (["features", "import", "x.csv", *IMPORT[3:], "--ids", "row"], "x.csv is no plain .npy array; save it"),
    "no ids": (IMPORT, "x.npy carries no item ids; give --ids row+1"),
    "unknown type": ([*IMPORT, "--ids", "row+1", "--dtype", "int4"], "choose float16, float32 or int8"),
    "unknown format": (["features", "export", "f.h5", "--out", "out", "--format", "hdf"], "format 'hdf' is unknown"),
    "taken folder": (["features", "export", "f.h5", "--out", "data"], "data exists; choose another folder"),
    "foreign parquet": (["features", "import", "f.parquet", *IMPORT[3:]], "f.parquet is no Parquet file"),
    "foreign tensors": (["features", "import", "f.safetensors", *IMPORT[3:]], "f.safetensors is no safetensors file"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_exit_code_2(here: Path, capsys: Capture, what: str) -> None:
    command, expected = BAD[what]
    for name in ("f.parquet", "f.safetensors", "x.csv"):
        (here / name).write_bytes(b"neither")
    before = sorted(here.iterdir())
    assert cli(*command) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert sorted(here.iterdir()) == before
