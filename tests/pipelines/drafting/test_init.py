"""`init`: a recipe for any dataset folder, which loads and trains as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import run_pipeline
from pipelines.recipe.published_data import Published
from pipelines.recipe.recipe import Recipe, load_recipe
from tests.support.small import (
    ITEMS,
    item_ids,
    small_dataset,
    write,
    write_interactions,
    write_layers,
    write_vectors,
)

ROOT = Path(__file__).resolve().parents[3]
Capture = pytest.CaptureFixture[str]
VIDEO = {"encoder": "videomae-base", "modality": "video", "weights": "MCG-NJU/videomae-base"}
TITLE = {"encoder": "minilm", "modality": "title", "weights": "minilm"}
FEATURES = Path("data/features")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*words: str) -> Recipe:
    assert run_pipeline.main(["init", *words]) == 0
    return load_recipe(Path("recipe.yaml"))


def train() -> dict[str, Any]:
    words = ["train", "recipe.yaml", "train.epochs=1", "--out", "run", "--device", "cpu"]
    assert run_pipeline.main(words) == 0
    metrics: dict[str, Any] = json.loads(Path("run/metrics.json").read_text())
    return metrics


def histories(users: int, each: int) -> list[tuple[str, str, int]]:
    return [(f"{user + 1}", f"{(user + 3 * n) % ITEMS + 1}", n) for user in range(users) for n in range(each)]


def microlens(folder: Path) -> None:
    lines = [f"{user}\t{' '.join(str(1 + (user * n) % 7) for n in range(1, 8))}" for user in range(1, 13)]
    write(folder / "MicroLens-mini_pairs.tsv", "\n".join(lines) + "\n")
    write(folder / "MicroLens-mini_titles.csv", "item,title\n" + "".join(f'{i},"t, {i}"\n' for i in range(1, 9)))


def mmrec(folder: Path, *, times: bool) -> None:
    head = "userID\titemID\tx_label" + ("\ttimestamp" if times else "")
    rows = [(user, (user + n) % 9, 0 if n < 4 else n - 3) for user in range(8) for n in range(6)]
    lines = ["\t".join(map(str, (*row, *([n] if times else [])))) for n, row in enumerate(rows)]
    write(folder / "tiny.inter", "\n".join([head, *lines]) + "\n")


def recbole(folder: Path) -> None:
    rows = [f"{user}\t{item}\t{time}" for user, item, time in histories(12, 6)]
    write(folder / "ml.inter", "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n")
    write(folder / "ml.item", "item_id:token\tmovie_title:token_seq\n1\ta\n2\tb\n")


def iisan(folder: Path) -> None:
    write(folder / "am_tiny_users.tsv", "".join(f"u{user}\ta b c d e\n" for user in range(6)))
    write(folder / "tiny_items.tsv", "".join(f"{item}\ttitle\n" for item in "abcde"))


def untimed(folder: Path) -> None:
    write(folder / "interactions.csv", "user,item\n" + "".join(f"{u},{i}\n" for u, i, _ in histories(9, 5)))


def headless(folder: Path) -> None:
    write(folder / "interactions.csv", "".join(f"{u},{t},{i}\n" for u, i, t in histories(9, 5)))


FOLDERS = {
    "plain": (small_dataset, (), "sasrec", False),
    "no titles": (lambda folder: write_interactions(folder, histories(9, 5)), (), "sasrec", False),
    "five users": (lambda folder: write_interactions(folder, histories(5, 4)), (), "sasrec", False),
    "shortest": (lambda folder: write_interactions(folder, histories(5, 3)), (), "lightgcn", False),
    "no times": (untimed, ("--columns", "time=none"), "sasrec", False),
    "no header": (headless, ("--columns", "user=0,item=2,time=1"), "sasrec", False),
    "MicroLens": (microlens, (), "sasrec", False),
    "IISAN": (iisan, (), "sasrec", False),
    "RecBole": (recbole, (), "sasrec", False),
    "MMRec": (lambda folder: mmrec(folder, times=True), (), "sasrec", True),
    "MMRec, no times": (lambda folder: mmrec(folder, times=False), (), "lightgcn", True),
}


@pytest.mark.parametrize("layout", FOLDERS)
def test_the_recipe_of_any_folder_trains_at_once(here: Path, capsys: Capture, layout: str) -> None:
    make, words, model, given = FOLDERS[layout]
    (here / "mydata").mkdir()
    make(here / "mydata")
    recipe = init("mydata", *words)
    said = capsys.readouterr().out
    assert "interactions" in said
    assert "python run_pipeline.py train recipe.yaml" in said
    assert (recipe.model.name, recipe.items.kind, recipe.paper) == (model, "id", None)
    assert recipe.data.split == ("given" if given else "auto")
    metrics = train()
    assert metrics["dropped_users"] == 0
    assert metrics["split"] == ("given" if given else "leave-one-out")


def test_the_report_is_that_of_data(here: Path, capsys: Capture) -> None:
    small_dataset(here / "mydata")
    assert run_pipeline.main(["data", "mydata"]) == 0
    report = capsys.readouterr()
    init("mydata")
    said = capsys.readouterr()
    assert "test targets tied in time" in said.out
    assert said.out.startswith(report.out.partition("split: leave-one-out")[0].rstrip())
    assert said.err == report.err


def test_feature_files_are_read_one_per_modality(here: Path, capsys: Capture) -> None:
    small_dataset(here / "mydata")
    video = write_vectors(FEATURES / "a.h5", "mydata", item_ids(), made=VIDEO, missing=["003"])
    title = write_vectors(FEATURES / "b.h5", "mydata", item_ids(), made=TITLE)
    wider = {**VIDEO, "encoder": "r3d-r18"}
    second = write_vectors(FEATURES / "c.h5", "mydata", item_ids(), made=wider, missing=["003", "004"])
    recipe = init("mydata")
    said = capsys.readouterr().out
    assert [(one.path, one.absent) for one in recipe.features] == [(str(title), "error"), (str(video), "mean")]
    assert f"features: {video}: video vectors of videomae-base, width 8, 1 items have none" in said
    assert f"not read: {second}: a.h5 holds video vectors already" in said
    assert f"# - path: {second}" in Path("recipe.yaml").read_text()
    assert recipe.items.kind == "id+v"  # 40 users x 10 interactions for 30 items
    train()
    assert "--axis items.kind=id,v,id+v" in said


def test_files_that_do_not_fit_are_passed_over_and_say_why(here: Path, capsys: Capture) -> None:
    small_dataset(here / "mydata")
    write_vectors(FEATURES / "foreign.h5", "other", item_ids())
    write_vectors(FEATURES / "ids.h5", "mydata", [f"x{item}" for item in range(40)])
    write_vectors(FEATURES / "empty.h5", "mydata", item_ids(), missing=item_ids())
    write(FEATURES / "damaged.h5", "no HDF5")
    write(FEATURES / "array.npy", "")
    write(FEATURES / "notes.txt", "")
    recipe = init("mydata")
    said = capsys.readouterr().out
    assert recipe.features == ()
    assert recipe.items.kind == "id"
    for name, why in {
        "foreign.h5": "was made for dataset 'other'",
        "ids.h5": "has rows for 0 of 30 items, whose ids look like 'x0', not '000'",
        "empty.h5": "has no vector for any item",
        "damaged.h5": "",
        "array.npy": "is an array, not a feature file; `features import` makes one of it",
    }.items():
        assert f"passed over: data/features/{name}: {why}" in said
    assert "notes.txt" not in said
    assert "features: none that fit in data/features" in said


def test_files_named_one_by_one_may_have_another_datasets_name(here: Path, capsys: Capture) -> None:
    small_dataset(here / "mydata")
    foreign = write_vectors(here / "foreign.h5", "other", item_ids())
    assert [one.path for one in init("mydata", "--features", str(foreign)).features] == [str(foreign)]
    train()
    write_vectors(here / "ids.h5", "mydata", ["x", "y"])
    capsys.readouterr()
    assert run_pipeline.main(["init", "mydata", "--force", "--features", "ids.h5"]) == 2
    assert "none of --features fits mydata: ids.h5: has rows for 0 of 30 items" in capsys.readouterr().err
    assert run_pipeline.main(["init", "mydata", "--force", "--features", "nowhere"]) == 2
    assert "--features nowhere does not exist" in capsys.readouterr().err


def test_other_content_and_faulty_files_stand_as_comments(here: Path) -> None:
    small_dataset(here / "mydata")
    layers = write_layers(FEATURES / "layers.h5", "mydata", item_ids())
    made = {"encoder": "minilm", "top": 1}
    activations = write_layers(FEATURES / "top.h5", "mydata", item_ids(), made=made)
    recipe = init("mydata")
    text = Path("recipe.yaml").read_text()
    assert recipe.features == ()
    assert f"# - path: {layers}" in text
    assert "items.kind=adapter" in text
    assert f"# - path: {activations}" in text
    clean = write_vectors(FEATURES / "clean.h5", "mydata", item_ids(), made=TITLE)
    write_vectors(
        FEATURES / "a-faulty.h5", "mydata", item_ids(), made={**VIDEO, "recipe": "microlens", "faults": ["x"]}
    )
    write_vectors(FEATURES / "a-random.h5", "mydata", item_ids(), made={**TITLE, "weights": "random"})
    recipe = init("mydata", "--force")
    assert [one.path for one in recipe.features] == [str(clean)]
    assert "was made in another way (microlens x)" in Path("recipe.yaml").read_text()
    train()


def test_a_recipe_that_is_there_stays(here: Path, capsys: Capture) -> None:
    small_dataset(here / "mydata")
    write(here / "recipe.yaml", "mine")
    assert run_pipeline.main(["init", "mydata"]) == 2
    assert capsys.readouterr().err == "error: recipe.yaml exists; give --force to write over it, or another --out\n"
    assert Path("recipe.yaml").read_text() == "mine"
    assert run_pipeline.main(["init", "mydata", "--out", "mydata"]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err
    assert run_pipeline.main(["init", "mydata", "--out", "new/r.yaml"]) == 0
    assert init("mydata", "--force").name == load_recipe(Path("new/r.yaml")).name == "mydata"


def rows(*histories: Sequence[str]) -> list[tuple[object, object, object]]:
    return [(user, item, time) for user, items in enumerate(histories) for time, item in enumerate(items)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (rows("ab", "a"), "no user of mydata has 3 interactions (the most is 2)"),
        (None, "extract --data mydata --encoders videomae-base"),
    ],
)
def test_what_cannot_be_trained_is_one_line(here: Path, capsys: Capture, table: Any, message: str) -> None:
    (here / "mydata" / "videos").mkdir(parents=True)
    write(here / "mydata" / "videos" / "a.mp4", "x")
    if table:
        write_interactions(here / "mydata", table)
    assert run_pipeline.main(["init", "mydata"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line
    assert not Path("recipe.yaml").exists()


def test_a_table_without_times_says_which_option_helps(here: Path, capsys: Capture) -> None:
    untimed(here / "mydata")
    assert run_pipeline.main(["init", "mydata"]) == 2
    assert "time=none" in capsys.readouterr().err


def test_repeats_and_columns_stand_in_the_recipe_where_they_matter(here: Path) -> None:
    twice = [row for row in rows("abcd", "bcde", "cdea") for _ in range(2)]
    write_interactions(here / "mydata", twice)
    assert init("mydata").data.repeats == "first"
    train()
    write_interactions(here / "again", rows("abcda", "bcdeb", "cdeac"))
    assert init("again", "--force").data.repeats == "keep"
    assert "# repeats: first" in Path("recipe.yaml").read_text()
    write(
        here / "named" / "interactions.csv", "who,what,when\n" + "".join(f"u,{i},{t}\n" for t, i in enumerate("abcd"))
    )
    recipe = init("named", "--force", "--columns", "user=who,item=what,time=when")
    assert (recipe.data.columns.user, recipe.data.columns.time) == ("who", "when")


def test_the_next_commands_run_as_they_are_printed(here: Path, capsys: Capture) -> None:
    small_dataset(here / "my data")
    (here / "my data" / "covers").mkdir()
    init("my data")
    said = capsys.readouterr().out
    extract = "extract --data 'my data' --encoders clip-vit-b-32-image,minilm --out data/features"
    assert f"python run_pipeline.py {extract}" in said
    assert "python run_pipeline.py init 'my data' --out recipe.yaml --force" in said


def test_json_says_the_same(here: Path, capsys: Capture) -> None:
    small_dataset(here / "mydata")
    path = write_vectors(FEATURES / "a.h5", "mydata", item_ids(), made=VIDEO)
    write_vectors(FEATURES / "b.h5", "other", item_ids())
    init("mydata", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["report"]["users"] == 40
    assert [one["path"] for one in found["features"]] == [str(path)]
    assert [one["path"] for one in found["passed_over"]] == [str(FEATURES / "b.h5")]
    assert found["next"][0] == "python run_pipeline.py train recipe.yaml"


def test_a_published_dataset_is_recognised(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    microlens(here / "mydata")
    monkeypatch.setattr("pipelines.recipe.published_data.DATASETS", (Published("MicroLens-mini", 12, 7, 84),))
    init("mydata")
    assert "its counts are those of MicroLens-mini" in capsys.readouterr().out


def test_init_does_not_wait_for_torch(here: Path) -> None:
    small_dataset(here / "mydata")
    write_vectors(FEATURES / "a.h5", "mydata", item_ids(), made=VIDEO)
    code = "import sys, run_pipeline; assert run_pipeline.main(['init', 'mydata']) == 0; print('torch' in sys.modules)"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
