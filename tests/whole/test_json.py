"""`--json`: every verb that prints a result has it, prints one document, and its keys are those of docs/command.md."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import run_pipeline
from pipelines.commands.options import JSON
from pipelines.recipe.yaml_text import dump_yaml
from tests.support.small import item_ids, plain_recipe, small_dataset, write, write_vectors
from tests.whole.test_commands import requests

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command.md"
# A corpus is generated, or lines for another program are printed: these are the results.
WITHOUT = {"demo", "completion", "schema"}
LINES = {  # in this order: a run is trained before it is evaluated
    "data": "data",
    "init": "data --out drafted.yaml",
    "extract": "--data data --encoders minilm-tiny --weights random --out out",
    "features inspect": "f.h5",
    "features verify": "f.h5",
    "features merge": "merged.h5 f.h5",
    "features import": "x.npy --ids row --unmatched keep --data data --name x --out out",
    "features export": "f.h5 --format npy --out exported",
    "train": "r.yaml --out run --device cpu train.epochs=1",
    "evaluate": "run --device cpu",
    "search": "r.yaml --sampler grid --space train.lr=1e-3 --trials 1 --out search --device cpu --json train.epochs=1",
    "compare": "r.yaml --seeds 1 --set train.epochs=1 --costs --device cpu",
    "report": "run --people 2 --items 2 --out report.html --device cpu",
    "recommend": "run --user u03 --top 4",
    "similar": "f.h5 --item 001 --top 4",
    "export mmrec": "--data data --text f.h5 --name toy --out mmrec",
    "export recbole": "--data data --features f.h5 --name toy --out recbole",
    "encoders": "",
    "models": "",
}


def documented() -> dict[str, tuple[str, list[str]]]:
    """Return kind of document and keys by verb, as the table of the page has them."""
    lines = re.findall(r"^\| `([a-z ]+)` \| (list|object) \| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {verb: (kind, re.findall(r"`([^`]+)`", keys)) for verb, kind, keys in lines}


def test_every_verb_with_a_result_declares_it_in_one_way() -> None:
    for words, request in requests().items():
        found = {field.name: field for field in dataclasses.fields(request)}.get("json")
        assert (found is not None) == (words.split()[0] not in WITHOUT), words
        assert found is None or found.metadata == {"help": JSON}
    assert {words for words in requests() if words.split()[0] not in WITHOUT} == set(LINES)


def test_every_verb_prints_one_document_with_the_keys_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_dataset(Path("data"))
    write_vectors(Path("f.h5"), "data", item_ids())
    np.save("x.npy", np.ones((30, 4), dtype=np.float32))
    changes = {"items": {"kind": "id+v", "dim": 8}, "features": [{"path": "f.h5"}]}
    write(Path("r.yaml"), dump_yaml(plain_recipe(Path("data"), changes)))
    told, further = documented(), {f"{verb} dry": f"{LINES[verb]} --dry-run" for verb in ("extract", "compare")}
    further["recommend many"] = "run --users all --out lists.csv"
    assert set(told) == {*LINES, *further}
    for words, line in (LINES | further).items():
        verb, print_it = re.sub(" (dry|many)$", "", words).split(), [] if "--json" in line else ["--json"]
        asked = [*verb, *line.split(), *print_it]
        assert run_pipeline.main(asked) == 0, capsys.readouterr().err
        found: Any = json.loads(capsys.readouterr().out)
        kind = "list" if isinstance(found, list) else "object"
        keys = set(found[0] if isinstance(found, list) else found)
        assert told[words][0] == kind, words
        assert set(told[words][1]) <= keys, words


def test_an_error_leaves_standard_output_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_pipeline.main(["features", "verify", "no.h5", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert run_pipeline.main(["schema", "group"]) == 0
    assert capsys.readouterr().out.startswith("{"), "what comes after --json is printed as before"
