"""Test results: as a run folder holds them, and as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import StoreError
from features.paths import write_advice
from features.provenance import file_sha256
from pipelines.console import explain, table, warn
from pipelines.data.split import Split
from pipelines.progress import clock
from pipelines.ranking.full_ranking import Evaluation
from pipelines.ranking.user_groups import BINS, group_metrics, history_groups, popularity_groups
from pipelines.recipe.published_data import withheld
from pipelines.recipe.recipe import Recipe

FAR, LITTLE = 5.0, 0.01  # the factor by which shares may differ, and the share below which they may be chance
MB = 10**6
TITLES = {"popularity": "training count of the target", "history": "items seen before"}


def as_metrics(
    result: Evaluation,
    split: Split,
    *,
    bins: int = BINS,
    popularity_edges: Sequence[int] = (),
    history_edges: Sequence[int] = (),
) -> dict[str, Any]:
    """Return a test's metrics as plain data: 'test' with its groups of users, 'candidates', the split and its 'sizes'.

    'dropped_users' counts users left out for too few interactions. 'read' names the dataset, with its counts before any
    filter. 'test' holds 'all', 'warm' and 'cold' (metric ->
    mean), 'users' (how many of each), 'groups' ('popularity' and 'history', as `group_metrics` returns them) and, if
    asked for, 'lists' (metrics of what is offered).
    """
    metrics = list(dict.fromkeys(name.partition("@")[0] for name in result.metrics))
    at = list(dict.fromkeys(int(name.partition("@")[2]) for name in result.metrics))
    groups = {
        "popularity": popularity_groups(split.test, split.train_counts, bins=bins, edges=popularity_edges),
        "history": history_groups(split.test, bins=bins, edges=history_edges),
    }
    test: dict[str, Any] = {
        "all": result.metrics,
        "warm": result.warm or {},
        "cold": result.cold or {},
        "users": {"all": result.n_users, "warm": result.n_warm, "cold": result.n_cold},
        "groups": {name: group_metrics(result.ranked, cut, metrics, at) for name, cut in groups.items()},
    }
    if result.catalog:
        test["lists"] = result.catalog
    if result.never_met:
        test["never_met"] = asdict(result.never_met)
    return {
        "test": test,
        "candidates": result.candidates,
        "sizes": split.sizes(),
        "dropped_users": split.dropped_users,
        "split": split.protocol,
        **({"split_told": split.told} if split.told else {}),
        "tested_on": split.tested_on(),
        "read": {"dataset": split.dataset, **split.read},
    }


def print_metrics(recipe: Recipe, metrics: Mapping[str, Any]) -> None:
    """Print test metrics as a table: all, warm and cold targets, and the paper's numbers where there are any."""
    test = metrics["test"]
    left_out = withheld(recipe, metrics)
    paper = None if left_out else recipe.paper
    published = paper.metrics if paper else {}
    names = sorted({**test["all"], **test.get("lists", {})}, key=lambda name: recipe_order(recipe, name))
    rows = []
    for name in names:
        values = [test[group].get(name) for group in ("all", "warm", "cold")] + [published.get(name)]
        values[0] = values[0] if values[0] is not None else test["lists"][name]
        values = values if paper else values[:-1]
        rows.append([name, *("-" if value is None else f"{value:.4f}" for value in values)])
    users = test["users"]
    columns = ["test", f"all ({users['all']})", f"warm ({users['warm']})", f"cold ({users['cold']})"]
    table(recipe.name, [*columns, *(["paper"] if paper else [])], rows)
    explain(protocol(recipe, metrics))
    if left_out:
        explain(f"the published numbers are left out: {left_out}")
    if found := test.get("never_met"):
        explain(never_met_in_words(found))
        if why := never_met_doubt(recipe, found):
            warn(why)


def course_in_words(record: Mapping[str, Any]) -> str:
    """Return how a run went, as far as its record.json tells: epochs, time, device and peak memory."""
    costs, parts = record.get("costs", {}), []
    if (epochs := record.get("epochs")) is not None:
        parts.append(f"best epoch {record['best_epoch']} of {epochs}" if epochs else "no epochs: nothing is trained")
    if (seconds := record.get("train_s")) is not None:
        spent = clock(seconds) if seconds >= 60 else f"{seconds:.1f} s"
        parts.append(f"{spent} of training and validation")
    if device := record.get("device"):
        parts.append(f"on {device}" + (f" in each of {n} processes" if (n := record.get("processes", 1)) > 1 else ""))
    if peak := costs.get("peak_memory_bytes"):
        parts.append(
            f"peak memory {peak / MB:.0f} MB" + ("" if costs["peak_memory_of"] == "run" else " of the process")
        )
    if gpu := costs.get("peak_gpu_memory_bytes"):
        parts.append(f"{gpu / MB:.0f} MB on the GPU")
    return ", ".join(parts)


def never_met_in_words(found: Mapping[str, float]) -> str:
    """Return in words how often never-met items are offered, and their share of the targets and candidates."""
    return (
        f"items in no training row: {found['offered']:.1%} of the places in lists of {found['at']}, "
        f"{found['targets']:.1%} of the targets, {found['candidates']:.1%} of the candidates"
    )


def never_met_doubt(recipe: Recipe, found: Mapping[str, float]) -> str:
    """Return why never-met items are offered far more or far less often than they are targets; '' if they are not.

    Items without content cannot be expected to be offered.
    """
    offered, targets = found["offered"], found["targets"]
    if offered > FAR * max(targets, LITTLE):
        drawn = getattr(recipe.model.settings, "cold_negatives", True)
        way = "set model.cold_negatives=true" if not drawn else "use a loss that draws them as negatives, such as 'bpr'"
        return (
            f"items in no training row are {offered:.1%} of what is offered, but {targets:.1%} of the targets: "
            f"nothing in training holds their scores down; {way}, or rank without them (data.candidates)"
        )
    if offered * FAR < targets and targets > LITTLE and recipe.items.kind != "id":
        return (
            f"items in no training row are {targets:.1%} of the targets, but only {offered:.1%} of what is offered: "
            "content does not raise their scores; if the loss draws negatives, try model.cold_negatives=false"
        )
    return ""


def recipe_order(recipe: Recipe, name: str) -> tuple[int, int]:
    """Return the sort key of a metric such as 'HR@10' in tables: first the recipe's order, then the list length."""
    metric, _, k = name.partition("@")
    order = recipe.evaluate.metrics
    return order.index(metric) if metric in order else len(order), int(k)


def protocol(recipe: Recipe, metrics: Mapping[str, Any]) -> str:
    """Return what the numbers were measured on: the split and its size, who was left out, candidates, seen items."""
    parts = [f"{metrics['candidates']} candidates", f"seen items: {recipe.evaluate.mask}"]
    if sizes := metrics.get("sizes"):
        parts.insert(0, f"{sizes['users']} users, {items_in_words(sizes)}, {sizes['interactions']} interactions")
    told = metrics.get("split_told", "")
    if dropped := metrics.get("dropped_users"):
        parts.append(f"{dropped} users left out" + ("" if told else " for too few interactions"))
    if told:
        parts.append(told)
    elif metrics.get("split") == "given":
        parts.append("the dataset's own split, only training items count as seen")
    return ", ".join(parts)


def items_in_words(sizes: Mapping[str, int]) -> str:
    """Return how many items occur in a split, and in its training part; earlier versions did not record the latter."""
    trained = sizes.get("trained_items")
    return f"{sizes['items']} items" + ("" if trained is None else f" ({trained} in training)")


def print_groups(recipe: Recipe, metrics: Mapping[str, Any]) -> None:
    """Print one table per way of grouping users."""
    for kind, groups in metrics["test"]["groups"].items():
        names = sorted(groups[0].keys() - {"group", "users"}, key=lambda name: recipe_order(recipe, name))
        rows = [[group["group"], str(group["users"]), *(f"{group[name]:.4f}" for name in names)] for group in groups]
        table(f"{recipe.name} by {TITLES[kind]}", [TITLES[kind], "users", *names], rows)


def save_ranks(folder: Path, result: Evaluation) -> dict[str, str]:
    """Write ranks.npy and, if there are any, rank_ties.npy, rank_offsets.npy and lists.npy; delete older ones.

    Returns:
        File name -> sha256, for metrics.json: `load_ranks` refuses ranks of another test.
    """
    arrays = {
        "ranks": result.ranks,
        "rank_ties": result.ties,
        "rank_offsets": result.offsets,
        "lists": result.lists,
    }
    try:
        for name, array in arrays.items():
            if array is not None:
                np.save(folder / f"{name}.npy", array)
            else:
                (folder / f"{name}.npy").unlink(missing_ok=True)
        return {
            f"{name}.npy": file_sha256(folder / f"{name}.npy") for name, array in arrays.items() if array is not None
        }
    except OSError as error:
        advice = write_advice(error, "free some disk space and try again")
        raise StoreError(f"cannot write the ranks in {folder} ({error}); {advice}") from error
