"""The section `data` of a recipe: how a dataset folder becomes a split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from features.errors import ConfigError
from pipelines.data.tables import Columns


@dataclass(frozen=True)
class DataConfig:
    """How a dataset folder becomes a split. The defaults are MicroLens's protocol (arXiv 2309.15379, section 3)."""

    folder: str
    """The dataset folder."""
    keep_last: int | None = 13
    """Interactions kept per user, the newest ones; null keeps all. MicroLens keeps 13."""
    max_length: int = 10
    """L, the longest history a model sees. MicroLens: 10."""
    min_interactions: int = 3
    """Users with fewer are short (at least 3: one each to train, validate and test on)."""
    short_users: Literal["drop", "error"] = "drop"
    """'drop' leaves short users out and counts them, 'error' stops."""
    candidates: Literal["interactions", "kept", "catalog"] = "interactions"
    """What is ranked: 'interactions' every item of the interactions file, 'kept' only items left after `keep_last`
    (MicroLens's code), 'catalog' also items that only have a title or media."""
    min_item_interactions: int = 0
    """k of the warm-k subsets (MicroLens, Table 8): items with fewer interactions in the whole file, before
    `keep_last`, are removed, then users who are short without them; 0 = no such filter."""
    item_filter: Literal["once", "iterate"] = "once"
    """'once' removes items and then users; 'iterate' goes on until both bounds hold for what is left."""
    split: Literal["auto", "leave-one-out", "given"] = "auto"
    """'given' takes the split that came with the dataset (MMRec's x_label), where only `max_length` of the options
    above has a meaning; 'auto' takes it where there is one, and makes leave-one-out elsewhere."""
    repeats: Literal["keep", "first", "last"] = "keep"
    """What becomes of rows that pair a user with an item again: 'keep' keeps all, 'first' and 'last' keep one of them;
    before all else, and not for a given split."""
    columns: Columns = field(default_factory=Columns)
    """Which columns of the folder's tables mean what, where their names do not say so."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse lengths that leave nothing to train or test on."""
        if self.min_interactions < 3:
            raise ConfigError(f"data.min_interactions is {self.min_interactions}; leave-one-out needs at least 3")
        if self.max_length < 1:
            raise ConfigError(f"data.max_length is {self.max_length}; a model needs at least 1 item of history")
        if self.keep_last is not None and self.keep_last < 3:
            raise ConfigError(f"data.keep_last is {self.keep_last}; keep at least 3 interactions per user, or null")
        if self.min_item_interactions < 0:
            raise ConfigError(f"data.min_item_interactions is {self.min_item_interactions}; it must be at least 0")
        if self.min_item_interactions and self.candidates == "catalog":
            raise ConfigError(
                f"data.candidates is 'catalog', but items without interactions have fewer than "
                f"data.min_item_interactions={self.min_item_interactions}; use 'interactions' or 'kept'"
            )
