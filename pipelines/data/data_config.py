"""The section `data` of a recipe: which dataset to read and how to split it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, ClassVar, Literal

from features.errors import ConfigError
from pipelines.data.tables import Columns

SplitName = Literal["auto", "leave-one-out", "given", "column", "time", "ratio", "user-folds"]
CUTS = ("valid_from", "test_from")
DEFAULT_SHARE = 0.1  # of validation and of test
DEFAULT_FOLDS = 5
FEWEST = {"time": 1, "column": 1, "user-folds": 2}  # least `min_interactions`; 3 for the others
# Which splits an option is for; anywhere else it is refused instead of being ignored.
ONLY_FOR: dict[str, tuple[str, ...]] = {
    "valid_share": ("time", "ratio"),
    "test_share": ("time", "ratio", "user-folds"),
    "valid_from": ("time",),
    "test_from": ("time",),
    "order": ("ratio",),
    "folds": ("user-folds",),
    "fold": ("user-folds",),
    "split_seed": ("ratio", "user-folds"),
}


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
    split: SplitName = "auto"
    """'given' uses the split that came with the dataset (MMRec's x_label, or a file per part). 'column' uses the
    table's column of train, valid and test. 'time' cuts all interactions at two times, 'ratio' each user's by shares.
    'user-folds' holds whole users out. 'auto' uses a given split if there is one, else leave-one-out.
    docs/evaluation.md has their rules, and which of these options apply to them."""
    valid_share: float | None = None
    """Share of validation, in (0, 1); null is 0.1. In 'time' a share of all interactions, in 'ratio' of each user's."""
    test_share: float | None = None
    """Share of test, as `valid_share`. In 'user-folds' the newest share of a held-out user's interactions, which are
    its targets; null there makes its last one the only target."""
    valid_from: int | float | str | None = None
    """In 'time', instead of shares: when validation begins, as the table has times, or as a date (ISO 8601)."""
    test_from: int | float | str | None = None
    """In 'time', instead of shares: when test begins."""
    order: Literal["time", "random"] | None = None
    """In 'ratio': whether a user's newest interactions are held out (null is 'time') or any of them."""
    folds: int | None = None
    """In 'user-folds': how many folds of users there are, at least 3; null is 5."""
    fold: int | None = None
    """In 'user-folds': the fold that tests, counted from 0 (null); the next one validates, the others train."""
    split_seed: int | None = None
    """The seed for 'user-folds' and for 'ratio' in random order; null is 0."""
    repeats: Literal["keep", "first", "last"] = "keep"
    """What happens when a user meets an item several times: 'keep' keeps all rows, 'first' and 'last' keep one. This
    comes before every other filter. It does not apply to a given split."""
    columns: Columns = field(default_factory=Columns)
    """The meaning of table columns whose names do not say it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse lengths that leave nothing to train or test on, and filters that contradict each other."""
        least = FEWEST.get(self.split, 3)
        if self.min_interactions < least:
            split = self.split if self.split in (*FEWEST, "ratio") else "leave-one-out"
            raise ConfigError(f"data.min_interactions is {self.min_interactions}; {split} needs at least {least}")
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
        check_split(self)


def dates_as_text(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain data of the section with unquoted dates, which YAML reads as such, as text again."""
    dates = {name: value.isoformat() for name in CUTS if isinstance(value := values.get(name), date)}
    return {**values, **dates}


def check_split(config: DataConfig) -> None:
    """Raise ConfigError for options of another split, and for shares, cuts and folds that leave a part empty."""
    for name, splits in ONLY_FOR.items():
        if getattr(config, name) is not None and config.split not in splits:
            raise ConfigError(
                f"data.{name} is {getattr(config, name)!r}, but data.split is {config.split!r}; it is for "
                f"{' and '.join(repr(split) for split in splits)}: set data.split, or leave it out"
            )
    _check_shares(config)
    _check_cuts(config)
    if config.split_seed is not None and not 0 <= config.split_seed < 2**63:
        raise ConfigError(f"data.split_seed is {config.split_seed}; it must be from 0 to 2**63 - 1")
    if config.split == "ratio" and config.split_seed is not None and config.order != "random":
        raise ConfigError(f"data.split_seed is {config.split_seed}, but nothing is drawn; set data.order=random, too")
    if config.folds is not None and config.folds < 3:
        raise ConfigError(f"data.folds is {config.folds}; at least 3 are needed: one tests, one validates, one trains")
    folds = config.folds if config.folds is not None else DEFAULT_FOLDS
    if config.fold is not None and not 0 <= config.fold < folds:
        raise ConfigError(f"data.fold is {config.fold}; with data.folds={folds} it must be from 0 to {folds - 1}")


def _check_shares(config: DataConfig) -> None:
    shares = {name: getattr(config, name) for name in ("valid_share", "test_share")}
    for name, share in shares.items():
        if share is not None and not 0 < share < 1:
            raise ConfigError(f"data.{name} is {share}; it must be above 0 and below 1, such as {DEFAULT_SHARE}")
    both = [DEFAULT_SHARE if share is None else share for share in shares.values()]
    if config.split in ("time", "ratio") and sum(both) >= 1:
        raise ConfigError(
            f"data.valid_share ({both[0]}) and data.test_share ({both[1]}) leave nothing to train on; lower one"
        )


def _check_cuts(config: DataConfig) -> None:
    cuts = (config.valid_from, config.test_from)
    if cuts == (None, None):
        return
    if None in cuts:
        lacking, given = ("valid_from", "test_from") if cuts[0] is None else ("test_from", "valid_from")
        raise ConfigError(f"data.{given} is {getattr(config, given)!r}, but data.{lacking} is missing; give both")
    if config.valid_share is not None or config.test_share is not None:
        raise ConfigError("data.valid_from and data.test_from cut at times, and data.*_share by shares; give one pair")
