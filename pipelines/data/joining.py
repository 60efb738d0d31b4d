"""Which dataset something belongs to: feature files, joined by item ids, and folders of earlier exports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from features.errors import StoreError
from features.store import FeatureFile
from pipelines.console import note

LEAST_SHARE = 0.5  # a file made under another name must have rows for this share of the dataset's items


def refuse_foreign(file: FeatureFile, ids: Sequence[str], dataset: str) -> None:
    """Report how many items a feature file made under another dataset name has rows for.

    Args:
        file: the feature file.
        ids: item ids of the dataset.
        dataset: name of the dataset.

    Raises:
        StoreError: the file has rows for less than half of the items.
    """
    if file.provenance.dataset == dataset:
        return
    joined = int((file.rows(ids) >= 0).sum())
    told = f"{file.path} was made for dataset {file.provenance.dataset!r}; "
    told += f"it has rows for {joined} of the {len(ids)} items of {dataset!r}"
    if joined < LEAST_SHARE * len(ids):
        first = next((item for item, row in zip(ids, file.rows(ids).tolist(), strict=True) if row < 0), "")
        looks = f", whose ids look like {file.columns.ids[0]!r}, not {first!r}" if file.columns.ids else ""
        raise StoreError(f"{told}{looks}; give the features extracted from this dataset")
    note(f"{told}, joined by id")


def refuse_occupied(record: Path, dataset: str) -> None:
    """Raise StoreError unless a folder holds an earlier export of the same dataset.

    Args:
        record: the file in the folder that says, as JSON under 'dataset', what was exported.
        dataset: name of the dataset.
    """
    try:
        found = json.loads(record.read_text(encoding="utf-8"))["dataset"]
    except (OSError, ValueError, LookupError, TypeError):
        found = "unknown"
    if found != dataset:
        raise StoreError(
            f"{record.parent} holds dataset {found!r}, not {dataset!r}; choose another name, or `--overwrite` to "
            "replace it"
        )
