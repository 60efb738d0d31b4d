"""record.json of a run: what the run was made from, what made it, and how it went.

The first half is written before training. It holds the fingerprints of data and features, so that a run that is resumed
or opened again cannot mix old weights with new data.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from features.errors import ConfigError
from features.paths import here, shown
from features.provenance import library_versions, write_atomic
from features.store import FeatureFile
from models.items.build import Categories
from models.items.frozen import LayerMix
from models.items.towers import TowerItems
from pipelines.data.side_features import fingerprint
from pipelines.data.split import Split
from pipelines.device import device_name, why_device
from pipelines.recipe.recipe import Recipe
from pipelines.runs.origin import described
from pipelines.runs.run_files import read_object
from pipelines.training.checkpoint import CHECKPOINT
from pipelines.training.fit import FitResult

RECORD = "record.json"
LIBRARIES = ("freezeframe", "torch", "numpy", "h5py", "polars")


def begin_record(
    folder: Path,
    recipe: Recipe,
    split: Split,
    files: Sequence[FeatureFile],
    sides: Mapping[str, Categories],
    encoders: Sequence[Mapping[str, Any]] = (),
    start: Mapping[str, Any] | None = None,
) -> None:
    """Write what a run will be made from; `start` describes the run whose weights it starts from."""
    dataset = {
        "name": split.dataset,
        "fingerprint": split.fingerprint,
        "users": len(split.users),
        "items": len(split.items),
        "dropped_users": split.dropped_users,
        "dropped_items": split.dropped_items,
        "split": split.protocol,
        **({"split_told": split.told} if split.told else {}),
        "folder": str(here(recipe.data.folder).absolute()),
    }
    features = [
        {
            "file": str(file.path.absolute()),
            "listed": number,
            "fingerprint": file.provenance.fingerprint,
            "vectors_sha256": file.vectors_sha256,
        }
        for number, file in enumerate(files)
    ]
    record = {"recipe": recipe.name, "seed": recipe.seed, "dataset": dataset, "features": features}
    record["sides"] = fingerprint(sides)
    record["content"] = described(recipe, files, encoders)
    if encoders:
        record["encoders"] = [dict(facts) for facts in encoders]
    if start:
        record["start"] = dict(start)
    write_atomic(folder / RECORD, json.dumps(record, indent=2))


def refuse_changes(folder: Path, split: Split, files: Sequence[FeatureFile], sides: Mapping[str, Categories]) -> None:
    """Raise ConfigError if a run was made from other data or features than these; a run without record passes."""
    path = folder / RECORD
    if not _trained(folder):
        return
    dataset, features, side = _made_from(path)
    if dataset != split.fingerprint:
        raise ConfigError(
            f"dataset {split.dataset!r} changed since {folder} was trained, and its test would change with it; train "
            "into another folder (`recommend` takes new interactions into account)"
        )
    for file, then in zip(files, features, strict=False):
        if file.vectors_sha256 != then:
            raise ConfigError(f"feature file {file.path} changed since {folder} was trained; train into another folder")
    if side != fingerprint(sides):
        raise ConfigError(f"tags of {split.dataset!r} changed since {folder} was trained; train into another folder")


def _made_from(path: Path) -> tuple[str, list[str], str]:
    """Return the fingerprints of a record: of the dataset, of each feature file's vectors, and of the sides."""
    record = read_object(path)
    try:
        dataset = record["dataset"]["fingerprint"]
        features = [file["vectors_sha256"] for file in record["features"]]
        return dataset, features, record.get("sides", fingerprint({}))  # older versions had no sides
    except (KeyError, TypeError) as error:
        why = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{path} is of an older version or damaged ({why}); train into another folder") from error


def _trained(folder: Path) -> bool:
    """Return whether a run reached its first checkpoint; one that failed before holds nothing to protect."""
    return (folder / RECORD).is_file() and any((folder / name).is_file() for name in (CHECKPOINT, "metrics.json"))


def refuse_other_encoders(folder: Path, encoders: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError if a run trained other encoders than these, or trained them over other inputs."""
    path = folder / RECORD
    if not _trained(folder):
        return
    for now, then in zip(encoders, read_object(path).get("encoders", ()), strict=False):
        changed = [name for name, value in now.items() if then.get(name) != value]
        if changed:
            raise ConfigError(
                f"encoder {now['encoder']!r}: its {changed[0]} changed since {folder} was trained; train into another "
                "folder"
            )


def finish_record(
    folder: Path,
    fitted: FitResult,
    model: nn.Module,
    device: torch.device,
    costs: Mapping[str, Any],
    processes: int = 1,
    asked: str = "auto",
) -> None:
    """Add how training went, and its `run_costs`; with several processes, those of the first.

    `asked` is the name that gave the device.
    """
    path = folder / RECORD
    trained = {name: list(value.shape) for name, value in model.named_parameters() if value.requires_grad}
    record = read_object(path) | {
        "code": code_version(),
        "command": [shown(word) for word in sys.argv],
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "libraries": library_versions(LIBRARIES),
        "device": device_name(device),
        "device_why": why_device(asked, device),
        "processes": processes,
        "trained_parameters": trained,
        "parameter_counts": parameter_counts(model),
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history),
        "train_s": fitted.seconds,
        "costs": dict(costs),
    }
    mixes = {name: module.shares().tolist() for name, module in model.named_modules() if isinstance(module, LayerMix)}
    write_atomic(path, json.dumps(record | ({"layer_shares": mixes} if mixes else {}), indent=2))


def parameter_counts(model: nn.Module) -> dict[str, dict[str, int]]:
    """Return how many parameters train and how many are frozen, in each encoder, in the rest of `items`, elsewhere."""
    towers = {id(tower.tower): name for name, tower in model.named_modules() if isinstance(tower, TowerItems)}
    home = {
        id(parameter): f"{towers[id(module)]}.tower"
        for module in model.modules()
        if id(module) in towers
        for parameter in module.parameters()
    }
    counts: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        part = home.get(id(parameter)) or ("items" if name.startswith("items.") else "model")
        entry = counts.setdefault(part, {"trained": 0, "frozen": 0})
        entry["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
    return counts


def code_version() -> str:
    """Return the package version, with the git commit where the code lies in a checkout."""
    version = library_versions(["freezeframe"])["freezeframe"]
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{commit}"
