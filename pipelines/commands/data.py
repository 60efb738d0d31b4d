"""Verb `data`: what a dataset folder holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.commands.options import COLUMNS, argument, json_option, option


@dataclass(frozen=True)
class Data:
    """What `data` is asked for."""

    data: Path = argument()
    """Dataset folder (docs/datasets.md)."""
    columns: str | None = option(None, help=COLUMNS)
    json: bool = json_option()


REQUEST = Data


def run(request: Data) -> None:
    """Print the report of a dataset, and its warnings on standard error."""
    from pipelines.console import print_json
    from pipelines.data.detection import read_dataset
    from pipelines.data.report import data_report, print_report
    from pipelines.data.tables import parse_columns

    report = data_report(read_dataset(request.data, parse_columns(request.columns)))
    if request.json:
        print_json(asdict(report) | {"warnings": report.warnings()})
        return
    print_report(report)
