"""Verb `compare`: recipes, groups of them or finished runs, in one table with the papers' numbers and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import ConfigError
from freezeframe import imports
from pipelines.commands.options import argument, json_option, option

if TYPE_CHECKING:
    from pipelines.comparing.result_table import Comparison
    from pipelines.recipe.recipe import Recipe


@dataclass(frozen=True)
class Compare:
    """What `compare` is asked for."""

    sources: tuple[Path, ...] = argument(nargs="*", metavar="RECIPE|GROUP|RUN")
    """Recipe files, groups of recipes (pipelines/recipes/tables), or run folders; without any, the groups are
    listed."""
    overrides: tuple[str, ...] = option((), flag="--set", nargs="*", metavar="key=value")
    """Settings for all recipes, such as scale=small or features.0.path=FILE (which skips recipes without features)."""
    axes: tuple[str, ...] = option((), flag="--axis", nargs="+", metavar="key=value,value")
    """A row for each of several values, such as items.kind=v,dnn,top items.top_blocks=1,2; not for groups."""
    seeds: int = option(1)
    """Runs per recipe, with seeds 0, 1, 2 and so on."""
    out: Path = option(Path("runs"))
    """Folder for the run folders."""
    baseline: str | None = option(None)
    """Row that the others are tested against (without it: the first)."""
    test: str = option("t", choices=("t", "wilcoxon"))
    """Paired test over users."""
    groups: bool = option(False)
    """Also show metrics by popularity of the target, as ratios to the baseline's."""
    costs: bool = option(False)
    """Also show what each row cost: time, memory, disk, items encoded (always shown where a row trains an encoder)."""
    plot: Path | None = option(None)
    """Draw accuracy against training time into this file, as SVG or PNG."""
    markdown: Path | None = option(None)
    """Write the tables into this file, too, as Markdown."""
    latex: Path | None = option(None)
    """Write the tables into this file, too, as LaTeX (booktabs)."""
    csv: Path | None = option(None)
    """Write the tables into this file, too, as CSV, every number unrounded."""
    device: str = option("auto")
    """Device: auto, cpu, cuda, cuda:1, mps and so on."""
    dry_run: bool = option(False)
    """Say which runs are there, which would be trained and what is missing, and stop; nothing is written."""
    json: bool = json_option()


REQUEST = Compare


def run(request: Compare) -> None:
    """Make the rows and show them; without sources, list the groups of recipes that come with freezeframe."""
    with imports():
        from pipelines.console import print_json

    if not request.sources:  # before the imports below, which load torch
        with imports():
            from pipelines.recipe.collections import list_groups, print_groups

        if request.json:
            print_json(list_groups())
        else:
            print_groups()
        return
    with imports():
        from pipelines.comparing import compare as comparing
        from pipelines.comparing.cost_table import trains_an_encoder
        from pipelines.comparing.machine import as_data
        from pipelines.comparing.plot import check_plot
        from pipelines.comparing.result_table import Comparison
        from pipelines.recipe.plan import Plan, plan

    test = comparing.check_test(request.test)
    if request.plot is not None:
        check_plot(request.plot)
    folders = _run_folders(request)
    made = Plan(()) if folders else plan(request.sources, request.overrides, request.axes)
    baseline = request.baseline if request.baseline is not None else made.baseline
    if folders:
        rows = comparing.finished_rows(folders)
    else:
        comparing.row_place([recipe.name for recipe in made.recipes], baseline)  # before hours of training, not after
        if request.dry_run:
            _look_ahead(made.recipes, request)
            return
        rows = comparing.compare(made.recipes, request.seeds, request.out, device=request.device)
    tests = comparing.run_tests(rows, baseline, test)
    costs = request.costs or any(map(trains_an_encoder, rows))
    place = comparing.row_place([row.name for row in rows], baseline)
    shown = Comparison(rows, tests, made.title, made.notes, costs)
    if request.json:
        print_json(as_data(shown))
    else:
        _show(shown, place, groups=request.groups or made.groups)
    _write(shown, request)


def _run_folders(request: Compare) -> list[Path]:
    """Return the sources if they are run folders, nothing if they are files."""
    runs = [path for path in request.sources if path.is_dir()]
    if runs and len(runs) < len(request.sources):
        other = next(path for path in request.sources if not path.is_dir())
        raise ConfigError(f"{runs[0]} is a folder and {other} is none; compare recipes or finished runs, not both")
    if runs and (request.overrides or request.axes or request.seeds != 1):
        raise ConfigError(f"{runs[0]} is a run and stays as it is; --set, --axis and --seeds are for recipes")
    if runs and request.dry_run:
        raise ConfigError(f"{runs[0]} is a finished run, which is only read; --dry-run is for recipes")
    return runs


def _look_ahead(recipes: Sequence[Recipe], request: Compare) -> None:
    """Say what would become of each run folder, and what is missing."""
    from pipelines.comparing.compare import check_rows
    from pipelines.comparing.outlook import IN_WORDS, obstacles, outlook
    from pipelines.console import print_json, say, table, warn

    check_rows(recipes, request.seeds)
    runs = outlook(recipes, request.seeds, request.out)
    missing = obstacles(recipes, runs)
    if request.json:
        print_json({"runs": [asdict(run) for run in runs], "missing": missing})
        return
    table("a dry run", ["run folder", "what becomes of it"], [[run.folder, IN_WORDS[run.state]] for run in runs])
    trained = sum(run.state in ("new", "unfinished", "longer") for run in runs)
    say(f"{trained} of {len(runs)} runs would be trained; nothing is written")
    for text in missing:
        warn(text)


def _show(shown: Comparison, place: int, *, groups: bool) -> None:
    """Print the table; `place` is the baseline's row."""
    from pipelines.comparing.result_table import by_popularity, columns, untested
    from pipelines.comparing.table_files import print_comparison
    from pipelines.console import explain, table

    print_comparison(shown)
    rows = shown.rows
    if shown.tests is None and (why := untested(rows, rows[place])):
        explain(why)
    if groups:
        metric = columns(rows)[0][1]
        table(f"{metric} by popularity", *by_popularity(rows, place, metric))
        explain(f"x = times {rows[place].name}; cold = the target never occurs in training")


def _write(shown: Comparison, request: Compare) -> None:
    """Write the files that were asked for."""
    from pipelines.comparing.plot import write_plot
    from pipelines.comparing.table_files import WRITERS
    from pipelines.console import say

    for name, path in {"markdown": request.markdown, "csv": request.csv, "latex": request.latex}.items():
        if path:
            WRITERS[name](path, shown)
            say(f"table written to {path}")
    if request.plot is not None:
        write_plot(request.plot, shown)
        say(f"picture written to {request.plot}")
