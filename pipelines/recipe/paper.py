"""The section `paper` of a recipe: the published result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from features.errors import ConfigError


@dataclass(frozen=True)
class PaperResult:
    """The section `paper`: numbers published for this experiment, printed beside ours."""

    source: str
    """Paper and table."""
    metrics: Mapping[str, float]
    """Metric name such as 'HR@10' -> published value, as a share (0.0496, not 4.96)."""
    note: str = ""
    """A note for whoever compares."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse values that are not shares."""
        for name, value in self.metrics.items():
            if not 0 <= value <= 1:
                share = value / 100 if 1 < value <= 100 else 0.0496
                raise ConfigError(f"paper.metrics.{name} is {value:g}; give a share, such as {share:.4g}")
