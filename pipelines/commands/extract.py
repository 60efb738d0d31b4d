"""Command line `extract`: a dataset folder through one or more encoders."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from extract.encoders.encoder import EncoderSpec
from extract.encoders.pooled_layers import parse_layers
from extract.encoders.registry import get_encoder
from extract.jobs.changed_sources import Tell
from extract.jobs.extractor import extract_all
from extract.jobs.farm import Order, extract_locally, slurm_script, work
from extract.jobs.options import ExtractOptions, ExtractReport, Precision
from extract.media.catalog import Catalog, build_catalog, media_ids, natural_key
from extract.media.frames import parse_frame_policy
from extract.media.sandbox import Limits
from features.errors import ConfigError
from features.paths import shown
from features.precision import DiskType
from features.published import read_ids
from pipelines.console import note, print_json, progress, say, table, warn
from pipelines.data.dataset import Dataset
from pipelines.data.detection import read_dataset
from pipelines.data.report import tell
from pipelines.data.tables import parse_columns
from pipelines.device import resolve_device

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
    """Run the encoders over the catalog in one pass, with a progress bar."""
    with progress(f"extract {', '.join(spec.name for spec in specs)}") as advance:
        if ray:
            from extract.jobs.farm_ray import extract_on_ray

            order = Order(catalog, tuple(spec.name for spec in specs), options)
            return extract_on_ray(order, processes, address=address, progress=advance, tell=tell)
        if processes == 1:
            return extract_all(catalog, specs, options, progress=advance, tell=tell)
        order = Order(catalog, tuple(spec.name for spec in specs), options)
        return extract_locally(order, processes, progress=advance, tell=tell)


def _be_worker(order: Order) -> None:
    """Make shards as one of many; the merge is another command's."""
    with progress("worker") as advance:
        left = work(order, progress=advance)
    say(f"nothing left to claim; {left} shards are in other hands. The same command without --engine merges")


def _write_slurm(out: Path, tasks: int) -> None:
    script = slurm_script([sys.executable, *_without_engine(sys.argv)], tasks, Path.cwd())
    path = out / "extract.sbatch"
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(script, encoding="utf-8")
    say(f"{path} written: {tasks} workers, then the merge. Read it, add what your cluster asks for, and: sbatch {path}")


def _faults(recipe: str, faults: str | None) -> tuple[str, ...]:
    if recipe == "microlens" and faults:
        raise ConfigError(f"--recipe microlens has all faults; leave out --faults {faults}, or --recipe")
    return (
        ("microlens",) if recipe == "microlens" else tuple(name.strip() for name in (faults or "").split(",") if name)
    )


def _check_engine(engine: str, processes: int, ray_address: str) -> None:
    """Refuse what another engine is for."""
    if ray_address and engine != "ray":
        raise ConfigError(f"--ray-address {ray_address} is for --engine ray, not for --engine {engine}")
    if processes != 1 and engine in ("worker", "slurm"):
        more = "start the same command several times" if engine == "worker" else "set --tasks"
        raise ConfigError(f"--processes {processes} is for --engine local and ray, not for --engine {engine}; {more}")


def _dtype(name: str, top_blocks: int | None, pixels: bool) -> DiskType:
    """Return the type on disk: what is trained on as if it were computed is not rounded unless somebody says so."""
    if pixels and name not in ("auto", "uint8"):
        raise ConfigError(f"--pixels stores uint8; leave out --dtype {name}")
    if pixels:
        return "float16"  # of vectors: none are made
    if name == "auto":
        return "float16" if top_blocks is None else "float32"
    return cast(DiskType, name)  # ExtractOptions refuses others


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


def run_extract(
    data: Path,
    columns: str | None,
    videos: Path | None,
    covers: Path | None,
    encoders: str,
    out: Path,
    weights: str,
    seed: int,
    recipe: str,
    faults: str | None,
    frames: str | None,
    top_blocks: int | None,
    layers: str | None,
    pixels: bool,
    items: Path | None,
    decoder: str,
    dtype: str,
    precision: Precision,
    compiled: bool,
    decode_seconds: float,
    decode_mb: int,
    batch_size: int,
    shard_size: int,
    workers: int,
    device: str,
    max_failed: float,
    retry_failed: bool,
    engine: str,
    processes: int,
    ray_address: str,
    tasks: int,
    json: bool,
) -> None:
    """Command line `extract`."""
    _check_engine(engine, processes, ray_address)
    specs = [get_encoder(name.strip()) for name in encoders.split(",")]
    options = ExtractOptions(
        out=out,
        weights=weights,
        seed=seed,
        dtype=_dtype(dtype, top_blocks, pixels),
        top_blocks=top_blocks,
        pixels=pixels,
        layers=parse_layers(layers) if layers is not None else None,
        frames=parse_frame_policy(frames) if frames else None,
        decoder=decoder,
        precision=precision,
        compile=compiled,
        decode=Limits(decode_seconds, decode_mb),
        batch_size=batch_size,
        shard_size=shard_size,
        workers=workers,
        device="cpu" if engine == "slurm" else str(resolve_device(device)),  # where jobs are submitted there is no GPU
        max_failed=max_failed,
        faults=_faults(recipe, faults),
        retry_failed=retry_failed,
        command=shown(shlex.join(sys.argv)),
    )
    if engine == "slurm":
        _write_slurm(out, tasks)
        return
    dataset = read_dataset(data, parse_columns(columns))
    if not json:
        say(dataset.layout)
    dataset = replace(dataset, videos=videos or dataset.videos, covers=covers or dataset.covers)
    if len(dataset.interactions):
        tell(dataset, json=json)
    catalog = dataset_catalog(dataset)
    if items is not None:
        catalog = catalog.only([item for item in dict.fromkeys(read_ids(items)) if item])
    if engine == "worker":
        _be_worker(Order(catalog, tuple(spec.name for spec in specs), options))
        return
    reports = extract_with_bar(
        catalog,
        specs,
        options,
        processes=processes,
        ray=engine == "ray",
        address=ray_address,
        tell=note if json else say,
    )
    if json:
        print_json([asdict(report) | {"path": str(report.path)} for report in reports])
    else:
        print_reports(reports)
        say(advice(reports, options))


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
