"""Read a dataset folder and split it as a recipe says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from features.errors import ConfigError
from features.paths import here
from pipelines.data.data_config import DataConfig
from pipelines.data.dataset import Dataset
from pipelines.data.detection import read_dataset
from pipelines.data.given_split import given_split
from pipelines.data.leave_one_out import leave_one_out
from pipelines.data.split import Split


def make_split(dataset: Dataset, config: DataConfig, *, catalog_ids: Iterable[str] = ()) -> Split:
    """Split a dataset; `catalog_ids` are further candidates if `candidates` is 'catalog'.

    Raises:
        ConfigError: the dataset has no interactions, no user or item has enough of them, a user is short and
            `short_users` is 'error', the config asks for a given split and there is none, or one of its parts is empty.
    """
    if dataset.interactions.is_empty():
        raise ConfigError(f"{config.folder} holds no interactions ({dataset.layout}); training needs a table of them")
    given = config.split == "given" or (config.split == "auto" and dataset.given_split)
    split = given_split(dataset, config) if given else leave_one_out(dataset, config, catalog_ids)
    return replace(split, read=dataset.counts())


@dataclass(frozen=True)
class Data:
    """A dataset and its split."""

    dataset: Dataset
    """The dataset that was read."""
    split: Split
    """Its training, validation and test parts."""


def load_data(config: DataConfig) -> Data:
    """Read a dataset folder and split it; errors as `read_dataset` and `make_split`."""
    dataset = read_dataset(here(config.folder), config.columns)
    extra: set[str] = set()
    if config.candidates == "catalog":
        from extract.media.catalog import media_ids

        known = {*dataset.interactions["item"].unique().to_list(), *dataset.titles}
        extra = media_ids(videos=dataset.videos, covers=dataset.covers, known=known)
    return Data(dataset, make_split(dataset, config, catalog_ids=extra))
