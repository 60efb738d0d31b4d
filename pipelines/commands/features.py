"""Verb `features`: inspect, verify, merge, import and export feature files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import StoreError
from pipelines.commands.options import COLUMNS, Action, argument, json_option, option


@dataclass(frozen=True)
class Inspect:
    """What `features inspect` is asked for."""

    file: Path = argument()
    """Feature file."""
    json: bool = json_option()


def inspect(request: Inspect) -> None:
    """Print what a feature file holds, the verdict on it, and the rows without a vector."""
    from features.inspect import inspect_features
    from features.store import FeatureFile
    from pipelines.console import print_json, say, table

    opened = FeatureFile(request.file)
    findings = inspect_features(opened)
    if request.json:
        print_json(findings)
        return
    table(str(request.file), ["what", "value"], [[name, _shown(value)] for name, value in findings.items()])
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


@dataclass(frozen=True)
class Verify:
    """What `features verify` is asked for."""

    file: Path = argument()
    """Feature file."""
    json: bool = json_option()


def verify(request: Verify) -> None:
    """Read every vector again; StoreError where a byte changed."""
    from features.store import FeatureFile
    from pipelines.console import print_json, say

    opened = FeatureFile(request.file)
    opened.verify()
    if request.json:
        print_json({"file": str(request.file), "rows": len(opened.columns.ids), "sound": True})
        return
    say(f"{request.file}: {len(opened.columns.ids)} rows, every byte of the vectors as written")


@dataclass(frozen=True)
class Merge:
    """What `features merge` is asked for."""

    out: Path = argument()
    """Feature file to write."""
    parts: tuple[Path, ...] = argument(nargs="+")
    """Feature files; where two hold an item, the later one wins."""
    json: bool = json_option()


def merge(request: Merge) -> None:
    """Write one feature file out of several of one recipe."""
    from features.merge import merge
    from features.store import FeatureFile
    from pipelines.console import print_json, say

    out = request.out
    if out.exists():
        raise StoreError(f"{out} exists; choose another name")
    files = [FeatureFile(part) for part in request.parts]
    merge(out, {item: file for file in files for item in file.columns.ids}, files[0].provenance)
    counts = FeatureFile(out).counts()
    if request.json:
        print_json({"file": str(out), "rows": counts})
    else:
        say(f"{out}: {counts}")


@dataclass(frozen=True)
class Import:
    """What `features import` is asked for."""

    source: Path = argument()
    """A .npy, .parquet or .safetensors file with a 2-d array, one row per item."""
    data: Path = option()
    """Dataset folder that the ids belong to."""
    name: str = option()
    """What the features are, e.g. videomae-published."""
    out: Path = option()
    """Folder for the feature file."""
    ids: str | None = option(None)
    """How rows are named: row+1 (MicroLens), row (MMRec), a text file of ids, or i_id_mapping.csv; not for a source
    with ids of its own."""
    columns: str | None = option(None, help=COLUMNS)
    dtype: str = option("float16")
    """Type on disk: float16, float32 or int8."""
    unmatched: str = option("error", choices=("error", "keep"))
    """What to do with ids that the dataset does not know, and with --ids row and row+1 with items without a row: stop,
    or keep them and warn."""
    json: bool = json_option()


def bring(request: Import) -> None:
    """Make a feature file of a published array."""
    from pipelines.console import print_json, say
    from pipelines.data.detection import read_dataset
    from pipelines.data.tables import parse_columns
    from pipelines.feature_files.importing import import_for

    file = import_for(
        read_dataset(request.data, parse_columns(request.columns)),
        request.source,
        request.out,
        ids=request.ids,
        name=request.name,
        dtype=request.dtype,
        keep_unmatched=request.unmatched == "keep",
    )
    error = file.cosine_error
    if request.json:
        rounding = None if error is None else error._asdict()
        print_json({"file": str(file.path), "rows": file.counts(), "width": file.width, "cosine_error": rounding})
        return
    say(f"{file.path}: {file.counts()}, width {file.width}")
    if error is not None:
        say(f"rounding to {file.dtype} costs {error.mean:.2g} of the cosine on average, {error.max:.2g} at most")


@dataclass(frozen=True)
class Export:
    """What `features export` is asked for."""

    file: Path = argument()
    """Feature file."""
    out: Path = option()
    """Folder to make."""
    format: str = option("npy")
    """Format: npy, parquet, safetensors or mmrec."""
    json: bool = json_option()


def export(request: Export) -> None:
    """Write the vectors of a feature file in another format."""
    from features.export import export_features
    from features.store import FeatureFile
    from pipelines.console import print_json, say

    written = export_features(FeatureFile(request.file), request.out, form=request.format)
    files = [str(path) for path in written]
    if request.json:
        print_json({"files": files})
    else:
        say(f"written: {', '.join(files)}")


ACTIONS = {
    "inspect": Action("what a feature file holds and whether it looks sound", Inspect, inspect),
    "verify": Action("re-read every vector; exit 2 if one changed", Verify, verify),
    "merge": Action("several feature files of one recipe into one", Merge, merge),
    "import": Action("a published array into a feature file", Import, bring),
    "export": Action("the vectors of a feature file in another format", Export, export),
}
