"""A finished run, opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.shared.recommender import Recommender
from models.shared.representation import TOWERS
from pipelines.console import note
from pipelines.data.load import Data, load_data
from pipelines.device import resolve_device
from pipelines.recipe.recipe import Recipe
from pipelines.runs.inputs import build, read_inputs, training_facts
from pipelines.runs.kept.kept_data import kept_split, kept_user, placed
from pipelines.runs.kept.kept_vectors import kept_model
from pipelines.runs.run_files import finished_recipe, read_object
from pipelines.towers.open_towers import Media
from pipelines.training.checkpoint import CHECKPOINT, load_best


@dataclass(frozen=True)
class Run:
    """A finished run, opened."""

    folder: Path
    """The run folder."""
    recipe: Recipe
    """The recipe, as it was run."""
    data: Data
    """The dataset it was trained on, read again and checked against the record."""
    model: Recommender
    """The recommender with its trained weights, in eval mode."""


def open_run(
    folder: Path,
    *,
    device: str = "cpu",
    data: Data | None = None,
    media: Media | None = None,
    place: Path | None = None,
    new_interactions: bool = False,
    only_user: str | None = None,
) -> Run:
    """Open a finished run.

    Args:
        folder: the run folder.
        device: the device that the model is put on.
        data: as for `run_recipe`.
        media: as for `run_recipe`.
        place: the dataset folder, if it is not the recipe's.
        new_interactions: whether to open the run even if the dataset has changed since. The split then has the ids and
            edges that were trained on, and no targets.
        only_user: a user; if the dataset has not changed, only this user's interactions are read, from the run folder.
            The split then has the ids and edges that were trained on, and no targets. Needs `new_interactions`.

    Raises:
        ConfigError: the folder holds no finished run, or what it was made from has changed since.
    """
    recipe = placed(finished_recipe(folder), folder, place)
    if data is None and only_user is not None and not _reads_dataset(recipe):
        data = kept_user(folder, recipe.data, only_user)
    data = data or load_data(recipe.data)
    if new_interactions:
        data = _as_trained(folder, data)
    model, _ = build(recipe, read_inputs(recipe, folder, data), folder, media)
    if any(parameter.requires_grad for parameter in model.parameters()):
        load_best(folder / CHECKPOINT, model)
    return Run(folder, recipe, data, model.to(resolve_device(device)).eval())


def open_to_serve(folder: Path, *, place: Path | None = None, only_user: str | None = None, rows: bool = True) -> Run:
    """Open a finished run to recommend: from the vectors that it keeps, on the CPU.

    Feature files, activations, media and encoders may be gone, and the dataset may have new interactions. A run that
    keeps no vectors, or other ones than its checkpoint's, is opened as a whole.

    Args:
        folder: the run folder.
        place: the dataset folder, if it is not the recipe's.
        only_user: as for `open_run`.
        rows: whether interactions are read at all; only where the run keeps neither them nor vectors, they are anyway.

    Raises:
        ConfigError: the folder holds no finished run, or nothing is left to read interactions from.
    """
    recipe = placed(finished_recipe(folder), folder, place)
    data = kept_user(folder, recipe.data, only_user) if only_user is not None or not rows else None
    data = data or _as_trained(folder, load_data(recipe.data))
    model = kept_model(folder, recipe, training_facts(data.split))
    if model is None:
        return open_run(folder, place=place, new_interactions=True, only_user=only_user)
    return Run(folder, recipe, data, model)


def _reads_dataset(recipe: Recipe) -> bool:
    """Return whether a model is built from more of the dataset than ids and edges: tags, or what encoders read."""
    return recipe.items.kind in TOWERS or "tags" in recipe.items.side


def _as_trained(folder: Path, data: Data) -> Data:
    """Return the data; if the dataset has changed since, with the split that the run was trained on."""
    record = folder / "record.json"
    then = read_object(record).get("dataset", {}).get("fingerprint") if record.is_file() else None
    split = kept_split(folder, data.dataset) if then != data.split.fingerprint else None
    if split is None:
        return data
    users, items = (set(data.dataset.interactions[name].unique().to_list()) for name in ("user", "item"))
    note(
        f"{data.dataset.name!r} changed since {folder} was trained: {len(users - set(split.users.ids))} users and "
        f"{len(items - set(split.items.ids))} items of it are unknown to the model"
    )
    return Data(data.dataset, split)
