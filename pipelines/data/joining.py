"""Feature files belong to items, not to folders: a file joins a dataset by its ids, whatever the folder is called."""

from __future__ import annotations

from collections.abc import Sequence

from features.errors import StoreError
from features.store import FeatureFile
from pipelines.console import note

LEAST_SHARE = 0.5  # of a dataset's items that a file made under another name must have rows of


def refuse_foreign(file: FeatureFile, ids: Sequence[str], dataset: str) -> None:
    """Say how many items a file made under another name joins; StoreError where they are less than half.

    Args:
        file: of features.
        ids: the dataset's items.
        dataset: its name.
    """
    if file.provenance.dataset == dataset:
        return
    joined = int((file.rows(ids) >= 0).sum())
    told = f"{file.path} was made for dataset {file.provenance.dataset!r}; "
    told += f"it has rows of {joined} of the {len(ids)} items of {dataset!r}"
    if joined < LEAST_SHARE * len(ids):
        first = next((item for item, row in zip(ids, file.rows(ids).tolist(), strict=True) if row < 0), "")
        looks = f", whose ids look like {file.columns.ids[0]!r}, not {first!r}" if file.columns.ids else ""
        raise StoreError(f"{told}{looks}; give the features extracted from this dataset")
    note(f"{told}, joined by id")
