"""A draft: what a recipe for a dataset folder is written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from features.errors import ConfigError
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset
from pipelines.data.load import make_split
from pipelines.data.report import DataReport
from pipelines.data.tables import Columns
from pipelines.drafting.facts import Facts, gather, interactions_per_user
from pipelines.drafting.found_features import Search, find_features
from pipelines.drafting.settings import Setting, history_length

ENCODERS = {"videos": "videomae-base", "covers": "clip-vit-b-32-image", "titles": "minilm"}


@dataclass(frozen=True)
class Draft:
    """What a recipe is drafted from."""

    name: str
    """Name of the dataset."""
    data: DataConfig
    """Settings with which the dataset was split."""
    length: Setting
    """The choice of `data.max_length`."""
    facts: Facts
    """Counts of the dataset and its split."""
    search: Search
    """The feature files that were found."""


def draft(folder: Path, dataset: Dataset, report: DataReport, columns: Columns, features: Sequence[Path] = ()) -> Draft:
    """Split a dataset, look for its feature files, and return what a recipe is written from.

    Args:
        folder: the dataset folder, as the recipe shall name it.
        dataset: what was read from it.
        report: the report on it.
        columns: the columns with which it was read.
        features: feature files or folders to look at instead of the usual places.

    Raises:
        ConfigError: nothing to train on, or none of `features` fits.
    """
    _refuse_untrainable(folder, dataset, report)
    config = DataConfig(folder.as_posix(), keep_last=None, columns=columns)
    if report.duplicates and not dataset.given_split:
        config = replace(config, repeats="first")
    lengths = interactions_per_user(dataset, config)
    if not len(lengths):
        raise ConfigError(
            f"no user of {folder} has {config.min_interactions} interactions (the most is {report.lengths[3]}); "
            "training, validation and test need one each"
        )
    length = history_length(lengths, given_split=dataset.given_split)
    config = replace(config, max_length=int(length.value))
    split = make_split(dataset, config)
    search = find_features(dataset.name, split.items.ids, folder, features)
    return Draft(dataset.name, config, length, gather(dataset, report, split, lengths), search)


def _refuse_untrainable(folder: Path, dataset: Dataset, report: DataReport) -> None:
    if report.interactions:
        return
    found = encoders_for(dataset)
    raise ConfigError(
        f"{folder} holds no interactions ({dataset.layout}); a recipe needs a table of them, such as interactions.csv "
        "with the columns user,item,timestamp (docs/datasets.md)"
        + (f"; features can be made without: extract --data {folder} --encoders {','.join(found)}" if found else "")
    )


def encoders_for(dataset: Dataset) -> list[str]:
    """Return an encoder for each kind of media that a dataset has."""
    there = {"videos": dataset.videos is not None, "covers": dataset.covers is not None, "titles": bool(dataset.titles)}
    return [ENCODERS[kind] for kind, found in there.items() if found]
