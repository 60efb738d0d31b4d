"""A dataset through one or more encoders, with a progress bar, and what a person is told of it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from extract.encoders.spec import EncoderSpec
from extract.jobs.changed_sources import Tell
from extract.jobs.extractor import extract_all
from extract.jobs.farm import Order, extract_locally, work
from extract.jobs.options import ExtractOptions
from extract.jobs.report import ExtractReport
from extract.media.catalog import Catalog, build_catalog, media_ids, natural_key
from pipelines.console import say, table, warn
from pipelines.data.dataset import Dataset
from pipelines.progress import progress

SHORT_S = 5.0  # below that, starting up is most of it
LISTED = 20  # bad items printed in full; all of them stand in the feature file


def dataset_catalog(dataset: Dataset) -> Catalog:
    """Return the catalog of everything a dataset names: interactions, titles and media files."""
    ids = set(dataset.interactions["item"].unique().to_list()) | set(dataset.titles)
    ids |= media_ids(videos=dataset.videos, covers=dataset.covers, known=ids)
    return build_catalog(
        dataset.name, sorted(ids, key=natural_key), videos=dataset.videos, covers=dataset.covers, titles=dataset.titles
    )


def extract_with_bar(
    catalog: Catalog,
    specs: Sequence[EncoderSpec],
    options: ExtractOptions,
    *,
    processes: int = 1,
    ray: bool = False,
    address: str = "",
    tell: Tell | None = None,
) -> list[ExtractReport]:
    """Run the encoders over the catalog in one pass, with a progress bar, or a line for every 5 % of the rows."""
    with progress(f"extract {', '.join(spec.name for spec in specs)}", unit=_unit(len(specs))) as advance:
        if ray:
            from extract.jobs.farm_ray import extract_on_ray

            order = Order(catalog, tuple(spec.name for spec in specs), options)
            return extract_on_ray(order, processes, address=address, progress=advance, tell=tell)
        if processes == 1:
            return extract_all(catalog, specs, options, progress=advance, tell=tell)
        order = Order(catalog, tuple(spec.name for spec in specs), options)
        return extract_locally(order, processes, progress=advance, tell=tell)


def _unit(encoders: int) -> str:
    """Return what is counted: each encoder makes a row of each item."""
    return "items" if encoders == 1 else "rows"


def be_worker(order: Order) -> None:
    """Make shards as one of many; the merge is another command's."""
    with progress("worker", unit=_unit(len(order.encoders))) as advance:
        left = work(order, progress=advance)
    say(f"nothing left to claim; {left} shards are in other hands. The same command without --engine merges")


def advice(reports: Sequence[ExtractReport], options: ExtractOptions) -> str:
    """Return which stage a run waited for and what to change; '' for one too short to tell."""
    # encoders of one modality waited for the same decoders: count that once
    waits = {report.modality: report.seconds["decode"] for report in reports}
    spent = {stage: sum(report.seconds[stage] for report in reports) for stage in ("encode", "write")}
    spent = {"decode": sum(waits.values()), **spent}
    total = sum(spent.values())
    if total < SHORT_S:
        return ""
    worst = max(spent, key=lambda stage: spent[stage])
    todo = {
        "decode": f"more --workers may help ({options.workers} now, {os.cpu_count()} cores here)",
        "encode": "a larger --batch-size, --precision bf16 or a GPU may help"
        if options.precision == "float32"
        else "a larger --batch-size or --compile may help",
        "write": "a larger --shard-size or a faster disk for --out may help",
    }[worst]
    share = ", ".join(f"{stage} {seconds / total:.0%}" for stage, seconds in spent.items())
    return f"time waiting for: {share}; the bottleneck is {worst}: {todo}"


def print_reports(reports: Sequence[ExtractReport]) -> None:
    """Print what was made, what was not, and where it lies."""
    rows = []
    for report in reports:
        if report.warning:
            warn(report.warning)
        counts = [str(report.counts[state]) for state in ("done", "missing", "failed")]
        rows.append([report.encoder, *counts, str(report.new_rows), "unchanged" if report.unchanged else "written"])
    table("features", ["encoder", "done", "missing", "failed", "new", "file"], rows)
    for modality, ignored in {report.modality: report.ignored for report in reports}.items():
        if ignored.count:
            say(f"{modality}s: {ignored}")
    for report in reports:
        if not report.unchanged:
            say(f"{report.encoder}: {', '.join(f'{stage} {spent:.1f} s' for stage, spent in report.seconds.items())}")
            if report.cosine_error is not None and report.cosine_error.max > 0:
                error = report.cosine_error
                say(f"{report.encoder}: rounding costs {error.mean:.2g} of cosine on average, {error.max:.2g} at most")
        say(f"{report.path}{': nothing to do, all rows are there' if report.unchanged else ''}")
        for item, state, reason in report.bad[:LISTED]:
            say(f"  {state}  {item}: {reason}")
        if len(report.bad) > LISTED:
            say(f"  and {len(report.bad) - LISTED} more; `features inspect {report.path}` lists all")
