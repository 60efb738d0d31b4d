"""The verbs for a notebook or a script: `from pipelines import read_dataset, train, recommend` (docs/python.md).

These names, their arguments and the fields of what they return are kept stable: a change to one of them is a breaking
change and is marked in CHANGELOG.md. Everything else may move between releases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from extract.encoders.registry import get_encoder
from extract.jobs.options import ExtractOptions
from extract.jobs.report import ExtractReport
from features.errors import ConfigError, MediaError, StoreError, nearest
from features.store import FeatureFile
from pipelines.data import detection
from pipelines.data.dataset import Dataset
from pipelines.data.load import load_data
from pipelines.data.tables import Columns
from pipelines.feature_files.extraction import dataset_catalog, extract_with_bar
from pipelines.ranking.full_ranking import Evaluation, Mask
from pipelines.recipe.recipe import load_recipe, recipe_from_data
from pipelines.retrieval import retrieve
from pipelines.retrieval.retrieve import Hit
from pipelines.runs import run as runs
from pipelines.runs.experiment import evaluate_test, evaluated_as, run_recipe
from pipelines.runs.run import Run

__all__ = [
    "ConfigError",
    "Dataset",
    "Evaluation",
    "ExtractReport",
    "FeatureFile",
    "Hit",
    "MediaError",
    "Run",
    "StoreError",
    "evaluate",
    "extract_features",
    "open_features",
    "open_run",
    "read_dataset",
    "recommend",
    "similar_items",
    "train",
]

FIXED = ("out", "command")  # options of an extraction that this module sets itself


def read_dataset(folder: str | Path, *, columns: Mapping[str, str | int] | None = None) -> Dataset:
    """Read a dataset folder of any layout in docs/datasets.md.

    Args:
        folder: the dataset folder.
        columns: which column means what, where the names do not say so, such as `{"user": "uid", "time": "ts"}`. The
            keys are user, item, time and title. Numbers are for tables without a header.

    Raises:
        ConfigError: no layout fits, more than one fits, or a table cannot be read.
    """
    return detection.read_dataset(Path(folder), _columns(columns or {}))


def open_features(path: str | Path, *, dataset: Dataset | str | None = None) -> FeatureFile:
    """Open a feature file; `.read(ids)` returns (len(ids), F) float32 vectors in the order of the ids.

    Args:
        path: the feature file.
        dataset: the dataset, or its name, that the file must have been made for; None takes any file.

    Raises:
        StoreError: the file is absent or damaged, or was made for another dataset.
    """
    return FeatureFile(Path(path), dataset=dataset.name if isinstance(dataset, Dataset) else dataset)


def extract_features(
    data: str | Path | Dataset,
    encoder: str,
    out: str | Path,
    *,
    items: Sequence[str] | None = None,
    device: str = "auto",
    **options: Any,
) -> ExtractReport:
    """Encode the items of a dataset with one encoder into a feature file, or bring the file up to date.

    Args:
        data: the dataset, or its folder.
        encoder: a name that the verb `encoders` lists.
        out: folder for the feature file, whose path is the report's `path`.
        items: ids of the items to encode; None encodes all.
        device: 'auto', 'cpu', 'cuda', 'cuda:1' and so on.
        options: any other field of `extract.jobs.options.ExtractOptions`, such as `weights="random"`, `batch_size=32`
            or `top_blocks=2`.

    Raises:
        ConfigError: an unknown encoder, option or item, or a dataset without what the encoder reads.
        MediaError: more items failed than `max_failed` allows.
        StoreError: weights or a feature file that do not fit, or a full disk.
    """
    known = [field.name for field in dataclasses.fields(ExtractOptions) if field.name not in FIXED]
    for name in options:
        if name not in known:
            raise ConfigError(f"option {name!r} of extract_features is unknown; {nearest(name, known)}")
    chosen = ExtractOptions(out=Path(out), device=device, command="extract_features", **options)
    catalog = dataset_catalog(data if isinstance(data, Dataset) else read_dataset(data))
    if items is not None:
        catalog = catalog.only(items)
    return extract_with_bar(catalog, [get_encoder(encoder)], chosen)[0]


def train(
    recipe: Mapping[str, Any] | str | Path,
    *,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    device: str = "auto",
) -> Run:
    """Train and test a recipe, and return the finished run.

    A run that was stopped goes on from its last epoch. A finished run of the same recipe is not trained again.

    Args:
        recipe: what a recipe file holds, as a dict, or the path of a YAML file (docs/recipes.md).
        overrides: settings in place of the recipe's, such as `["train.lr=1e-4", "seed=1"]`.
        out: the run folder; None takes `runs/` and the recipe's name.
        device: 'auto', 'cpu', 'cuda', 'cuda:1' and so on.

    Raises:
        ConfigError: a recipe that cannot be meant, or a run folder that holds a run of other settings.
        StoreError: a feature file that is absent, damaged, or lacks items.
    """
    asked = (
        load_recipe(Path(recipe), overrides) if isinstance(recipe, str | Path) else recipe_from_data(recipe, overrides)
    )
    folder = Path("runs") / asked.name if out is None else Path(out)
    data = load_data(asked.data)
    run_recipe(asked, folder, device=device, data=data)
    return runs.open_run(folder, device=device, data=data)


def open_run(
    folder: str | Path, *, data: str | Path | None = None, new_interactions: bool = False, device: str = "auto"
) -> Run:
    """Open a finished run: its recipe, its dataset and split, and its model with the trained weights.

    Args:
        folder: the run folder.
        data: the dataset folder, where it is not the recipe's any more.
        new_interactions: open the run also where the dataset has new interactions. `recommend` takes them into
            account; `evaluate` has no targets then.
        device: 'auto', 'cpu', 'cuda', 'cuda:1' and so on.

    Raises:
        ConfigError: the folder holds no finished run, or what the run was made from has changed.
        StoreError: a feature file that the run reads is absent or damaged.
    """
    place = None if data is None else Path(data)
    return runs.open_run(Path(folder), device=device, place=place, new_interactions=new_interactions)


def evaluate(
    run: Run,
    *,
    at: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
    mask: Mask | None = None,
) -> Evaluation:
    """Rank the test targets of a run against all items.

    Args:
        run: from `train` or `open_run`.
        at: list lengths, such as `[5, 10]`; None takes the recipe's.
        metrics: names such as `["HR", "MRR", "Coverage"]`; None takes the recipe's (docs/evaluation.md).
        mask: what becomes of seen items, 'keep', 'hide' or 'strict'; None takes the recipe's.

    Returns:
        `metrics` maps names such as 'HR@10' to means over all users. `warm` and `cold` are the same over users whose
        targets occur in training, and over the others.

    Raises:
        ConfigError: an unknown metric or mask, a list length below 1, or a run without test targets.
    """
    if not len(run.data.split.test.users):
        raise ConfigError(
            f"{run.folder} has no test targets: its dataset has changed since it was trained; train it again"
        )
    recipe = evaluated_as(run.recipe, at=at, metrics=metrics, mask=mask)
    place = next(chain(run.model.parameters(), run.model.buffers())).device
    return evaluate_test(run.model, recipe, run.data.split, place)


def recommend(run: Run, user: str, *, top: int = 10) -> list[Hit]:
    """Return the best items for a user, best first; items that the user has had are left out.

    Args:
        run: from `train` or `open_run`. Only models whose score is an inner product can be searched.
        user: the user's id, as the dataset has it.
        top: how many items, at least 1. Fewer come back where fewer are left.

    Raises:
        ConfigError: an unknown user, or a model that cannot be searched.
    """
    return retrieve.recommend(run, user, top)


def similar_items(features: FeatureFile, item: str, *, top: int = 10) -> list[Hit]:
    """Return the items whose vectors have the highest cosine with an item's, best first, without that item.

    Args:
        features: from `open_features`, a file of vectors (I, F).
        item: the item's id, as the dataset has it.
        top: how many items, at least 1.

    Raises:
        ConfigError: `top` is below 1.
        StoreError: the item has no vector, or the file holds no vectors (I, F).
    """
    return retrieve.similar(features, item, top)


def _columns(given: Mapping[str, str | int]) -> Columns:
    known = [field.name for field in dataclasses.fields(Columns)]
    for name in given:
        if name not in known:
            raise ConfigError(f"column {name!r} is unknown; {nearest(name, known)}")
    return Columns(**given)
