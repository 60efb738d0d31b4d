"""Vocabularies map raw ids to dense indices. A raw id is a string exactly as in the data; '00017' stays '00017'."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.errors import ConfigError, nearest


@dataclass(frozen=True)
class Vocabulary:
    """A frozen bijection between n raw ids and the dense indices 0..n-1."""

    ids: tuple[str, ...]
    """Raw ids; the position of an id is its dense index."""
    what: str
    """What the ids are of, 'user' or 'item', for error messages."""

    def __post_init__(self) -> None:
        """Refuse a repeated id."""
        if len(self._index) != len(self.ids):
            twice = next(item for row, item in enumerate(self.ids) if self._index[item] != row)
            raise ConfigError(f"{self.what} id {twice!r} occurs twice; ids must be unique")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.ids)}

    def index(self, raw: str) -> int:
        """Return the dense index of one raw id; ConfigError with the nearest id if it is unknown."""
        if raw not in self._index:
            close = nearest(raw, self.ids[:2000]).split("Known:")[0]
            raise ConfigError(f"unknown {self.what} {raw!r} among {len(self)}; {close}ids look like {self.ids[0]!r}")
        return self._index[raw]

    def numbers(self, raw: Iterable[str]) -> NDArray[np.int64]:
        """Return the dense indices of raw ids, (n,); -1 for those that are unknown."""
        return np.fromiter((self._index.get(item, -1) for item in raw), np.int64)

    def known(self, raw: Iterable[str]) -> list[int]:
        """Return the dense indices of the raw ids that are known, in order."""
        return [self._index[item] for item in raw if item in self._index]
