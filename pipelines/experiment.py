"""One recipe, one run folder: data, features, model, training, test, record. Finished runs are not made again.

A run folder holds config.yaml (every default written out), checkpoint.pt, metrics.json, ranks.npy (one test rank per
user), log.jsonl (one epoch per line) and record.json (code version, seed, fingerprints, timings, peak memory).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from features.errors import ConfigError
from features.provenance import write_atomic
from features.store import FeatureFile
from models import build_recommender, recommenders
from models.base import Recommender, TrainingFacts
from models.items import Categories, build_items
from pipelines.checkpoint import CHECKPOINT, load_best
from pipelines.config import (
    Recipe,
    build_recipe,
    dump_yaml,
    load_recipe,
    parse_yaml,
    recipe_to_dict,
)
from pipelines.console import print_json, progress, say, table
from pipelines.data.dataset import Dataset, read_dataset
from pipelines.data.sides import side_features
from pipelines.data.split import DataConfig, Split, make_split
from pipelines.evaluate import Evaluation, evaluate
from pipelines.record import begin_record, finish_record, refuse_changes
from pipelines.train import fit


@dataclass(frozen=True)
class Data:
    """A dataset and its split."""

    dataset: Dataset
    split: Split


@dataclass(frozen=True)
class Run:
    """A finished run, opened.

    Attributes:
        folder: the run folder.
        recipe: as it was run.
        data: the dataset it was trained on, read again and checked against the record.
        model: with its trained weights, in eval mode.
    """

    folder: Path
    recipe: Recipe
    data: Data
    model: Recommender


def load_data(config: DataConfig) -> Data:
    """Read the dataset folder and split it."""
    dataset = read_dataset(Path(config.folder))
    extra: set[str] = set()
    if config.candidates == "catalog":
        from extract.catalog import media_ids

        extra = media_ids(videos=dataset.videos, covers=dataset.covers)
    return Data(dataset, make_split(dataset, config, catalog_ids=extra))


def open_features(recipe: Recipe, split: Split) -> list[FeatureFile]:
    """Open the recipe's feature files; StoreError for a file of another dataset."""
    return [FeatureFile(feature.resolve(), dataset=split.dataset) for feature in recipe.features]


def training_facts(split: Split) -> TrainingFacts:
    """Return what a recommender may know of a split."""
    counts, edges = torch.from_numpy(split.train_counts), torch.from_numpy(split.train_edges)
    return TrainingFacts(len(split.users), len(split.items), counts, edges)


def build_model(
    recipe: Recipe, split: Split, files: Sequence[FeatureFile], sides: Mapping[str, Categories]
) -> Recommender:
    """Build the recommender of a recipe with freshly initialised weights; ConfigError for impossible settings."""
    vectors = {
        f"{number}:{file.path.stem}": torch.from_numpy(file.read(split.items.ids, absent=feature.absent))
        for number, (file, feature) in enumerate(zip(files, recipe.features, strict=True))
    }
    facts = training_facts(split)
    generator = torch.Generator().manual_seed(recipe.seed)
    try:
        needed = recommenders()[recipe.model.name].uses_items
        items = build_items(recipe.items, len(split.items), vectors, generator, sides) if needed else None
        return build_recommender(recipe.model.name, recipe.model.settings, items, facts, generator)
    except ValueError as error:
        raise ConfigError(f"recipe {recipe.name!r}: {error}") from error


def resolve_device(name: str) -> torch.device:
    """Return the torch device for 'auto' (CUDA where there is one) or a name; ConfigError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try auto") from error
    return device


def run_recipe(recipe: Recipe, folder: Path, *, device: str = "auto", data: Data | None = None) -> dict[str, Any]:
    """Train and test a recipe in `folder`, or go on there, or return what a finished run recorded.

    Raises:
        ConfigError: the folder holds a run of other settings, or of data or features that have changed since.
    """
    place = resolve_device(device)
    finished = _previous(recipe, folder)
    data = data or load_data(recipe.data)
    split, files = data.split, open_features(recipe, data.split)
    sides = side_features(recipe.items.side, split, data.dataset)
    refuse_changes(folder, split, files, sides)
    if finished is not None:
        return finished
    model = build_model(recipe, split, files, sides)
    folder.mkdir(parents=True, exist_ok=True)
    begin_record(folder, recipe, split, files, sides)
    write_atomic(folder / "config.yaml", dump_yaml(recipe_to_dict(recipe)))
    with progress(f"train {recipe.name} seed {recipe.seed}") as advance:
        fitted = fit(
            model,
            split,
            recipe.train,
            seed=recipe.seed,
            run=folder,
            mask=recipe.evaluate.mask,
            device=place,
            resume=True,
            progress=lambda at: advance((at.epoch - 1) * at.steps + at.step, recipe.train.epochs * at.steps),
        )
    log = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in fitted.history)
    write_atomic(folder / "log.jsonl", log)
    result = _test(model, recipe, split, place)
    np.save(folder / "ranks.npy", result.ranks)
    metrics = {"test": _by_group(result), "valid": fitted.best, "candidates": result.candidates}
    finish_record(folder, fitted, model, place)
    write_atomic(folder / "metrics.json", json.dumps(metrics, indent=2))
    return metrics


def _previous(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    config, metrics = folder / "config.yaml", folder / "metrics.json"
    if not config.is_file() or not (metrics.is_file() or (folder / CHECKPOINT).is_file()):
        return None  # nothing, or a run that failed before its first epoch ended
    if parse_yaml(config.read_text(), str(config)) != recipe_to_dict(recipe):
        raise ConfigError(f"{folder} holds a run with other settings (see its config.yaml); choose another --out")
    return dict(json.loads(metrics.read_text())) if metrics.is_file() else None


def _test(model: Recommender, recipe: Recipe, split: Split, device: torch.device) -> Evaluation:
    options = recipe.evaluate
    return evaluate(
        model,
        split.test,
        split.train_counts,
        mask=options.mask,
        at=options.at,
        batch_size=options.batch_size,
        device=device,
    )


def _by_group(result: Evaluation) -> dict[str, Any]:
    return {
        "all": result.metrics,
        "warm": result.warm or {},
        "cold": result.cold or {},
        "users": {"all": result.n_users, "warm": result.n_warm, "cold": result.n_cold},
    }


def open_run(folder: Path, *, device: str = "cpu") -> Run:
    """Open a finished run; ConfigError when it is none, or when its dataset or features have changed since."""
    config = folder / "config.yaml"
    if not config.is_file() or not (folder / "metrics.json").is_file():
        raise ConfigError(f"{folder} is no finished run (no config.yaml or metrics.json); train a recipe first")
    recipe = build_recipe(parse_yaml(config.read_text(encoding="utf-8"), str(config)))
    data = load_data(recipe.data)
    files = open_features(recipe, data.split)
    sides = side_features(recipe.items.side, data.split, data.dataset)
    refuse_changes(folder, data.split, files, sides)
    model = build_model(recipe, data.split, files, sides)
    if any(parameter.requires_grad for parameter in model.parameters()):
        load_best(folder / CHECKPOINT, model)
    return Run(folder, recipe, data, model.to(resolve_device(device)).eval())


def run_train(recipe: Path, overrides: Sequence[str], out: Path | None, device: str, json: bool) -> None:
    """Command line `train`."""
    loaded = load_recipe(recipe, overrides)
    folder = out or Path("runs") / loaded.name
    done = (folder / "metrics.json").is_file()
    metrics = run_recipe(loaded, folder, device=device)
    if json:
        print_json(metrics)
        return
    say(f"{folder} was finished before; nothing to train" if done else f"trained {loaded.name}, run folder {folder}")
    print_metrics(loaded, metrics)


def run_evaluate(run: Path, mask: str | None, device: str, json: bool) -> None:
    """Command line `evaluate`."""
    opened = open_run(run, device=device)
    recipe = opened.recipe
    if mask:
        plain = recipe_to_dict(recipe)
        plain["evaluate"]["mask"] = mask
        recipe = build_recipe(plain)
    result = _test(opened.model, recipe, opened.data.split, resolve_device(device))
    metrics = {"test": _by_group(result), "candidates": result.candidates}
    if json:
        print_json(metrics)
    else:
        print_metrics(recipe, metrics)


def print_metrics(recipe: Recipe, metrics: dict[str, Any]) -> None:
    """Print test metrics as a table, warm and cold targets apart, the paper's number beside where there is one."""
    test = metrics["test"]
    names = [f"{metric}@{n}" for metric in ("HR", "NDCG") for n in recipe.evaluate.at]
    published = recipe.paper.metrics if recipe.paper else {}
    rows = []
    for name in names:
        cells = [test[group].get(name) for group in ("all", "warm", "cold")] + [published.get(name)]
        rows.append([name, *("-" if cell is None else f"{cell:.4f}" for cell in cells)])
    users = test["users"]
    note = f"{metrics['candidates']} candidates, seen items: {recipe.evaluate.mask}"
    columns = ["test", f"all ({users['all']})", f"warm ({users['warm']})", f"cold ({users['cold']})", "paper"]
    table(recipe.name, columns, rows, note=note)
