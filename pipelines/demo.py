"""The whole job on a generated corpus, on a laptop, offline. Every number printed comes from the run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from extract.encoders.registry import get_encoder
from extract.jobs.options import ExtractOptions
from extract.jobs.report import ExtractReport
from features.atomic import whole_folder
from features.errors import ConfigError
from features.installation import called_as
from features.store import FeatureFile
from pipelines.comparing.compare import compare
from pipelines.comparing.result_table import Comparison, Row
from pipelines.comparing.table_files import print_comparison, write_markdown
from pipelines.console import say
from pipelines.data.detection import read_dataset
from pipelines.data.split import Split
from pipelines.data.synthetic import CorpusSize, make_corpus
from pipelines.feature_files.extraction import dataset_catalog, extract_with_bar, print_reports
from pipelines.mmrec.export import export_mmrec
from pipelines.progress import progress
from pipelines.recipe.recipe import build_recipe
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.reporting.gathered import gather
from pipelines.reporting.page import Choice, write_report
from pipelines.retrieval.retrieve import show_recommended, show_similar
from pipelines.runs.run import open_run

ENCODERS = ("videomae-tiny", "slowfast-tiny", "resnet-tiny", "clip-tiny-image", "minilm-tiny", "clip-tiny-text")
TRAINED_ON = ("videomae-tiny", "minilm-tiny")
KINDS = {
    "id": "item ids alone",
    "v": "frozen video and title vectors, linear projection",
    "dnn": "the same vectors, three-layer perceptron",
    "id+v": "ids and vectors, summed",
}


def run_demo(out: Path, *, seeds: int, items: int, users: int) -> None:
    """Make a corpus, extract, train, compare, recommend, export and report, and say where things lie.

    Args:
        out: folder for the corpus and all artefacts.
        seeds: training runs per row of the table.
        items: clips in the corpus.
        users: users in the corpus.
    """
    if seeds < 1 or items < 64 or users < 100:
        raise ConfigError(f"demo needs at least 1 seed, 64 items and 100 users, not {seeds}, {items} and {users}")
    started = time.perf_counter()
    say("freezeframe demo: everything below is computed now, on a SYNTHETIC corpus with planted tastes")
    folder = out / "corpus"
    reports = _extract(folder, out / "features", CorpusSize(items=items, users=users))
    paths = {report.encoder: report.path for report in reports}
    rows = _train(folder, [paths[name] for name in TRAINED_ON], out, seeds)
    title = "demo: SASRec by item representation, and popularity (synthetic corpus)"
    print_comparison(Comparison(rows, title=title))
    write_markdown(out / "table.md", Comparison(rows))
    say("cold = the target never occurs in training: ids cannot know it, pixels and words can")
    best = open_run(out / "runs" / "id+v-seed0")
    show_recommended(best, user=best.data.split.users.ids[0], top=5)
    clips = FeatureFile(paths["videomae-tiny"])
    show_similar(clips, item=clips.columns.ids[0], top=5, titles=best.data.dataset.titles)
    _export(best.data.split, paths, out / "mmrec")
    _report(out, rows, list(paths.values()), title)
    _say_where(out, paths)
    say(f"done in {time.perf_counter() - started:.0f} s")


def _extract(folder: Path, features: Path, size: CorpusSize) -> list[ExtractReport]:
    if folder.is_dir():
        say(f"1. corpus: {folder} is there already; for one of another size give another --out")
    else:
        with (
            whole_folder(folder) as fresh,
            progress("render clips", unit="clips") as advance,
        ):  # half a corpus would pass for a whole
            corpus = make_corpus(fresh, seed=0, size=size, progress=advance)
        say(f"1. corpus: {size.items} items in {folder}, {len(corpus.broken)} of them broken on purpose:")
        for item, what in corpus.broken.items():
            say(f"   {item}: {what}")
    say("2. features, by tiny encoders with random weights (real ones: `encoders`)")
    catalog = dataset_catalog(read_dataset(folder))
    options = ExtractOptions(out=features, weights="random", seed=0, command="demo")
    reports = extract_with_bar(catalog, [get_encoder(name) for name in ENCODERS], options)
    print_reports(reports)
    return reports


def demo_recipe(kind: str, folder: Path, features: Sequence[Path]) -> dict[str, Any]:
    """Return the recipe of one row of the demo's table as plain data; kind 'popularity' is the baseline."""
    content = "v" in kind or kind == "dnn"
    recipe: dict[str, Any] = {
        "name": kind,
        "data": {"folder": folder.as_posix()},
        "model": {"name": "popularity"} if kind == "popularity" else {"name": "sasrec", "dropout": 0.1},
        "train": {"epochs": 40, "batch_size": 128, "lr": 2e-3, "patience": 5},
    }
    if kind != "popularity":
        recipe["items"] = {"kind": kind, "dim": 64}
    if content and kind != "popularity":
        recipe["features"] = [{"path": path.as_posix(), "absent": "mean"} for path in features]
    return recipe


def _train(folder: Path, features: Sequence[Path], out: Path, seeds: int) -> list[Row]:
    say("3. train and test: SASRec on " + "; ".join(f"{kind} = {what}" for kind, what in KINDS.items()))
    plain = [demo_recipe(kind, folder, features) for kind in (*KINDS, "popularity")]
    recipes = out / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    for recipe in plain:
        (recipes / f"{recipe['name']}.yaml").write_text(dump_yaml(recipe), encoding="utf-8", newline="")
    return compare([build_recipe(recipe) for recipe in plain], seeds, out / "runs")


def _export(split: Split, paths: Mapping[str, Path], out: Path) -> None:
    report = export_mmrec(
        out,
        "demo",
        split,
        image=FeatureFile(paths["clip-tiny-image"]),
        text=FeatureFile(paths["minilm-tiny"]),
        overwrite=True,
    )
    say(f"4. MMRec folder: {report.folder}, {report.users} users, {report.items} items; every rule checked")


def _report(out: Path, rows: Sequence[Row], features: Sequence[Path], title: str) -> None:
    found = gather([folder for row in rows for folder in row.folders], title=title)
    written = write_report(out / "report.html", found, Choice(people=12, items=40, features=tuple(features)))
    for line in written.missing:
        say(f"   not in the report: {line}")
    say(f"5. {written.line}")


def _say_where(out: Path, paths: Mapping[str, Path]) -> None:
    say("where things lie:")
    say(f"   corpus    {out / 'corpus'}")
    for name, path in paths.items():
        say(f"   features  {path}  ({name})")
    say(f"   recipes   {out / 'recipes'}   train again: {called_as()} train {out / 'recipes' / 'id+v.yaml'}")
    say(f"   runs      {out / 'runs'}")
    say(f"   table     {out / 'table.md'}")
    say(f"   MMRec     {out / 'mmrec'}")
    say(f"   report    {out / 'report.html'}   open it in a browser; it needs no network")
