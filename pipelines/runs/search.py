"""Searches one recipe's hyper-parameters with Optuna (Akiba et al., KDD 2019), judged by the validation part alone.

Every trial is an ordinary run folder. A search that was stopped therefore goes on where it was, and a finished trial is
not trained again. Test metrics are shown only for the best trial, after it has been chosen.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from features.errors import ConfigError
from features.installation import install_extra
from pipelines.console import note, say
from pipelines.data.load import load_data
from pipelines.data.report import tell
from pipelines.recipe.axes import Space
from pipelines.recipe.recipe import load_recipe, recipe_to_dict
from pipelines.runs.experiment import run_recipe

Sampler = Literal["tpe", "random", "grid"]
MOST_SEED = 2**32 - 1  # the samplers' NumPy generator takes no larger one


@dataclass(frozen=True)
class Trial:
    """One setting that was tried."""

    settings: Mapping[str, Any]
    """The values that were tried: dotted key -> value."""
    run: Path
    """The trial's run folder."""
    value: float | None
    """The validation metric `train.monitor`; None if training failed."""
    error: str = ""
    """Why training failed; '' if it did not."""


def search(
    recipe: Path,
    overrides: Sequence[str],
    space: Space,
    trials: int,
    out: Path,
    *,
    sampler: Sampler = "tpe",
    seed: int = 0,
    device: str = "auto",
    report: Callable[[str], None] = say,
) -> list[Trial]:
    """Try settings of a recipe; return them, best first.

    Args:
        recipe: the recipe file.
        overrides: `key.path=value` settings of all trials.
        space: dotted key -> values to choose from.
        trials: how many different settings to try; fewer if the space has fewer.
        out: the folder for the run folders and trials.json.
        sampler: 'tpe' learns from earlier trials, 'random' does not, 'grid' goes through the space in order.
        seed: the sampler's seed; training uses the recipe's.
        device: see `run_recipe`.
        report: called with a line per trial.

    Raises:
        ConfigError: no trials, an unknown sampler, a seed it cannot take, keys the recipe does not know, or every
            trial failed.
    """
    if trials < 1:
        raise ConfigError(f"--trials is {trials}; a search needs at least 1")
    if not 0 <= seed <= MOST_SEED:
        raise ConfigError(f"--seed is {seed}; it must be from 0 to 2**32 - 1")
    base = load_recipe(recipe, overrides)  # also refuses a recipe that no trial could run
    done: list[Trial] = []
    cache: dict[Any, Any] = {}
    proposals = _proposals(space, sampler, seed, done)
    count = min(trials, math.prod(len(values) for values in space.values()))
    for settings in itertools.islice(proposals, count):
        told = f"trial {len(done) + 1} of {count}: {in_words(settings)}"
        trial = _try(recipe, [*overrides, *_as_overrides(settings)], settings, out, device, cache, told)
        done.append(trial)
        value = f"{base.train.monitor} {trial.value:.4f}" if trial.value is not None else f"failed: {trial.error}"
        report(f"trial {len(done)}: {in_words(settings)}: {value}")
    good = sorted((t for t in done if t.value is not None), key=lambda t: -(t.value or 0.0))
    if not good:
        raise ConfigError(f"all {len(done)} trials failed; the last one: {done[-1].error}")
    return good + [trial for trial in done if trial.value is None]


def _try(
    path: Path,
    overrides: Sequence[str],
    settings: Mapping[str, Any],
    out: Path,
    device: str,
    cache: dict[Any, Any],
    told: str,
) -> Trial:
    recipe = load_recipe(path, overrides)
    note(told)
    folder = out / f"{recipe.name}-{hashlib.sha256(json.dumps(recipe_to_dict(recipe)).encode()).hexdigest()[:12]}"
    if recipe.data not in cache:
        cache[recipe.data] = load_data(recipe.data)
        tell(cache[recipe.data].dataset, recipe.data, json=True)
    try:
        metrics = run_recipe(recipe, folder, device=device, data=cache[recipe.data])
    except ConfigError as error:  # such as a loss that is not finite at too high a learning rate
        return Trial(settings, folder, None, str(error))
    return Trial(settings, folder, float(metrics["valid"][recipe.train.monitor]))


def _proposals(space: Space, sampler: Sampler, seed: int, done: Sequence[Trial]) -> Iterator[dict[str, Any]]:
    """Yield different settings; `done` grows with each trial before the next is asked for."""
    if sampler not in get_args(Sampler):
        raise ConfigError(f"--sampler is {sampler!r}; known: {', '.join(get_args(Sampler))}")
    names = list(space)
    if sampler == "grid":
        yield from (dict(zip(names, values, strict=True)) for values in itertools.product(*space.values()))
        return
    optuna = _optuna()
    # Optuna chooses places in the lists, so that values of any type can be choices
    choices = {name: optuna.distributions.CategoricalDistribution(range(len(space[name]))) for name in names}
    kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study = optuna.create_study(direction="maximize", sampler=kinds[sampler](seed=seed))
    known: dict[tuple[int, ...], float | None] = {}
    while True:
        trial = study.ask(choices)
        places = tuple(trial.params[name] for name in names)
        if places not in known:
            yield {name: space[name][place] for name, place in zip(names, places, strict=True)}
            known[places] = done[-1].value
        value = known[places]
        study.tell(trial, value, state=None if value is not None else optuna.trial.TrialState.FAIL)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            f"a search needs Optuna; install it with `{install_extra('search')}`, or use --sampler grid"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _as_overrides(settings: Mapping[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def in_words(settings: Mapping[str, Any]) -> str:
    """Return settings as a person reads them."""
    return " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())


# MicroLens (arXiv 2309.15379), section 4: learning rate, width and batch size, searched for every model.
PAPER_GRID: Space = {
    "train.lr": (1e-5, 5e-5, 1e-4, 5e-4, 1e-3),
    "items.dim": (64, 128, 256, 512, 1024, 2048, 4096),
    "train.batch_size": (64, 128, 256, 512, 1024, 2048),
}
