"""Variations of a recipe over several values of some keys: `compare RECIPE --axis items.kind=v,top items.dim=32,64`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from features.errors import ConfigError
from models.shared.representation import CONTENT, TOWERS
from pipelines.recipe.recipe import Recipe
from pipelines.recipe.yaml_text import parse_yaml

Space = Mapping[str, tuple[Any, ...]]  # dotted key -> values

NAMES = {"top_blocks": "T"}  # short names of keys in the name of a row; other keys use their last word
CONTENT_OR_ENCODER = (*CONTENT, *TOWERS)
# Settings of items that only some kinds use (models/shared/representation.py). Every kind uses the others.
READ_BY: Mapping[str, Sequence[str]] = {
    "normalise": CONTENT_OR_ENCODER,
    "layers": ("dnn",),
    "dropout": ("dnn",),
    "hidden": ("dnn", "adapter"),
    "mix": ("v", "dnn", "id+v"),
    "inter": ("adapter",),
    "bn_mode": ("e2e",),
    **dict.fromkeys(
        (
            "encoder",
            "top_blocks",
            "encoder_lr",
            "encoder_dropout",
            "weights",
            "encoder_seed",
            "frames",
            "checkpointing",
            "micro_batch",
        ),
        TOWERS,
    ),
}


def parse_space(words: Sequence[str], what: str = "space") -> Space:
    """Read words `key.path=value,value,...`; values are YAML, so `1e-4` is a number and `in-batch` is text.

    Args:
        words: the words, one per key.
        what: what to call the words in messages.

    Raises:
        ConfigError: a word has another form or no values, or a key occurs twice.
    """
    space: dict[str, tuple[Any, ...]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        values = tuple(parse_yaml(part, f"{what} {word!r}") for part in text.split(",") if part.strip())
        if not equals or not key or not values:
            raise ConfigError(f"{what} {word!r} is not of the form key.path=value,value, such as train.lr=1e-4,1e-3")
        if key in space:
            raise ConfigError(f"{what} names {key!r} twice; put all its values into one word")
        space[key] = values
    return space


def parse_axes(words: Sequence[str]) -> Space:
    """Read the words of `--axis`, as `parse_space` does."""
    return parse_space(words, "--axis")


def vary(base: Recipe, load: Callable[[Sequence[str]], Recipe], axes: Space) -> list[Recipe]:
    """Return a recipe for every combination of values, named after the values, such as `name[kind=top,T=2]`.

    A row leaves out the keys that its kind does not use: `items.kind=v,top` and `items.top_blocks=1,2` make three rows.
    Only the row that equals the unchanged recipe keeps its published numbers.

    Args:
        base: the unchanged recipe.
        load: loads the recipe with `key=value` overrides.
        axes: dotted key -> values.

    Raises:
        ConfigError: no row uses one of the keys, or whatever `load` raises.
    """
    rows: list[Recipe] = []
    used: set[str] = set()
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        kind = str(chosen.get("items.kind", base.items.kind))
        chosen = {key: value for key, value in chosen.items() if _reads(kind, key)}
        used |= set(chosen)
        row = load([f"{key}={json.dumps(value)}" for key, value in chosen.items()])
        paper = base.paper if replace(row, name=base.name) == base else None
        row = replace(row, name=_name(base.name, chosen), paper=paper)
        if row not in rows:
            rows.append(row)
    unread = next((key for key in axes if key not in used), None)
    if unread is not None:
        kinds = READ_BY.get(unread.removeprefix("items."), CONTENT_OR_ENCODER)
        raise ConfigError(
            f"--axis {unread}: recipe {base.name!r} has items.kind {base.items.kind!r}, but only items of kind "
            f"{', '.join(kinds)} use it; leave it out, or add items.kind={kinds[0]}"
        )
    return rows


def _reads(kind: str, key: str) -> bool:
    section, _, name = key.partition(".")
    if section == "features":
        return kind in CONTENT_OR_ENCODER
    return section != "items" or kind in READ_BY.get(name, (kind,))


def _name(name: str, chosen: Mapping[str, Any]) -> str:
    if not chosen:
        return name
    last = {key: key.rpartition(".")[2] for key in chosen}
    return f"{name}[{','.join(f'{NAMES.get(last[key], last[key])}={_word(value)}' for key, value in chosen.items())}]"


def _word(value: Any) -> str:
    """Return a value as text; a path becomes its last part, because the name of a row names a folder."""
    return re.split(r"[/\\]", value)[-1] if isinstance(value, str) else json.dumps(value)
