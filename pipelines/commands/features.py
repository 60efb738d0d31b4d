"""Command line `features`: inspect, verify, merge, import and export feature files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.convert import ROW, ROW_PLUS_ONE, import_features
from features.errors import ConfigError, StoreError
from features.export import export_features
from features.inspect import inspect_features
from features.merge import merge
from features.store import FeatureFile
from pipelines.console import print_json, say, table, warn
from pipelines.data.dataset import Dataset
from pipelines.data.detection import read_dataset
from pipelines.data.tables import parse_columns


def inspect(file: Path, json: bool) -> None:
    """Command line `features inspect`."""
    opened = FeatureFile(file)
    findings = inspect_features(opened)
    if json:
        print_json(findings)
        return
    table(str(file), ["what", "value"], [[name, _shown(value)] for name, value in findings.items()])
    columns = opened.columns
    for item, state, reason in zip(columns.ids, columns.states.tolist(), columns.reasons, strict=True):
        if state:
            say(f"  {item}: {reason}")


def _shown(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_shown(part)}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verify(file: Path) -> None:
    """Command line `features verify`."""
    opened = FeatureFile(file)
    opened.verify()
    say(f"{file}: {len(opened.columns.ids)} rows, every byte of the vectors as written")


def merge_files(out: Path, parts: Sequence[Path]) -> None:
    """Command line `features merge`."""
    if out.exists():
        raise StoreError(f"{out} exists; choose another name")
    files = [FeatureFile(part) for part in parts]
    merge(out, {item: file for file in files for item in file.columns.ids}, files[0].provenance)
    say(f"{out}: {FeatureFile(out).counts()}")


def bring(
    source: Path,
    ids: str | None,
    data: Path,
    name: str,
    out: Path,
    dtype: str,
    unmatched: str,
    columns: str | None = None,
) -> None:
    """Command line `features import`."""
    dataset = read_dataset(data, parse_columns(columns))
    by_number, doubts = ids in (ROW, ROW_PLUS_ONE), list[str]()

    def check(items: Sequence[str]) -> None:
        foreign, absent = _foreign(items, dataset), _absent(items, dataset)
        told = "; ".join(filter(None, [foreign, absent]))
        # Where rows count the items, one more or less means that all of them may have moved; a list of ids of its own
        # may leave out what has no cover.
        if unmatched == "error" and (foreign or (absent and by_number)):
            raise ConfigError(
                f"{source}: {told}; is {f'--ids {ids}' if ids else 'the source'} right? Nothing is imported; "
                "--unmatched keep imports it all the same"
            )
        doubts.extend([f"{source}: {told}"] if told else [])

    file = import_features(source, out, dataset=dataset.name, ids=ids, name=name, dtype=dtype, check=check)
    for doubt in doubts:
        warn(doubt)
    say(f"{file.path}: {file.counts()}, width {file.width}")
    error = file.cosine_error
    if error is not None:
        say(f"rounding to {file.dtype} costs {error.mean:.2g} of the cosine on average, {error.max:.2g} at most")


def _foreign(ids: Sequence[str], dataset: Dataset) -> str:
    """Return how many ids a dataset does not know, or ''; one of media alone is not asked."""
    known = {*dataset.interactions["item"].unique().to_list(), *dataset.titles, *dataset.catalog}
    strange = [item for item in ids if item not in known] if known else []
    if not strange:
        return ""
    return (
        f"{len(strange)} of {len(ids)} ids have neither interactions nor a title in {dataset.name!r}, "
        f"first {strange[0]!r}"
    )


def _absent(ids: Sequence[str], dataset: Dataset) -> str:
    """Return how many items of a dataset are not among the ids, or ''."""
    items = set(dataset.interactions["item"].unique().to_list()) or set(dataset.titles)
    without = sorted(items - set(ids))
    if not without:
        return ""
    return f"{len(without)} of the {len(items)} items of {dataset.name!r} are not among the ids, first {without[0]!r}"


def take(file: Path, out: Path, form: str) -> None:
    """Command line `features export`."""
    written = export_features(FeatureFile(file), out, form=form)
    say(f"written: {', '.join(str(path) for path in written)}")
