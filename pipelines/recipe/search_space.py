"""Which settings a search may choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from features.errors import ConfigError
from pipelines.recipe.recipe import parse_yaml

Space = Mapping[str, tuple[Any, ...]]
Sampler = Literal["tpe", "random", "grid"]

# MicroLens (arXiv 2309.15379), section 4: learning rate, width and batch size, searched for every model.
PAPER_GRID: Space = {
    "train.lr": (1e-5, 5e-5, 1e-4, 5e-4, 1e-3),
    "items.dim": (64, 128, 256, 512, 1024, 2048, 4096),
    "train.batch_size": (64, 128, 256, 512, 1024, 2048),
}


def parse_space(words: Sequence[str], what: str = "space") -> Space:
    """Read `key.path=value,value,...` words; values are YAML, so `1e-4`, `true` and `in-batch` are what they look like.

    `what` the words are called in messages.

    Raises:
        ConfigError: a word of another form, a key twice, or no values.
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
