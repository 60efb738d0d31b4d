"""The feature files of a report: the doctor's verdict, what failed and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from features.errors import ConfigError
from features.inspect import Look, look
from features.store import FeatureFile, State
from pipelines.comparing.result_table import Row
from pipelines.recipe.file_origin import origin
from pipelines.reporting.offers import GONE, Datasets

LISTED = 20  # items without a vector that are named


@dataclass(frozen=True)
class Examined:
    """A feature file and what the doctor says of it."""

    name: str
    """What made the file."""
    file: FeatureFile
    """The file."""
    look: Look
    """Its figures."""
    reasons: list[tuple[str, str, int]]
    """State, reason and number of items, most frequent first, for items without a vector."""
    listed: list[tuple[str, str, str]]
    """Item, state and reason of the first of these items."""


def feature_paths(rows: Sequence[Row], datasets: Datasets, more: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the feature files of the rows' recipes and further ones, each once, and a line for each that is gone.

    Raises:
        ConfigError: one of `more` is no file.
    """
    found: dict[Path, None] = {}
    missing: dict[str, None] = {}
    for row in rows:
        for feature in datasets.recipe(row).features:
            try:
                found[feature.resolve()] = None
            except ConfigError as error:
                missing[f"feature file of {row.name}: {error}"] = None
    for path in more:
        if not path.is_file():
            raise ConfigError(f"--features {path} is no file; name feature files that `extract` or `import` made")
        found[path] = None
    once = {path.resolve(): path for path in reversed(found)}
    return [path for path in found if once[path.resolve()] is path], list(missing)


def examine(paths: Iterable[Path]) -> tuple[list[Examined], list[str]]:
    """Return what the doctor says of each file, and a line for each that cannot be read."""
    found: list[Examined] = []
    missing: list[str] = []
    for path in paths:
        try:
            file = FeatureFile(path)
            found.append(_examined(file))
        except GONE as error:
            missing.append(f"feature file: {error}")
    return found, missing


def _examined(file: FeatureFile) -> Examined:
    columns = file.columns
    bad = [
        (item, State(state).name.lower(), _general(reason, item))
        for item, state, reason in zip(columns.ids, columns.states.tolist(), columns.reasons, strict=True)
        if state != State.DONE
    ]
    counted = Counter((state, reason) for _, state, reason in bad)
    reasons = sorted(((*key, count) for key, count in counted.items()), key=lambda one: (-one[2], one[:2]))
    return Examined(origin(file).label, file, look(file), reasons, bad[:LISTED])


def _general(reason: str, item: str) -> str:
    """Return a reason without the item's own file name in front, so that equal reasons can be counted together."""
    head, colon, rest = reason.partition(": ")
    return rest if colon and (head == item or Path(head).stem == item) else reason
