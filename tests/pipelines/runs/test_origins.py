"""What made a row's content is read from the file itself, recorded, and shown in every table."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import run_pipeline
from extract.encoders.registry import get_encoder
from extract.encoders.spec import WeightsSource
from extract.encoders.weights import weights_source
from features.convert import import_features
from features.errors import ConfigError
from features.provenance import Provenance
from features.store import FeatureFile, FeatureRows, write_features
from pipelines.comparing.compare import compare
from pipelines.comparing.result_table import Comparison, comparison, notes
from pipelines.comparing.table_files import write_csv
from pipelines.data.load import load_data
from pipelines.recipe.file_origin import Origin, origin
from pipelines.recipe.recipe import build_recipe, recipe_to_dict
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.runs.experiment import run_recipe
from pipelines.runs.origin import of_run
from pipelines.runs.run import open_run
from tests.support.small import item_ids, plain_recipe, recipe, write, write_vectors
from tests.support.tower_runs import changes, data, write_activations

__all__ = ["data"]  # a fixture

REAL = {"encoder": "videomae-base", "weights": "checkpoint"}
FAULTY = REAL | {"recipe": "microlens", "faults": ["four-frames", "normalised-twice"]}


def vectors(path: Path, made: dict[str, Any], **facts: Any) -> Path:
    """Write random vectors that say they were made in some way."""
    source = FeatureFile(write_vectors(path.with_suffix(".tmp.h5"), "small", item_ids()))
    rows = FeatureRows(item_ids(), source.read(item_ids()), source.columns.states, *[[""] * len(item_ids())] * 3)
    write_features(path, rows, Provenance("small", made, **facts))
    return path


def on(data: Path, *files: Path, **changes: Any) -> dict[str, Any]:
    features = [{"path": str(file), **changes.pop("entry", {})} for file in files]
    return plain_recipe(data, {"items": {"kind": "v", "dim": 8}, "features": features, **changes})


def quick(plain: dict[str, Any]) -> dict[str, Any]:
    return plain | {"train": {"epochs": 1, "batch_size": 64}}


@pytest.mark.parametrize(
    ("made", "facts", "label", "line"),
    [
        (
            REAL,
            {"weights_source": "MCG-NJU/videomae-base @ 1a2b"},
            "videomae-base",
            "vectors of videomae-base, weights MCG-NJU/videomae-base @ 1a2b, recipe clean",
        ),
        (
            REAL,
            {"weights_sha256": "0123456789abcdef"},
            "videomae-base",
            "vectors of videomae-base, weights sha256 0123456789ab, recipe clean",
        ),
        (
            {"encoder": "videomae-tiny", "weights": "random", "seed": 3},
            {},
            "videomae-tiny (RANDOM weights)",
            "vectors of videomae-tiny, weights random, seed 3, recipe clean",
        ),
        (
            FAULTY,
            {"weights_source": "X @ 1"},
            "videomae-base (FAULTY recipe)",
            "vectors of videomae-base, weights X @ 1, recipe microlens with its faults four-frames, normalised-twice",
        ),
    ],
)
def test_a_file_says_itself_what_made_it(
    tmp_path: Path, made: dict[str, Any], facts: dict[str, str], label: str, line: str
) -> None:
    found = origin(FeatureFile(vectors(tmp_path / "another-name.h5", made, **facts)))
    assert (found.label, found.line) == (label, line)


def test_an_imported_array_says_so(tmp_path: Path) -> None:
    source = FeatureFile(write_vectors(tmp_path / "f.h5", "small", item_ids()))

    np.save(tmp_path / "published.npy", source.read(item_ids()))
    file = import_features(tmp_path / "published.npy", tmp_path, dataset="small", ids=item_ids(), name="clip-theirs")
    assert origin(file).label == "clip-theirs (imported)"
    assert origin(file).line == "vectors of clip-theirs, weights imported from published.npy, recipe unknown"


def test_where_weights_come_from() -> None:
    hub = WeightsSource("owner/model", "1a2b", "mit")
    assert weights_source("pretrained", hub, "0" * 64) == "owner/model @ 1a2b"
    assert weights_source("some/folder", hub, "abcdef0123456789") == "local folder, sha256 abcdef012345"
    assert weights_source("random", hub, "0" * 64) == ""


def test_tables_show_what_every_row_is_made_from(data: Path, tmp_path: Path) -> None:
    clean = vectors(tmp_path / "videomae-tiny.h5", REAL, weights_source="MCG-NJU/videomae-base @ 1a2b")
    random = vectors(tmp_path / "videomae-base.h5", {"encoder": "videomae-tiny", "weights": "random", "seed": 0})
    faulty = vectors(tmp_path / "clean.h5", FAULTY)
    cut = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    plain = {
        "ids": plain_recipe(data),
        "clean": on(data, clean),
        "random": on(data, random, entry={"encoder": "videomae-tiny"}),
        "faulty": on(data, faulty),
        "top": plain_recipe(data, changes("top", "bert-tiny", files=(cut, clean))),
        "e2e": plain_recipe(data, changes("e2e", "bert-tiny")),
    }
    rows = compare([build_recipe(quick(one) | {"name": name}) for name, one in plain.items()], 2, tmp_path / "runs")
    header, cells = comparison(rows)
    place = header.index("made from")
    assert {line[0]: line[place] for line in cells} == {
        "ids": "-",
        "clean": "videomae-base",
        "random": "videomae-tiny (RANDOM weights)",
        "faulty": "videomae-base (FAULTY recipe)",
        "top": "bert-tiny (RANDOM weights)",
        "e2e": "bert-tiny (RANDOM weights)",
    }
    told = "\n".join(notes(rows))
    assert "clean is made from vectors of videomae-base, weights MCG-NJU/videomae-base @ 1a2b, recipe clean" in told
    assert "faulty is made from vectors of videomae-base, weights sha256 unknown, recipe microlens with" in told
    assert "top is made from activations of bert-tiny, weights random, seed 0" in told
    assert "e2e is made from media of bert-tiny, weights random, seed 0" in told
    write_csv(tmp_path / "t.csv", Comparison(rows))
    assert "faulty,all,HR@10" in (text := (tmp_path / "t.csv").read_text())
    assert "videomae-base (FAULTY recipe)" in text


def test_a_run_of_an_earlier_version_says_nothing_and_its_row_says_that(data: Path, tmp_path: Path) -> None:
    made = build_recipe(quick(on(data, vectors(tmp_path / "f.h5", REAL))))
    rows = compare([made, replace(made, name="other")], 1, tmp_path / "runs")
    record = tmp_path / "runs" / "small-seed0" / "record.json"
    content = json.loads(record.read_text())
    assert content.pop("content") == [
        {"name": "videomae-base", "content": "vectors", "weights": "sha256 unknown", "recipe": "clean", "faults": []}
    ]
    record.write_text(json.dumps(content))
    assert of_run(record.parent) is None
    for row in rows:
        row.__dict__.pop("content", None)
    header, cells = comparison(rows)
    assert [line[header.index("made from")] for line in cells] == ["not recorded", "videomae-base"]


def test_a_recipe_that_names_an_encoder_refuses_the_file_of_another(tmp_path: Path, data: Path) -> None:
    renamed = vectors(tmp_path / "videomae-base.h5", {"encoder": "videomae-tiny", "weights": "random", "seed": 0})
    named = recipe(data, on(data, renamed, entry={"encoder": "videomae-base"}))
    with pytest.raises(ConfigError, match=r"features\.0\.encoder is 'videomae-base', but .* made by 'videomae-tiny'"):
        run_recipe(named, tmp_path / "run")
    ids = replace(named, items=replace(named.items, kind="id"))
    assert run_recipe(ids, tmp_path / "ids")["test"]  # whose items are not made from the file


def test_clean_and_faulty_files_in_one_row_ask_for_a_flag(tmp_path: Path, data: Path) -> None:
    files = vectors(tmp_path / "clean.h5", REAL), vectors(tmp_path / "faulty.h5", FAULTY)
    mixed = build_recipe(quick(on(data, *files)))
    with pytest.raises(
        ConfigError, match=r"mixes feature files made in 2 ways \(clean\.h5: clean; faulty\.h5: microlens"
    ):
        run_recipe(mixed, tmp_path / "run")
    run_recipe(replace(mixed, mix_recipes=True), tmp_path / "run")
    assert [one.label for one in of_run(tmp_path / "run") or ()] == ["videomae-base", "videomae-base (FAULTY recipe)"]


def test_extract_records_where_weights_come_from(tmp_path: Path) -> None:
    write(tmp_path / "d" / "interactions.csv", "user,item,timestamp\nu,1,1\nu,2,2\nu,3,3\n")
    write(tmp_path / "d" / "items.csv", "item,title\n1,one\n2,two\n3,three\n")
    command = ["extract", "--data", tmp_path / "d", "--encoders", "minilm-tiny", "--weights", "random", "--seed", 4]
    assert run_pipeline.main([str(word) for word in [*command, "--out", tmp_path / "f"]]) == 0
    (file,) = (tmp_path / "f").glob("*.h5")
    assert origin(FeatureFile(file)) == Origin("minilm-tiny", "vectors", "random, seed 4")
    assert get_encoder("minilm-tiny").weights is None


# ---- seeds of random encoders


def test_top_and_end_to_end_train_the_same_random_encoder_at_every_seed(data: Path, tmp_path: Path) -> None:
    cut = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    for seed in (0, 1):
        losses = []
        for kind, files in (("top", (cut,)), ("e2e", ())):
            plain = quick(plain_recipe(data, changes(kind, "bert-tiny", files=files))) | {"seed": seed}
            run_recipe(build_recipe(plain), tmp_path / f"{kind}{seed}", device="cpu")
            losses.append(json.loads((tmp_path / f"{kind}{seed}" / "log.jsonl").read_text())["loss"])
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    records = [json.loads((tmp_path / f"e2e{seed}" / "record.json").read_text())["encoders"][0] for seed in (0, 1)]
    assert records[0]["weights_sha256"] == records[1]["weights_sha256"]


def test_top_refuses_a_file_of_another_seed(data: Path, tmp_path: Path) -> None:
    cut = write_activations(tmp_path / "cut.h5", "bert-tiny", 1)
    other = recipe(data, changes("top", "bert-tiny", files=(cut,), encoder_seed=1))
    with pytest.raises(
        ConfigError, match=r"items\.encoder_seed is 1, but .*cut\.h5 was made with random weights of seed 0"
    ):
        run_recipe(other, tmp_path / "run")


def test_runs_made_before_encoder_seeds_open_as_they_were(data: Path, tmp_path: Path) -> None:
    """They drew the weights of 'e2e' from the seed of the recipe."""
    old = build_recipe(
        quick(plain_recipe(data, changes("e2e", "bert-tiny", encoder_seed=None))) | {"seed": 5, "name": "old"}
    )
    run_recipe(old, tmp_path / "run", device="cpu")
    plain = recipe_to_dict(old)
    del plain["items"]["encoder_seed"]
    (tmp_path / "run" / "config.yaml").write_text(dump_yaml(plain))
    assert open_run(tmp_path / "run").recipe == old
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    with pytest.raises(ConfigError, match=r"items\.encoder_seed was None, now 0"):
        run_recipe(replace(old, items=replace(old.items, encoder_seed=0)), tmp_path / "again", data=load_data(old.data))
