"""Makes one run folder from one recipe: data, features, model, training, test, record. Finished runs are kept.

A run folder holds:

- config.yaml: the recipe with every default written out.
- checkpoint.pt and log.jsonl: weights, and one line per epoch, written as soon as the epoch has ended.
- metrics.json: the results of the test, and the sha256 of the files that came with them.
- ranks.npy: the rank of each test target. rank_offsets.npy: where each user's ranks start, if users have several
  targets. rank_ties.npy: how many places each target may take, if targets tie with other items.
- lists.npy: what is offered to each test user, if the recipe asks for it.
- record.json: code version, seed, fingerprints, timings, peak memory.
- item_vectors.npy, user_vectors.npy, vectors.json: see pipelines/runs/kept/kept_vectors.py.
- users.json, items.json, training.npy, interactions.parquet, titles.parquet, dataset.json, users.txt, items.txt: see
  pipelines/runs/kept/kept_data.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from features.errors import ConfigError
from features.provenance import write_atomic
from features.store import FeatureFile
from models.items.towers import held_tables
from models.shared.process_group import ALONE, Ranks
from models.shared.recommender import Recommender
from pipelines.console import note
from pipelines.data.load import Data
from pipelines.data.split import Split
from pipelines.device import explain_missing_kernels, resolve_device, tf32, why_device
from pipelines.ranking.full_ranking import Evaluation, evaluate
from pipelines.recipe.recipe import Recipe, build_recipe, difference, recipe_to_dict
from pipelines.recipe.yaml_text import dump_yaml
from pipelines.runs.costs import files_read, run_costs
from pipelines.runs.inputs import Inputs, build, open_features, read_inputs
from pipelines.runs.kept.kept_data import ITEM_ROWS, USER_ROWS, keep, write_row_ids
from pipelines.runs.kept.kept_vectors import ITEM_VECTORS, USER_VECTORS, forget_vectors, item_vectors, keep_vectors
from pipelines.runs.memory import peaks, start_peaks
from pipelines.runs.processes import refuse_recipe, share_model
from pipelines.runs.record import begin_record, finish_record
from pipelines.runs.results import as_metrics, save_ranks
from pipelines.runs.run import open_run
from pipelines.runs.run_files import read_metrics, read_recipe
from pipelines.runs.stale_features import refuse_changed
from pipelines.runs.warm_start import facts_of_start, refuse_start, start_folder, start_from
from pipelines.towers.open_towers import Media
from pipelines.training.checkpoint import CHECKPOINT, remove_partial
from pipelines.training.epoch_log import LOG, EpochLog
from pipelines.training.fit import fit
from pipelines.training.watch import watching

RANKS = ("ranks.npy", "rank_ties.npy", "rank_offsets.npy", "lists.npy")
DERIVED = ("index.faiss", "index.json", ITEM_VECTORS, USER_VECTORS, *RANKS, USER_ROWS, ITEM_ROWS, LOG)


@explain_missing_kernels
def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "auto",
    data: Data | None = None,
    media: Media | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Train and test a recipe in `folder`, resume an unfinished run there, or return what a finished one recorded.

    `data` is read if not given. `media` is what kind 'e2e' reads: by default the dataset's titles and the recipe's
    pixels. Of several processes, only the first writes.

    Raises:
        ConfigError: the folder holds a run with other settings, or its data or features have changed since.
    """
    refuse_recipe(recipe, ranks)
    place = resolve_device(device)
    own_peak = start_peaks(place)
    finished = _previous(recipe, folder)
    inputs = read_inputs(recipe, folder, data)
    data, files = inputs.data, inputs.files
    split = data.split
    if finished is not None:
        return finished
    if ranks.first:
        _refuse_stale(recipe, inputs)
    tell_device(device, place)
    model, towers = build(recipe, inputs, folder, media)
    start = _start(model, recipe, folder, data)
    share_model(model, recipe, ranks)
    ranks.wait()  # until all processes have read the folder
    if ranks.first:
        _clear(folder)
        begin_record(folder, recipe, split, files, inputs.sides, towers.facts, start)
        keep(folder, data, recipe.data)
        write_atomic(folder / "config.yaml", dump_yaml(recipe_to_dict(recipe)))
    log = EpochLog(folder if ranks.first else None)
    with watching(f"train {recipe.name} seed {recipe.seed}", recipe.train, log.hear) as watch:
        fitted = fit(
            model,
            split,
            recipe.train,
            seed=recipe.seed,
            run=folder,
            mask=recipe.evaluate.mask,
            device=place,
            resume=True,
            progress=watch,
            ranks=ranks,
        )
    model.eval()
    with tf32(False), held_tables(model):  # encoders run once over all items, for the test and for what is kept
        result = evaluate_test(model, recipe, split, place)
        vectors = item_vectors(model)
    metrics = as_metrics(result, split) | {"valid": fitted.best}
    log.write(fitted.history)  # whole also where nothing was left to train
    if ranks.first:
        keep_vectors(folder, model, vectors, len(split.users))
        metrics["files"] = save_ranks(folder, result) | write_row_ids(folder, split)
        costs = run_costs(fitted, model, files_read(recipe, files, towers.towers), peaks(place, own_peak))
        finish_record(folder, fitted, model, place, costs, ranks.world, device)
        write_atomic(folder / "metrics.json", json.dumps(metrics, indent=2))
    return metrics


@cache
def tell_device(asked: str, device: torch.device) -> None:
    """Say once in a process which device 'auto' gave, and why."""
    if asked == "auto":
        note(why_device(asked, device))


def _refuse_stale(recipe: Recipe, inputs: Inputs) -> None:
    """Raise ConfigError where the media or titles behind feature files have changed since."""
    files = inputs.files
    if not files:  # kind 'e2e' opens its own files; those that it does not read may be missing
        recipe = replace(recipe, features=tuple(one for one in recipe.features if len(one.matches()) == 1))
        files = [FeatureFile(feature.resolve()) for feature in recipe.features]
    refuse_changed(recipe, inputs.data.dataset, inputs.data.split.items.ids, files)


def _clear(folder: Path) -> None:
    """Make a run folder, or remove what an earlier training left that this one makes anew."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    forget_vectors(folder)
    (folder / "metrics.json").unlink(missing_ok=True)  # a run that goes on has one of fewer epochs
    if not (folder / CHECKPOINT).is_file():  # a new run: files of an older one belong to other weights
        for name in DERIVED:
            (folder / name).unlink(missing_ok=True)


def _start(model: Recommender, recipe: Recipe, folder: Path, data: Data) -> Mapping[str, Any] | None:
    """Give a new run the weights it starts from; return what its record says about them, also for a resumed run."""
    source = start_folder(recipe, folder)
    if source is None or (folder / CHECKPOINT).is_file():
        return facts_of_start(folder)
    refuse_start(recipe, source)
    run = open_run(source, data=data)  # `refuse_start` has checked that both recipes have the same section `data`
    return start_from(model, recipe, run, open_features(run.recipe, data.split))


def _previous(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    config, metrics = folder / "config.yaml", folder / "metrics.json"
    if not config.is_file() or not (metrics.is_file() or (folder / CHECKPOINT).is_file()):
        return None  # nothing, or a run that failed before its first epoch ended
    before = read_recipe(folder)
    longer = goes_on(before, recipe)
    if recipe_to_dict(before) != recipe_to_dict(recipe) and not longer:
        raise ConfigError(
            f"{folder} holds a run with other settings ({difference(before, recipe)}); choose another --out"
        )
    return read_metrics(folder) if metrics.is_file() and not longer else None


def goes_on(before: Recipe, recipe: Recipe) -> bool:
    """Return whether a recipe differs from that of an earlier run only by more epochs or more patience."""
    old, new = before.train, recipe.train
    same = replace(recipe, train=replace(new, epochs=old.epochs, patience=old.patience))
    more = new.epochs > old.epochs or new.patience > old.patience
    return more and new.epochs >= old.epochs and new.patience >= old.patience and same == before


def evaluated_as(
    recipe: Recipe, *, at: Sequence[int] | None, metrics: Sequence[str] | None, mask: str | None
) -> Recipe:
    """Return a recipe with other options of `evaluate`, where None keeps its own; ConfigError for impossible ones."""
    plain = recipe_to_dict(recipe)
    asked = {"at": None if at is None else list(at), "metrics": None if metrics is None else list(metrics)}
    plain["evaluate"] |= {name: value for name, value in (asked | {"mask": mask}).items() if value is not None}
    return build_recipe(plain)


@explain_missing_kernels
def evaluate_test(model: Recommender, recipe: Recipe, split: Split, device: torch.device) -> Evaluation:
    """Rank a split's test targets with the options of a recipe."""
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
