"""Verb `similar`: the items with the most similar features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.commands.options import COLUMNS, argument, json_option, option


@dataclass(frozen=True)
class Similar:
    """What `similar` is asked for."""

    file: Path = argument()
    """Feature file."""
    item: str = option()
    """Raw item id."""
    top: int = option(10)
    """How many items."""
    data: Path | None = option(None)
    """Dataset folder, to print titles."""
    columns: str | None = option(None, help=COLUMNS)
    json: bool = json_option()


REQUEST = Similar


def run(request: Similar) -> None:
    """Print the items whose vectors have the highest cosine with the item's."""
    from features.store import FeatureFile
    from pipelines.data.detection import read_dataset
    from pipelines.data.tables import parse_columns
    from pipelines.retrieval.retrieve import show_similar

    columns = parse_columns(request.columns)
    titles = read_dataset(request.data, columns).titles if request.data else None
    show_similar(FeatureFile(request.file), request.item, request.top, titles=titles, json=request.json)
