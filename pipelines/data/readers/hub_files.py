"""Which tables a dataset repository of Hugging Face, or a folder that `datasets` saved, holds for which split."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import ConfigError
from pipelines.data.tables import PART_WORDS, TABLES

Splits = dict[str, tuple[Path, ...]]  # name of a split -> its files, in order
SHARD = re.compile(r"(.+?)-(\d{5})-of-(\d{5})")
PLAIN = ("interactions", "items")  # tables of a plain folder, which its own reader takes


@dataclass(frozen=True)
class Config:
    """One table of a repository, in its splits."""

    name: str
    """Its name; '' where the repository names none."""
    splits: Splits
    """Its files."""

    def __str__(self) -> str:
        told = []
        for split, files in self.splits.items():
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            told.append(f"{split} = {files[0].name}{more}")
        return (f"config {self.name!r}: " if self.name else "") + ", ".join(told)


def configs_of(folder: Path) -> list[Config]:
    """Return the tables of a folder by its saved state, by README.md, or by the names of its files; [] if none."""
    if (folder / "dataset_dict.json").is_file():
        names = _read_json(folder / "dataset_dict.json").get("splits", [])
        return [Config("", {name: _saved(folder / name) for name in names})]
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return [Config("", {"train": _saved(folder)})]
    found = [one for one in _named_by_readme(folder) if one.splits] or _named_by_files(folder)
    files = {path for config in found for paths in config.splits.values() for path in paths}
    plain = all(path.parent == folder and path.name.partition(".")[0] in PLAIN for path in files)
    return [] if plain else found


def _saved(folder: Path) -> tuple[Path, ...]:
    """Return the Arrow files of a saved dataset, in order."""
    listed = _read_json(folder / "state.json").get("_data_files", [])
    return tuple(folder / Path(entry["filename"]).name for entry in listed)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} ({error}); save the dataset again with save_to_disk") from error
    return found if isinstance(found, dict) else {}


def _named_by_readme(folder: Path) -> list[Config]:
    """Return the configs of README.md's front matter; a README without, or with none, names nothing."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    parts = re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip():
        return []
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        front = YAML(typ="safe", pure=True).load(parts[1])
    except YAMLError:
        return []
    listed = front.get("configs") if isinstance(front, dict) else None
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return [Config(str(entry.get("config_name", "")), _data_files(folder, entry)) for entry in entries]


def _data_files(folder: Path, entry: Mapping[str, Any]) -> Splits:
    """Return the files of a config: `data_files` is a pattern, a list of them, or a list of splits with patterns."""
    told = entry.get("data_files", [])
    listed = told if isinstance(told, list) else [told]
    splits: dict[str, list[Path]] = {}
    for one in listed:
        split, paths = (
            (str(one.get("split", "train")), one.get("path", [])) if isinstance(one, dict) else ("train", one)
        )
        for pattern in paths if isinstance(paths, list) else [paths]:
            splits.setdefault(split, []).extend(_matching(folder, str(pattern)))
    return {split: tuple(dict.fromkeys(files)) for split, files in splits.items() if files}


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Return the tables in the folder that a pattern of README.md names.

    Raises:
        ConfigError: the pattern leads out of the folder.
    """
    if "://" in pattern or pattern.startswith("/") or ".." in Path(pattern).parts:
        raise ConfigError(f"{folder / 'README.md'} names {pattern!r}, which is not in the folder; copy the files there")
    found = [
        one for path in sorted(folder.glob(pattern)) for one in (sorted(path.iterdir()) if path.is_dir() else [path])
    ]
    return [path for path in found if path.name.endswith(TABLES)]


def _named_by_files(folder: Path) -> list[Config]:
    """Return the tables whose names, or whose folder's name, say the split; there must be one for training."""
    splits: dict[str, list[Path]] = {}
    for place in (folder, folder / "data"):
        for path in sorted(place.glob("*")) if place.is_dir() else []:
            if path.is_dir() and path.name.lower() in PART_WORDS:
                inside = [one for one in sorted(path.iterdir()) if one.name.endswith(TABLES)]
                splits.setdefault(path.name, []).extend(inside)
            elif path.name.endswith(TABLES) and (split := _split_of(path)) is not None:
                splits.setdefault(split, []).append(path)
    filled = sorted((split for split, files in splits.items() if files), key=lambda split: PART_WORDS[split.lower()])
    if not filled or PART_WORDS[filled[0].lower()] != 0:
        return []
    return [Config("", {split: tuple(splits[split]) for split in filled})]


def _split_of(path: Path) -> str | None:
    """Return the split that a file's name says, as in train.csv or train-00000-of-00003.parquet; None if none."""
    stem = path.name.partition(".")[0]
    shard = SHARD.fullmatch(stem)
    name = shard[1] if shard else stem
    return name if name.lower() in PART_WORDS and not name.isdecimal() else None


def refuse_lacking(files: Sequence[Path]) -> None:
    """Raise ConfigError where a shard of several is not there."""
    for path in files:
        shard = SHARD.fullmatch(path.name.partition(".")[0])
        if shard is None:
            continue
        for number in range(int(shard[3])):
            other = path.with_name(f"{shard[1]}-{number:05}-of-{shard[3]}{path.name[shard.end() :]}")
            if not other.is_file():
                raise ConfigError(f"{other} is missing, one of {int(shard[3])} shards; copy it, too")
