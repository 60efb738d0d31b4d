"""The commands in README and docs run as they stand, as far as they can offline: tiny encoders stand in for big ones.

Whatever a code block shows is either run here, in order, or named in SHELL below with the reason why it is not.
"""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import run_pipeline
from features.store import FeatureFile
from pipelines.recipe.yaml_text import parse_yaml
from tests.support.media import jpeg, pictures, write_clip, write_cover, write_lmdb
from tests.support.small import write, write_interactions, write_vectors

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
STAND_INS = {
    "videomae-base": "videomae-tiny",
    "slowfast-r50": "slowfast-tiny",
    "resnet50": "resnet50-tiny",
    "clip-vit-b-32-image": "clip-tiny-image",
    "clip-vit-b-32-text": "clip-tiny-text",
    "minilm": "minilm-tiny",
}
NAME = rf"python run_pipeline\.py|freezeframe(?= (?:{'|'.join(run_pipeline.VERBS)})(?: |$))"  # prose names it, too
COMMAND = re.compile(rf"^(?: {{4}})?((?:{NAME}) .*?)(?: {{2,}}.*)?$", re.MULTILINE)
SHELL = ("git", "make", "pip", "rm", "cp", "cd")  # installation, and MMRec's own checkout
ITEMS, USERS = 20, 12


def commands(page: Path) -> list[list[str]]:
    """Return the arguments of every command of ours on a page, in order; explanations beside them left out."""
    lines = [shlex.split(line) for line in COMMAND.findall(page.read_text(encoding="utf-8"))]
    return [line[1:] if line[0] == "freezeframe" else line[2:] for line in lines]


def media(videos: Path, covers: Path) -> None:
    for folder in (videos, covers):
        folder.mkdir(parents=True)
    for item in range(1, ITEMS + 1):
        write_clip(videos / f"{item}.mp4", pictures(18, kind=item))
        write_cover(covers / f"{item}.jpg", kind=item)


def sequences() -> list[tuple[str, str, int]]:
    rng = np.random.default_rng(0)
    users = ["42", *(str(user) for user in range(100, 99 + USERS))]
    return [(u, str(item + 1), time) for u in users for time, item in enumerate(rng.permutation(ITEMS)[:8])]


def add_mydata(here: Path) -> None:
    media(here / "mydata" / "videos", here / "mydata" / "covers")
    rows = sequences()
    write_interactions(here / "mydata", list(rows))
    titles = [("item", "title"), *((str(item), f"clip number {item}") for item in range(1, ITEMS + 1))]
    with (here / "mydata" / "items.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(titles)


def add_microlens(here: Path, *, media_too: bool = True) -> None:
    folder, name = here / "data" / "MicroLens-100k", "MicroLens-100k"
    if media_too:
        media(folder / f"{name}_videos", folder / f"{name}_covers")
    histories: dict[str, list[str]] = {}
    for user, item, _ in sequences():
        histories.setdefault(user, []).append(item)
    write(folder / f"{name}_pairs.tsv", "".join(f"{user}\t{' '.join(items)}\n" for user, items in histories.items()))
    write(folder / f"{name}_title_en.csv", "".join(f"{item},title {item} #tag\n" for item in range(1, ITEMS + 1)))
    np.save(here / f"{name}_video_features_VideoMAE.npy", np.random.default_rng(1).normal(size=(ITEMS, 8)))


def add_amazon(here: Path) -> None:
    folder = here / "data" / "amazon-scientific"
    histories: dict[str, list[str]] = {}
    for user, item, _ in sequences():
        histories.setdefault(user, []).append(item)
    lines = [f"{user}\t{' '.join(items)}\n" for user, items in histories.items()]
    write(folder / "am_Industrial_and_Scientific_users.tsv", "".join(lines))
    titles = "".join(f"{item}\tgood for {item}\n" for item in range(1, ITEMS + 1))
    write(folder / "Industrial_and_Scientific_items.tsv", titles)


def add_loose_files(here: Path) -> None:
    """What the pages about formats name: three feature files and an array of the dataset in DIR."""
    write_interactions(here / "DIR", list(sequences()))
    ids = [str(item) for item in range(1, ITEMS + 1)]
    for seed, name in enumerate(("features", "video", "title")):
        write_vectors(here / f"{name}.h5", "DIR", ids, seed=seed)
    np.save(here / "video.npy", np.random.default_rng(1).normal(size=(ITEMS, 8)).astype(np.float32))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "recipes").symlink_to(ROOT / "pipelines" / "recipes")
    # The stand-ins are files of tiny encoders under the names of full ones, which runs refuse (test_origins.py).
    monkeypatch.setattr("pipelines.runs.inputs.refuse_origins", lambda *_: None)
    return tmp_path


def run(arguments: list[str], here: Path) -> None:
    """Run one command of a page with stand-ins, and give new files the name that the real encoder's would have."""
    line = [_found(word, here) for word in arguments]
    if line[0] == "extract":
        _make_small(line)
    if line[0] in ("train", "compare", "search"):
        quick = ["train.epochs=1", "data.min_interactions=3"]
        if not any("popularity" in word or "itemknn" in word for word in line):  # which have no items section
            quick.append("items.dim=16")
        if line[0] == "search":
            line[2:2] = quick
        elif line[0] == "train":
            line += [*quick, *_small_encoder(line)]
        elif "--set" in line:
            place = line.index("--set") + 1
            line[place:place] = quick
            line = [small for word in line for small in _small_encoder([word]) or [word]]
        elif any(word.endswith(".yaml") for word in line):
            line += ["--set", *quick]
        line += ["--device", "cpu"]
    if "--plot" in line and find_spec("matplotlib") is None:  # an option of the installation
        place = line.index("--plot")
        del line[place : place + 2]
    assert run_pipeline.main(line) == 0, " ".join(line)
    _rename(here)


def _rename(here: Path) -> None:
    for path in here.glob("data/features/*-64px.*.h5"):
        path.rename(path.with_name(path.name.replace("uniform4-64px", "uniform16-224px").replace("-64px", "-224px")))
    for real, tiny in STAND_INS.items():
        for path in here.glob(f"data/features/*.{tiny}[.-]*.h5"):  # vectors, -top2, -layers
            path.rename(path.with_name(path.name.replace(f".{tiny}", f".{real}")))


def _make_small(line: list[str]) -> None:
    place = line.index("--encoders") + 1
    line[place] = ",".join(STAND_INS[name] for name in line[place].split(","))
    line += ["--weights", "random"]
    if "ray" in line:  # a cluster: its workers are those of --processes, with which the page begins
        for option in ("--engine", "--ray-address", "--processes"):
            place = line.index(option)
            del line[place : place + 2]


def _small_encoder(line: list[str]) -> list[str]:
    """Return what puts a stand-in for the encoder that a recipe trains."""
    named = [word.removeprefix("items.encoder=") for word in line if word.startswith("items.encoder=")]
    return [f"items.encoder={STAND_INS[named[0]]}", "items.weights=random"] if named else []


def _found(word: str, here: Path) -> str:
    """Return a file name with the fingerprint it has here instead of the page's 0123456789abcdef."""
    if "0123456789abcdef" not in word:
        return word
    (path,) = here.glob(word.replace("0123456789abcdef", "*"))
    return str(path)


@pytest.mark.slow
def test_readme(here: Path) -> None:
    add_mydata(here)
    add_microlens(here)
    lines = commands(ROOT / "README.md")
    assert len(lines) >= 12
    for arguments in lines:
        if arguments[-1] == "--help":
            with pytest.raises(SystemExit) as left:
                run_pipeline.main(arguments)
            assert left.value.code == 0
        else:
            run(arguments, here)
    table = (here / "table2.md").read_text()
    assert "paper HR@10" not in table
    assert "Table 2 is about MicroLens-100K (100,000 users" in table  # and not about the stand-in
    assert "microlens-100k-sasrec-id+v" in table
    assert [feature["path"] for feature in parse_yaml((here / "recipe.yaml").read_text(), "recipe")["features"]]


def test_recommend_page(here: Path) -> None:
    write_interactions(here / "mydata", list(sequences()))
    assert run_pipeline.main(["init", "mydata"]) == 0
    run(["train", "recipe.yaml", "--out", "runs/first"], here)
    write(here / "users.txt", "42\n101\nnobody\n")
    write(here / "people.csv", "user,item\nsomebody,3\nsomebody,7\n")
    for name in ("fresh", "blocked"):
        write(here / f"{name}.txt", "".join(f"{item}\n" for item in range(1, 9 if name == "fresh" else 4)))
    lines = commands(ROOT / "docs" / "recommend.md")
    assert len(lines) == 6
    for arguments in lines:
        run(arguments, here)
    assert {path.name for path in here.glob("lists.*")} == {"lists.parquet", "lists.csv", "lists.jsonl"}


def test_microlens_recipe_page(here: Path) -> None:
    add_mydata(here)
    for arguments in commands(ROOT / "docs" / "microlens-recipe.md"):
        run(arguments, here)
    assert len(list((here / "data" / "features").glob("mydata.videomae-*-microlens.*.h5"))) == 2
    assert len(list((here / "data" / "features").glob("mydata.videomae-base.*.h5"))) == 1


def test_extraction_page(here: Path) -> None:
    add_mydata(here)
    write_lmdb(here / "data" / "cover_lmdb", {str(item): jpeg(item) for item in range(1, ITEMS + 1)})
    write(here / "trained.txt", "1\n4\n7\n")
    for arguments in commands(ROOT / "docs" / "extraction.md"):
        run(arguments, here)
    assert len(list((here / "data" / "features").glob("mydata.*.h5"))) == 11
    assert len(list((here / "data" / "features").glob("mydata.*-top*.h5"))) == 4
    assert len(list((here / "data" / "features").glob("mydata.*px.*.h5"))) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_farm_page(here: Path) -> None:
    add_mydata(here)
    for arguments in commands(ROOT / "docs" / "farm.md"):
        run(arguments, here)
    assert len(list((here / "data" / "features").glob("mydata.*.h5"))) == 2
    assert (here / "data" / "features" / "extract.sbatch").is_file()


def test_results_page(here: Path) -> None:
    add_amazon(here)
    for arguments in commands(ROOT / "docs" / "results.md"):
        run(arguments, here)
    assert "amazon-scientific-sasrec-id+v" in (here / "amazon.md").read_text()


def test_models_page(here: Path) -> None:
    add_amazon(here)
    lines = commands(ROOT / "docs" / "models.md")
    for arguments in lines:
        run(arguments, here)
    assert len(list((here / "runs").iterdir())) == len({tuple(line) for line in lines if line[0] == "train"})


def test_recipes_page(here: Path) -> None:
    add_microlens(here)
    add_amazon(here)
    write_interactions(here / "DIR", list(sequences()))
    ids = [str(item) for item in range(1, ITEMS + 1)]
    write_vectors(here / "data" / "features" / "MicroLens-100k.videomae-base.0.h5", "MicroLens-100k", ids)
    for arguments in commands(ROOT / "docs" / "recipes.md"):
        run(arguments, here)
    assert len(list((here / "runs" / "small").iterdir())) == 4 * 3
    assert "scale=small" in (here / "t.md").read_text()
    assert (here / "runs" / "mixed" / "microlens-100k-gru4rec-id-seed0").is_dir()
    assert (here / "runs" / "search" / "best.yaml").is_file()
    rows = {path.name.removeprefix("amazon-scientific-sasrec-v") for path in (here / "runs" / "axis").iterdir()}
    assert len(rows) == 7 * 3
    assert {"[kind=v]-seed0", "[kind=dnn,layers=3]-seed1", "[kind=e2e,T=all]-seed2"} <= rows
    assert ",costs,train_s_per_epoch," in (here / "axis.csv").read_text()
    assert (here / "recipe.yaml").is_file()
    assert (here / "runs" / "top" / "metrics.json").is_file()
    assert (here / "runs" / "e2e" / "metrics.json").is_file()
    assert (here / "runs" / "e2e-video" / "metrics.json").is_file()


def test_evaluation_page(here: Path) -> None:
    add_amazon(here)
    add_loose_files(here)
    export = ["export", "mmrec", "--data", "DIR", "--image", "video.h5", "--name", "micro-v", "--out", "mmrec"]
    assert run_pipeline.main(export) == 0
    for arguments in commands(ROOT / "docs" / "evaluation.md"):
        run([word.replace("interactions=20", "interactions=3") for word in arguments], here)  # on 12 users
    assert (here / "t.tex").is_file()
    assert "MAP@50" in (here / "runs" / "micro-v" / "metrics.json").read_text()


def test_command_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_mydata(here)
    for arguments in commands(ROOT / "docs" / "command.md"):
        words = arguments[: arguments.index(">")] if ">" in arguments else arguments
        run(words, here)
    printed = capsys.readouterr().out
    assert "of 45 runs would be trained; nothing is written" in printed
    assert f"{2 * ITEMS} rows would be made; nothing is written" in printed
    assert '"title": "freezeframe recipe"' in printed
    assert not (here / "data").exists()


def test_format_pages(here: Path) -> None:
    add_loose_files(here)
    for part in ("first.h5", "second.h5"):
        shutil.copy(here / "features.h5", here / part)
    for name in ("feature-files.md", "mmrec.md", "recbole.md"):
        lines = commands(ROOT / "docs" / name)
        assert lines
        for arguments in lines:
            run(arguments, here)
    assert (here / "mmrec" / "data" / "micro-v" / "micro-v.inter").is_file()
    assert (here / "recbole" / "mine" / "mine.itememb2").is_file()
    assert (here / "recbole" / "mine-by-time" / "mine-by-time.valid.inter").is_file()
    checked = 0
    for name in ("feature-files.md", "mmrec.md"):
        for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL):
            scope: dict[str, object] = {}
            exec(code.replace("1042", "7"), scope)  # our own page
            assert np.array_equal(scope["vector"], FeatureFile(here / "features.h5").read(["7"])[0])  # type: ignore[arg-type]
            checked += 1
    assert checked == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_else_is_shown_as_a_command(page: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for line in filter(None, "\n".join(blocks).splitlines()):
        assert line.startswith(("python run_pipeline.py ", "freezeframe ", *(f"{word} " for word in SHELL))), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("recipe", sorted((ROOT / "pipelines" / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_are_valid_and_carry_their_own_name(recipe: Path) -> None:
    from pipelines.recipe.recipe import load_recipe

    assert load_recipe(recipe, []).name == recipe.stem


def test_report_page(here: Path) -> None:
    add_mydata(here)
    run(["extract", "--data", "mydata", "--encoders", "minilm", "--out", "data/features"], here)
    run(["init", "mydata", "--out", "recipe.yaml"], here)
    for arguments in commands(ROOT / "docs" / "report.md"):
        run(arguments, here)
    page = (here / "report.html").read_text(encoding="utf-8")
    assert "<title>ids and vectors</title>" in page
    assert 'class="mark hit"' in page
