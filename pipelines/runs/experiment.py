"""One recipe, one run folder: data, features, model, training, test, record. Finished runs are not made again.

A run folder holds config.yaml (every default written out), checkpoint.pt, metrics.json, ranks.npy (one test rank per
user; with several targets per user also rank_offsets.npy, where each user's start; where targets tie with other items
also rank_ties.npy, how many places each may take), lists.npy where the recipe asks for it, log.jsonl (one epoch per
line) and record.json (code version, seed, fingerprints, timings, peak memory).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from features.errors import ConfigError
from features.provenance import write_atomic
from features.store import FeatureFile
from models import build_recommender, recommenders
from models.shared.recommender import Recommender, TrainingFacts
from models.items.build import Categories, build_items
from models.shared.ranks import ALONE, Ranks
from pipelines.training.checkpoint import CHECKPOINT, load_best, remove_partial
from pipelines.recipe.recipe import Recipe, difference, dump_yaml, load_recipe, recipe_to_dict
from pipelines.console import note, print_json, progress, say
from pipelines.runs.costs import files_read, run_costs
from pipelines.data.dataset import Dataset, read_dataset
from pipelines.data.report import tell
from pipelines.data.side_features import side_features
from pipelines.data.split import DataConfig, Split, make_split
from pipelines.ranking.full_ranking import Evaluation, evaluate
from pipelines.towers.media import media_of
from pipelines.runs.memory import peaks, start_peaks
from pipelines.runs.processes import processes, refuse_recipe, share_model
from pipelines.runs.record import begin_record, finish_record, refuse_changes, refuse_other_encoders
from pipelines.runs.results import as_metrics, print_metrics, save_ranks
from pipelines.runs.run_files import finished_recipe, read_metrics, read_object, read_recipe
from pipelines.runs.stale_features import refuse_changed
from pipelines.data.joining import refuse_foreign
from pipelines.runs.kept_data import keep, kept_split, placed
from pipelines.runs.origin import refuse_origins, used
from pipelines.runs.warm_start import facts_of_start, refuse_start, start_folder, start_from
from pipelines.towers.open_towers import Media, Towers, open_towers
from pipelines.training.fit import fit
from pipelines.runs.frozen_vectors import read_vectors

DERIVED = ("index.faiss", "index.json", "ranks.npy", "rank_ties.npy", "rank_offsets.npy", "lists.npy", "log.jsonl")


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
    dataset = read_dataset(Path(config.folder), config.columns)
    extra: set[str] = set()
    if config.candidates == "catalog":
        from extract.media.catalog import media_ids

        known = {*dataset.interactions["item"].unique().to_list(), *dataset.titles}
        extra = media_ids(videos=dataset.videos, covers=dataset.covers, known=known)
    return Data(dataset, make_split(dataset, config, catalog_ids=extra))


def open_features(recipe: Recipe, split: Split) -> list[FeatureFile]:
    """Open the recipe's files, for 'e2e' none (pipelines/towers/media.py does); StoreError for a file of other items."""
    if recipe.items.kind == "e2e":
        return []
    files = [FeatureFile(feature.resolve()) for feature in recipe.features]
    for file in used(recipe, files):
        refuse_foreign(file, split.items.ids, split.dataset)
    refuse_origins(recipe, files)
    return files


def training_facts(split: Split) -> TrainingFacts:
    """Return what a recommender may know of a split."""
    counts, edges = torch.from_numpy(split.train_counts), torch.from_numpy(split.train_edges)
    return TrainingFacts(len(split.users), len(split.items), counts, edges)


def build_model(
    recipe: Recipe,
    split: Split,
    files: Sequence[FeatureFile],
    sides: Mapping[str, Categories],
    towers: Towers | None = None,
) -> Recommender:
    """Build the recommender of a recipe with freshly initialised weights; ConfigError for impossible settings."""
    vectors, present = read_vectors(recipe, split, files)
    encoders = towers.towers if towers else {}
    generator = torch.Generator().manual_seed(recipe.seed)
    try:
        items = None
        if recommenders()[recipe.model.name].uses_items:
            items = build_items(recipe.items, len(split.items), vectors, generator, sides, encoders, present)
        facts = training_facts(split)
        return build_recommender(recipe.model.name, recipe.model.settings, items, facts, generator)
    except ValueError as error:
        said = re.sub(r"\buser number (\d+)", lambda found: f"user {split.users.ids[int(found[1])]!r}", str(error))
        raise ConfigError(f"recipe {recipe.name!r}: {said}") from error


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


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "auto",
    data: Data | None = None,
    media: Media | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Train and test a recipe in `folder`, or go on there, or return what a finished run recorded.

    `data` is read, and `media`, which kind 'e2e' reads, are the dataset's titles and the recipe's pixels, if not given.
    Of several processes the first alone writes.

    Raises:
        ConfigError: the folder holds a run of other settings, or of data or features that have changed since.
    """
    refuse_recipe(recipe, ranks)
    place = resolve_device(device)
    own_peak = start_peaks(place)
    finished = _previous(recipe, folder)
    data = data or load_data(recipe.data)
    split, files = data.split, open_features(recipe, data.split)
    sides = side_features(recipe.items.side, split, data.dataset)
    refuse_changes(folder, split, files, sides)
    if finished is not None:
        return finished
    if ranks.first and files:
        refuse_changed(recipe, data.dataset, split.items.ids, files)
    elif ranks.first:  # kind 'e2e' opens its own, and files that it does not read need not be there
        there = replace(recipe, features=tuple(one for one in recipe.features if len(one.matches()) == 1))
        pixels = [FeatureFile(feature.resolve()) for feature in there.features]
        refuse_changed(there, data.dataset, split.items.ids, pixels)
    towers = _open_towers(recipe, data, files, folder, media)
    model = build_model(recipe, split, files, sides, towers)
    start = _start(model, recipe, folder, data)
    share_model(model, recipe, ranks)
    ranks.wait()  # until all have read the folder
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial(folder)
        (folder / "metrics.json").unlink(missing_ok=True)  # of fewer epochs, where the run goes on
        if not (folder / CHECKPOINT).is_file():  # a new run: what an older one left here is of other weights
            for name in DERIVED:
                (folder / name).unlink(missing_ok=True)
        begin_record(folder, recipe, split, files, sides, towers.facts, start)
        keep(folder, split)
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
            ranks=ranks,
        )
    result = evaluate_test(model, recipe, split, place)
    metrics = as_metrics(result, split) | {"valid": fitted.best}
    if ranks.first:
        log = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in fitted.history)
        write_atomic(folder / "log.jsonl", log)
        metrics["files"] = save_ranks(folder, result)
        costs = run_costs(fitted, model, files_read(recipe, files, towers.towers), peaks(place, own_peak))
        finish_record(folder, fitted, model, place, costs, ranks.world)
        write_atomic(folder / "metrics.json", json.dumps(metrics, indent=2))
    return metrics


def _start(model: Recommender, recipe: Recipe, folder: Path, data: Data) -> Mapping[str, Any] | None:
    """Give a new run the weights it starts from; return what the record says of them, also of a run that goes on."""
    source = start_folder(recipe, folder)
    if source is None or (folder / CHECKPOINT).is_file():
        return facts_of_start(folder)
    refuse_start(recipe, source)
    run = open_run(source, data=data)  # of the same section `data`, which was checked
    return start_from(model, recipe, run, open_features(run.recipe, data.split))


def _previous(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    config, metrics = folder / "config.yaml", folder / "metrics.json"
    if not config.is_file() or not (metrics.is_file() or (folder / CHECKPOINT).is_file()):
        return None  # nothing, or a run that failed before its first epoch ended
    before = read_recipe(folder)
    longer = _goes_on(before, recipe)
    if recipe_to_dict(before) != recipe_to_dict(recipe) and not longer:
        raise ConfigError(
            f"{folder} holds a run with other settings ({difference(before, recipe)}); choose another --out"
        )
    return read_metrics(folder) if metrics.is_file() and not longer else None


def _goes_on(before: Recipe, recipe: Recipe) -> bool:
    """Return whether a recipe is that of an earlier run with more epochs, or more patience, and nothing else."""
    old, new = before.train, recipe.train
    same = replace(recipe, train=replace(new, epochs=old.epochs, patience=old.patience))
    more = new.epochs > old.epochs or new.patience > old.patience
    return more and new.epochs >= old.epochs and new.patience >= old.patience and same == before


def _open_towers(recipe: Recipe, data: Data, files: Sequence[FeatureFile], folder: Path, media: Media | None) -> Towers:
    towers = open_towers(recipe, data.split, files, media or media_of(data.dataset, data.split, recipe.features))
    refuse_other_encoders(folder, towers.facts)
    return towers


def evaluate_test(model: Recommender, recipe: Recipe, split: Split, device: torch.device) -> Evaluation:
    """Rank a split's test targets as a recipe says."""
    options = recipe.evaluate
    return evaluate(
        model,
        split.test,
        split.train_counts,
        mask=options.mask,
        at=options.at,
        metrics=options.metrics,
        lists=options.lists,
        never_met_at=max(options.at),
        batch_size=options.batch_size,
        device=device,
    )


def open_run(
    folder: Path,
    *,
    device: str = "cpu",
    data: Data | None = None,
    media: Media | None = None,
    place: Path | None = None,
    new_interactions: bool = False,
) -> Run:
    """Open a finished run.

    Args:
        folder: the run folder.
        device: where the model goes.
        data: as for `run_recipe`.
        media: as for `run_recipe`.
        place: the dataset folder, where it is not the recipe's.
        new_interactions: open it also where the dataset has changed since, as of its training: the split of what is
            returned has the ids and edges that were trained on, and no targets.

    Raises:
        ConfigError: it is no finished run, or what it was made from has changed since.
    """
    recipe = placed(finished_recipe(folder), folder, place)
    data = data or load_data(recipe.data)
    if new_interactions:
        data = _as_trained(folder, data)
    files = open_features(recipe, data.split)
    sides = side_features(recipe.items.side, data.split, data.dataset)
    refuse_changes(folder, data.split, files, sides)
    towers = _open_towers(recipe, data, files, folder, media)
    model = build_model(recipe, data.split, files, sides, towers)
    if any(parameter.requires_grad for parameter in model.parameters()):
        load_best(folder / CHECKPOINT, model)
    return Run(folder, recipe, data, model.to(resolve_device(device)).eval())


def _as_trained(folder: Path, data: Data) -> Data:
    """Return the data with the split that a run was trained on, where the dataset has another one by now."""
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


def run_train(recipe: Path, overrides: Sequence[str], out: Path | None, device: str, json: bool) -> None:
    """Command line `train`."""
    with processes(device) as (ranks, place):
        loaded = load_recipe(recipe, overrides)
        folder = out or Path("runs") / loaded.name
        done = (folder / "metrics.json").is_file() and not _goes_on(read_recipe(folder), loaded)
        data = load_data(loaded.data)
        if ranks.first:
            tell(data.dataset, loaded.data, json=json)
        metrics = run_recipe(loaded, folder, device=place, data=data, ranks=ranks)
    if not ranks.first:
        return
    if json:
        print_json(metrics)
        return
    say(f"{folder} was finished before; nothing to train" if done else f"trained {loaded.name}, run folder {folder}")
    print_metrics(loaded, metrics)
