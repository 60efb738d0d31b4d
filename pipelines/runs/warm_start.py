"""Starts a run from the weights of a finished one (`train.start_from`), so that its encoder trains for few epochs.

On frozen vectors a recommender trains in seconds per epoch; with an encoder beside it, the same steps take minutes.
Training the head first and the encoder after it (linear probing, then fine-tuning: Kumar et al., ICLR 2022, arXiv
2202.10054) also keeps a random head's first gradients away from the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from features.errors import ConfigError
from features.provenance import file_sha256
from features.store import FeatureFile
from models.items.frozen import FrozenItems
from models.items.towers import TowerItems
from models.shared.recommender import Recommender
from models.shared.representation import TOWERS, ItemsConfig
from pipelines.recipe.file_origin import content_of
from pipelines.recipe.recipe import Recipe, difference
from pipelines.runs.frozen_vectors import read_vectors
from pipelines.runs.run import Run
from pipelines.runs.run_files import finished_recipe, read_object
from pipelines.training.checkpoint import CHECKPOINT

Part = TypeVar("Part", FrozenItems, TowerItems)
# Settings of items that no weight depends on.
FREE = ("encoder_lr", "encoder_dropout", "dropout", "init_std", "checkpointing", "micro_batch", "bn_mode")


def start_folder(recipe: Recipe, folder: Path) -> Path | None:
    """Return the folder of the run that the recipe of the run in `folder` starts from; None if it starts from none."""
    name = recipe.train.start_from
    return None if name is None else folder.parent / name.replace("{seed}", str(recipe.seed))


def refuse_start(recipe: Recipe, source: Path, earlier: Recipe | None = None) -> None:
    """Raise ConfigError if a recipe cannot start from the run in `source`; compare the two recipes, nothing else.

    `earlier` is the recipe of a run that will be made there; without it, the run must be finished.
    """
    earlier = earlier or _finished(recipe, source)
    said = f"recipe {recipe.name!r} cannot start from {source}"
    if earlier.data != recipe.data:
        now = replace(earlier, data=recipe.data)
        raise ConfigError(f"{said}: {difference(earlier, now)}; it must have trained on the same part of the same data")
    if earlier.model.name != recipe.model.name:
        raise ConfigError(f"{said}: it is a run of {earlier.model.name!r}, this one of {recipe.model.name!r}")
    before, now_items = _weights_of(earlier.items), _weights_of(recipe.items)
    if before == now_items:
        return
    if earlier.items.kind != "v" or recipe.items.kind not in TOWERS or earlier.items.mix:
        raise ConfigError(
            f"{said}: its items are of kind {earlier.items.kind!r}, these of {recipe.items.kind!r}; start 'top' and "
            "'e2e' from a run of kind 'v' over one vector per item, any other kind from a run with the same items"
        )
    for name in ("dim", "fuse", "normalise", "side"):
        old, new = getattr(earlier.items, name), getattr(recipe.items, name)
        if old != new:
            raise ConfigError(f"{said}: its items.{name} is {old!r}, this one's {new!r}; make them equal")


def _finished(recipe: Recipe, source: Path) -> Recipe:
    try:
        return finished_recipe(source)
    except ConfigError as error:
        raise ConfigError(
            f"recipe {recipe.name!r} starts from {source} (train.start_from, beside its own run folder), which is no "
            f"finished run: {error}"
        ) from error


def _weights_of(items: ItemsConfig) -> ItemsConfig:
    plain = ItemsConfig()
    return replace(items, **{name: getattr(plain, name) for name in FREE})


def start_from(model: Recommender, recipe: Recipe, run: Run, files: Sequence[FeatureFile]) -> dict[str, Any]:
    """Give a freshly built model the weights of a finished run.

    Where the run used frozen vectors of an encoder that now trains, the encoder keeps its own weights. Its projection
    is set so that items get the vectors they had in the run.

    Args:
        model: the model, on the CPU; it is changed.
        recipe: its recipe, which `refuse_start` has accepted.
        run: the finished run, opened.
        files: the feature files of `run`.

    Returns:
        Facts for the record: 'folder', 'recipe', 'seed', 'weights_sha256' of the checkpoint; 'seconds' that the run
        took, including the run that it started from itself; 'projection', the largest relative error of an encoder's
        projection.

    Raises:
        ConfigError: the run was trained on vectors of other encoders, or its weights do not fit.
    """
    said = f"recipe {recipe.name!r} cannot start from {run.folder}"
    pairs = _pairs(run, model, files, said)
    own = model.state_dict()
    left = tuple(f"{name}." for name, module in model.named_modules() if any(module is pair[1] for pair in pairs))
    taken = {name: value for name, value in run.model.state_dict().items() if not (left and name.startswith(left))}
    for name in own.keys() | taken.keys():
        if not (left and name.startswith(left)) and _shape(own.get(name)) != _shape(taken.get(name)):
            raise ConfigError(
                f"{said}: {name} is {_shape(taken.get(name))} there, {_shape(own.get(name))} here; give both the same "
                "model settings"
            )
    model.load_state_dict(own | taken)
    errors = [_project(old, new, vectors, said) for old, new, vectors in pairs]
    record = read_object(run.folder / "record.json")
    facts: dict[str, Any] = {"folder": str(run.folder), "recipe": run.recipe.name, "seed": run.recipe.seed}
    facts["weights_sha256"] = file_sha256(run.folder / CHECKPOINT)
    facts["seconds"] = record.get("train_s", 0.0) + record.get("start", {}).get("seconds", 0.0)
    return facts | ({"projection": max(errors)} if errors else {})


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else str(tuple(tensor.shape))


def _pairs(
    run: Run, model: nn.Module, files: Sequence[FeatureFile], said: str
) -> list[tuple[FrozenItems, TowerItems, Tensor]]:
    """Return the projections of frozen vectors, the encoders that take their places, and the vectors (I, W)."""
    frozen, towers = _parts(run.model, FrozenItems), _parts(model, TowerItems)
    if run.recipe.items.kind in TOWERS or not towers:
        return []
    vectors, _ = read_vectors(run.recipe, run.data.split, files)
    encoders = [file.provenance.recipe.get("encoder") for file in files if content_of(file) == "vectors"]
    if encoders != [tower.name for tower in towers]:
        raise ConfigError(
            f"{said}: it was trained on vectors of {', '.join(map(str, encoders))}, this one trains "
            f"{', '.join(tower.name for tower in towers)}; name the same encoders in the same order"
        )
    return list(zip(frozen, towers, vectors.values(), strict=True))


def _parts(model: nn.Module, kind: type[Part]) -> list[Part]:
    items = getattr(model, "items", None)
    return [part for part in items.parts if isinstance(part, kind)] if items is not None else []


def _project(old: FrozenItems, new: TowerItems, vectors: Tensor, said: str) -> float:
    try:
        return new.project_onto(vectors, old.everything().detach())
    except ValueError as error:
        raise ConfigError(f"{said}: {error}") from error


def facts_of_start(folder: Path) -> Mapping[str, Any] | None:
    """Return what an unfinished run's record says about where it started; None if it says nothing."""
    path = folder / "record.json"
    return read_object(path).get("start") if path.is_file() else None
