"""Verb `extract`: raw videos, covers and titles into feature files, one per encoder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extract.jobs.options import ExtractOptions, parse_names
from features.errors import ConfigError
from features.installation import called_as
from features.paths import shown
from pipelines.commands.options import COLUMNS, json_option, option

if TYPE_CHECKING:
    from extract.encoders.spec import EncoderSpec
    from extract.jobs.report import ExtractReport
    from extract.media.catalog import Catalog


@dataclass(frozen=True)
class Extract:
    """What `extract` is asked for."""

    data: Path = option()
    """Dataset folder (docs/datasets.md)."""
    encoders: tuple[str, ...] = option(parse=parse_names, metavar="NAMES")
    """Names that `encoders` lists, comma-separated."""
    options: ExtractOptions = option(options=ExtractOptions)
    """How to extract."""
    columns: str | None = option(None, help=COLUMNS)
    videos: Path | None = option(None)
    """Folder, LMDB or file of pixels, in place of the dataset's videos."""
    covers: Path | None = option(None)
    """Folder, LMDB or file of pixels, in place of the dataset's covers."""
    items: Path | None = option(None, metavar="FILE")
    """Extract only the items in FILE, one id per line."""
    recipe: str = option("clean", choices=("clean", "microlens"))
    """How encoders are used. clean: as their makers do; microlens: as the benchmark's code does
    (docs/microlens-recipe.md)."""
    engine: str = option("local", choices=("local", "ray", "worker", "slurm"))
    """Who does the work. local: this machine; ray: a Ray cluster; worker: one of many on a shared folder; slurm: write
    a script of such workers."""
    processes: int = option(1)
    """Processes on this machine, or on the Ray cluster, each on a GPU of its own if it can."""
    ray_address: str = option("")
    """Address of a running Ray cluster, or auto; without it a cluster is started on this machine."""
    tasks: int = option(8)
    """Workers in the Slurm array."""
    dry_run: bool = option(False)
    """Say which rows are there, which would be made and how much disk they need, and stop; nothing is written."""
    json: bool = json_option()


REQUEST = Extract


def run(request: Extract) -> None:
    """Make the feature files, or a worker's share of them, or write the script that does."""
    from extract.encoders.registry import get_encoder
    from extract.jobs.farm import Order
    from pipelines.console import note, print_json, say
    from pipelines.feature_files import extraction

    _check_engine(request)
    if request.options.pixels and request.options.dtype not in ("auto", "uint8"):
        raise ConfigError(f"--pixels stores uint8; leave out --dtype {request.options.dtype}")
    specs = [get_encoder(name) for name in request.encoders]
    options = replace(request.options, faults=_faults(request), command=shown(shlex.join(sys.argv)))
    if request.dry_run:
        _look_ahead(request, specs, options)
        return
    if request.engine == "slurm":
        _write_slurm(options.out, request.tasks)
        return
    catalog = _catalog(request)
    if request.engine == "worker":
        extraction.be_worker(Order(catalog, tuple(spec.name for spec in specs), options))
        return
    reports = extraction.extract_with_bar(
        catalog,
        specs,
        options,
        processes=request.processes,
        ray=request.engine == "ray",
        address=request.ray_address,
        tell=note if request.json else say,
    )
    if request.json:
        print_json([_as_data(report) for report in reports])
    else:
        extraction.print_reports(reports)
        say(extraction.advice(reports, options))
        if options.top_blocks is None and options.layers is None and not options.pixels:
            say(f"next: {called_as()} init {_init_words(request)}")


def _init_words(request: Extract) -> str:
    """Return the arguments with which `init` finds the dataset and the feature files."""
    from pipelines.drafting.found_features import usual_places

    words = [str(request.data)]
    words += ["--columns", request.columns] if request.columns else []
    words += [] if request.options.out in usual_places(request.data) else ["--features", str(request.options.out)]
    return shown(shlex.join(words))


def _as_data(report: ExtractReport) -> dict[str, Any]:
    error = report.cosine_error
    return asdict(report) | {"path": str(report.path), "cosine_error": None if error is None else error._asdict()}


def _look_ahead(request: Extract, specs: Sequence[EncoderSpec], options: ExtractOptions) -> None:
    """Say what an extraction would do."""
    from pipelines.console import print_json
    from pipelines.feature_files.forecast import as_data, forecast, print_forecast

    made = forecast(_catalog(request), specs, options)
    if request.json:
        print_json(as_data(made, options.out))
    else:
        print_forecast(made, options.out)


def _check_engine(request: Extract) -> None:
    """Refuse what another engine is for."""
    engine = request.engine
    if request.ray_address and engine != "ray":
        raise ConfigError(f"--ray-address {request.ray_address} is for --engine ray, not for --engine {engine}")
    if request.processes != 1 and engine in ("worker", "slurm"):
        more = "start the same command several times" if engine == "worker" else "set --tasks"
        raise ConfigError(
            f"--processes {request.processes} is for --engine local and ray, not for --engine {engine}; {more}"
        )


def _faults(request: Extract) -> tuple[str, ...]:
    faults = request.options.faults
    if request.recipe == "microlens" and faults:
        raise ConfigError(f"--recipe microlens has all faults; leave out --faults {','.join(faults)}, or --recipe")
    return ("microlens",) if request.recipe == "microlens" else faults


def _catalog(request: Extract) -> Catalog:
    """Read the dataset, say what it holds, and return the catalog of what is to be extracted."""
    from features.published import read_ids
    from pipelines.console import say
    from pipelines.data.detection import read_dataset
    from pipelines.data.report import tell
    from pipelines.data.tables import parse_columns
    from pipelines.feature_files.extraction import dataset_catalog

    dataset = read_dataset(request.data, parse_columns(request.columns))
    if not request.json:
        say(dataset.layout)
    dataset = replace(dataset, videos=request.videos or dataset.videos, covers=request.covers or dataset.covers)
    if len(dataset.interactions):
        tell(dataset, json=request.json)
    catalog = dataset_catalog(dataset)
    if request.items is None:
        return catalog
    return catalog.only([item for item in dict.fromkeys(read_ids(request.items)) if item])


def _write_slurm(out: Path, tasks: int) -> None:
    from extract.jobs.farm import slurm_script
    from pipelines.console import say

    script = slurm_script([sys.executable, *_without_engine(sys.argv)], tasks, Path.cwd())
    path = out / "extract.sbatch"
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(script, encoding="utf-8", newline="")
    say(f"{path} written: {tasks} workers, then the merge. Read it, add what your cluster asks for, and: sbatch {path}")


def _without_engine(words: Sequence[str]) -> list[str]:
    """Return a command line without --engine and --tasks and their values."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.partition("=")[0] in ("--engine", "--tasks"):
            skip = "=" not in word
        else:
            kept.append(word)
    return kept
