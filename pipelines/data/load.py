"""Read a dataset folder and split it as a recipe says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from extract.media.file_marks import file_mark
from features.errors import ConfigError
from features.paths import here
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset
from pipelines.data.detection import read_dataset
from pipelines.data.given_split import given_split
from pipelines.data.leave_one_out import leave_one_out
from pipelines.data.split import Split
from pipelines.data.splits.own_split import own_split
from pipelines.data.splits.ratio_split import ratio_split
from pipelines.data.splits.time_split import time_split
from pipelines.data.splits.user_folds import user_folds
from pipelines.data.tables import ANY_SPLIT, Columns

SPLITS = {"time": time_split, "ratio": ratio_split, "column": own_split, "user-folds": user_folds}

MEDIA_FOLDERS = ("videos", "covers")  # also as NAME_videos and NAME_covers
MOST_FILES = 1000  # and folders, that are not media; a dataset has a handful


def make_split(dataset: Dataset, config: DataConfig, *, catalog_ids: Iterable[str] = ()) -> Split:
    """Split a dataset; `catalog_ids` are further candidates if `candidates` is 'catalog'.

    Raises:
        ConfigError: the dataset has no interactions, no user or item has enough of them, a user is short and
            `short_users` is 'error', the config asks for a given split and there is none, one of its parts is empty, or
            the dataset lacks what the split goes by.
    """
    if dataset.interactions.is_empty():
        raise ConfigError(f"{config.folder} holds no interactions ({dataset.layout}); training needs a table of them")
    return replace(_split(dataset, config, catalog_ids), read=dataset.counts())


def _split(dataset: Dataset, config: DataConfig, catalog_ids: Iterable[str]) -> Split:
    """Return the split that the config names, or the dataset brings."""
    if config.split in SPLITS:
        return SPLITS[config.split](dataset, config, catalog_ids)
    if config.split == "given" or (config.split == "auto" and dataset.given_split):
        if dataset.given_split and dataset.validation_seen:
            return own_split(dataset, config, catalog_ids)
        return given_split(dataset, config)
    return leave_one_out(dataset, config, catalog_ids)


def columns_to_read(config: DataConfig) -> Columns:
    """Return the columns that a dataset is read with: for `split: column` that of the split, named or not."""
    if config.split == "column" and config.columns.split is None:
        return replace(config.columns, split=ANY_SPLIT)
    return config.columns


@dataclass(frozen=True)
class Data:
    """A dataset and its split."""

    dataset: Dataset
    """The dataset that was read."""
    split: Split
    """Its training, validation and test parts."""
    files: Mapping[str, str] = field(default_factory=dict)
    """`file_marks` of the folder, taken before it was read; empty if they are not known."""


def file_marks(folder: Path) -> dict[str, str]:
    """Return the marks (size and date) of the files that a reader may have read, by path inside the folder.

    Folders of media are passed over. Returns nothing where there are too many files to look at each time.
    """
    found: dict[str, str] = {}
    for walked, (place, folders, names) in enumerate(os.walk(folder, followlinks=True)):
        folders[:] = [name for name in folders if name.rpartition("_")[2] not in MEDIA_FOLDERS]
        if max(walked, len(found) + len(names)) > MOST_FILES:  # of folders, too: a link may lead back to one above it
            return {}
        paths = [Path(place, name) for name in names]
        found |= {path.relative_to(folder).as_posix(): file_mark(path) for path in paths}
    return found


def load_data(config: DataConfig) -> Data:
    """Read a dataset folder and split it; errors as `read_dataset` and `make_split`."""
    place = here(config.folder)
    files = file_marks(place)
    dataset = read_dataset(place, columns_to_read(config))
    extra: set[str] = set()
    if config.candidates == "catalog":
        from extract.media.catalog import media_ids

        known = {*dataset.items_met, *dataset.titles}
        extra = media_ids(videos=dataset.videos, covers=dataset.covers, known=known)
    return Data(dataset, make_split(dataset, config, catalog_ids=extra), files)
