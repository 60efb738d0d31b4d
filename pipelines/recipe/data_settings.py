"""The section `data` of a recipe alone, from the words of a command line: no model is asked, so torch stays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.data.data_config import DataConfig, dates_as_text
from pipelines.data.tables import Columns
from pipelines.recipe.structure import structure
from pipelines.recipe.yaml_text import override_key


def data_settings(folder: Path, words: Sequence[str], columns: Columns) -> DataConfig:
    """Return the settings for a dataset folder, with words such as 'data.split=time' (`data.` may be left out).

    Raises:
        ConfigError: a word is no `key=value`, or its key or value is none of the section `data`.
    """
    if not words:  # nothing that could be of the wrong type
        return DataConfig(folder=str(folder), columns=columns)
    named = {name: value for name, value in asdict(columns).items() if value is not None}
    values: dict[str, Any] = {"folder": str(folder)} | ({"columns": named} if named else {})
    plain = {"data": values}
    for word in words:
        override_key(plain, f"data.{word.removeprefix('data.')}")
    config: DataConfig = structure(DataConfig, dates_as_text(values), "data.")
    return config
