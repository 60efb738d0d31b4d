"""Verb `data`: what a dataset folder holds, and what a split of it comes to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import ConfigError
from freezeframe import imports
from pipelines.commands.options import COLUMNS, argument, json_option, option

if TYPE_CHECKING:
    from pipelines.data.data_config import DataConfig
    from pipelines.data.dataset import Dataset
    from pipelines.data.split import Split


@dataclass(frozen=True)
class Data:
    """What `data` is asked for."""

    data: Path = argument()
    """Dataset folder (docs/datasets.md)."""
    columns: str | None = option(None, help=COLUMNS)
    overrides: tuple[str, ...] = option((), flag="--set", nargs="*", metavar="key=value")
    """Settings of a recipe's section `data`, such as data.split=time data.test_share=0.2: what the split comes to."""
    json: bool = json_option()


REQUEST = Data


def run(request: Data) -> None:
    """Print the report of a dataset and of its split, and its warnings on standard error."""
    with imports():
        from pipelines.console import print_json, say, table
        from pipelines.data.detection import read_dataset
        from pipelines.data.load import columns_to_read
        from pipelines.data.report import data_report, print_report
        from pipelines.data.splits.split_report import split_facts, split_rows
        from pipelines.data.tables import parse_columns
        from pipelines.recipe.data_settings import data_settings

    config = data_settings(request.data, request.overrides, parse_columns(request.columns))
    dataset = read_dataset(request.data, columns_to_read(config))
    report = data_report(dataset)
    split, why = _split(dataset, config, asked=bool(request.overrides))
    if request.json:
        facts = {"split": split_facts(split) if split else None} | ({"no_split": why} if why else {})
        print_json(asdict(report) | facts | {"warnings": report.warnings()})
        return
    print_report(report)
    if split is not None:
        table(f"split: {split.protocol}", ["what", "value"], split_rows(split))
    if told := why or (split.told if split else ""):
        say(told)


def _split(dataset: Dataset, config: DataConfig, *, asked: bool) -> tuple[Split | None, str]:
    """Return the split of a dataset, or why the default settings make none; nothing where there are no interactions.

    Raises:
        ConfigError: the split was asked for and cannot be made.
    """
    from pipelines.data.load import make_split

    if dataset.interactions.is_empty() and not asked:
        return None, ""
    try:
        return make_split(dataset, config), ""
    except ConfigError as error:
        if asked:
            raise
        return None, f"no split by the default settings: {error}"
