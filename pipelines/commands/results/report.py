"""Verb `report`: finished runs as one HTML page that opens anywhere, offline."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.commands.options import argument, json_option, option


@dataclass(frozen=True)
class Report:
    """What `report` is asked for."""

    sources: tuple[Path, ...] = argument(nargs="+", metavar="RUN|TABLE|RECIPE")
    """Run folders; or recipe files and groups of recipes (pipelines/recipes/tables), whose finished runs are taken."""
    out: Path = option(Path("report.html"))
    """The file to write."""
    runs: Path = option(Path("runs"))
    """Folder in which `compare` made the runs of recipes and groups."""
    overrides: tuple[str, ...] = option((), flag="--set", nargs="*", metavar="key=value")
    """Settings that these recipes were run with."""
    axes: tuple[str, ...] = option((), flag="--axis", nargs="+", metavar="key=value,value")
    """Values that `compare --axis` made a row of each of."""
    baseline: str | None = option(None)
    """Row that the others are tested against (without it: the group's, or the first)."""
    title: str = option("")
    """Title of the page (without it: the group's)."""
    people: int = option(24)
    """Test users that are shown, drawn with --seed."""
    items: int = option(60)
    """Items whose nearest neighbours are shown: first those that these users took and had."""
    features: tuple[Path, ...] = option((), nargs="*", metavar="FEATURES.h5")
    """Feature files to show beside those of the recipes."""
    data: Path | None = option(None)
    """Dataset folder, if not that of the runs; it must hold the same interactions."""
    seed: int = option(0)
    """Seed of the samples."""
    max_mb: float = option(15.0)
    """Most megabytes of the file; pictures beyond it are left out and counted."""
    device: str = option("auto")
    """Device to rank on: auto, cpu, cuda, cuda:1, mps and so on."""
    json: bool = json_option()


REQUEST = Report


def run(request: Report) -> None:
    """Write the page, and say where it is and what is not in it."""
    from pipelines.console import print_json, say, warn
    from pipelines.reporting.gathered import gather
    from pipelines.reporting.page import Choice, write_report

    choice = Choice(
        people=request.people,
        items=request.items,
        features=request.features,
        data=request.data,
        seed=request.seed,
        max_mb=request.max_mb,
        device=request.device,
    )
    found = gather(
        request.sources,
        runs=request.runs,
        overrides=request.overrides,
        axes=request.axes,
        baseline=request.baseline,
        title=request.title,
    )
    written = write_report(request.out, found, choice)
    if request.json:
        print_json(asdict(written))
        return
    for line in written.missing:
        warn(f"not in the report: {line}")
    say(written.line)
