"""The section `data` of a recipe alone, from the words of a command line: no model is asked, so torch stays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from features.errors import ConfigError, shortened
from pipelines.data.data_config import DataConfig, dates_as_text
from pipelines.data.tables import Columns
from pipelines.recipe.structure import structure


def data_settings(folder: Path, words: Sequence[str], columns: Columns) -> DataConfig:
    """Return the settings for a dataset folder, with words such as 'data.split=time' (`data.` may be left out).

    Raises:
        ConfigError: a word is no `key=value`, or its key or value is none of the section `data`.
    """
    named = {name: value for name, value in asdict(columns).items() if value is not None}
    values: dict[str, Any] = {"folder": str(folder)} | ({"columns": named} if named else {})
    for word in words:
        key, equals, text = word.removeprefix("data.").partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {word!r} is not of the form key=value, such as data.split=time")
        node = values
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {word!r} leads into a value that has no keys; check the path at {parent!r}")
        node[last] = _value(word, text)
    config: DataConfig = structure(DataConfig, dates_as_text(values), "data.")
    return config


def _value(word: str, text: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"--set {word!r} is not valid YAML: {shortened(error, 200)}") from error
