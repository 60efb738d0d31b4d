"""The section `data` of a recipe: which dataset to read and how to split it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from features.errors import ConfigError
from pipelines.data.tables import Columns


@dataclass(frozen=True)
class DataConfig:
    """Settings for reading and splitting a dataset. Defaults follow MicroLens (arXiv 2309.15379, section 3)."""

    folder: str
    """The dataset folder."""
    keep_last: int | None = 13
    """How many of each user's newest interactions are kept; null keeps all. MicroLens keeps 13."""
    max_length: int = 10
    """L, the longest history that a model sees. MicroLens uses 10."""
    min_interactions: int = 3
    """Users with fewer interactions count as short. At least 3: one each for training, validation and test."""
    short_users: Literal["drop", "error"] = "drop"
    """What happens to short users: 'drop' leaves them out and counts them, 'error' stops."""
    candidates: Literal["interactions", "kept", "catalog"] = "interactions"
    """Which items are ranked. 'interactions': every item of the interactions file. 'kept': only items left after
    `keep_last`, as in MicroLens's code. 'catalog': also items that only have a title or media."""
    min_item_interactions: int = 0
    """The k of warm-k subsets (MicroLens, Table 8). Items with fewer interactions are removed, then users who have
    become short. All interactions of the file count, before `keep_last`. 0 = no such filter."""
    item_filter: Literal["once", "iterate"] = "once"
    """'once' removes items, then users; 'iterate' repeats both until every item and user left meets its bound."""
    split: Literal["auto", "leave-one-out", "given"] = "auto"
    """'given' uses the split that came with the dataset (MMRec's x_label); of the options above only `max_length`
    applies to it. 'auto' uses a given split if there is one, else leave-one-out."""
    repeats: Literal["keep", "first", "last"] = "keep"
    """What happens when a user meets an item several times: 'keep' keeps all rows, 'first' and 'last' keep one. This
    comes before every other filter. It does not apply to a given split."""
    columns: Columns = field(default_factory=Columns)
    """The meaning of table columns whose names do not say it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse lengths that leave nothing to train or test on, and filters that contradict each other."""
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
