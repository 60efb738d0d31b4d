"""Published arrays into feature files of a dataset, with the check that their ids are the dataset's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from features.convert import ROW, ROW_PLUS_ONE, import_features
from features.errors import ConfigError
from features.store import FeatureFile
from pipelines.console import warn
from pipelines.data.dataset import Dataset


def import_for(
    dataset: Dataset, source: Path, out: Path, *, ids: str | None, name: str, dtype: str, keep_unmatched: bool
) -> FeatureFile:
    """Import an array as `features.convert.import_features` does, and warn of ids that do not match the dataset's.

    Args:
        dataset: what the features are for.
        source: the published array.
        out: folder for the feature file.
        ids: how its rows are named: 'row', 'row+1', or a file of ids; None where the source holds them.
        name: what the features are.
        dtype: type on disk.
        keep_unmatched: import it although ids do not match.

    Raises:
        ConfigError: ids that the dataset does not know; where rows are counted, also items without a row.
    """
    by_number, doubts = ids in (ROW, ROW_PLUS_ONE), list[str]()

    def check(items: Sequence[str]) -> None:
        foreign, absent = _foreign(items, dataset), _absent(items, dataset)
        told = "; ".join(filter(None, [foreign, absent]))
        # Where rows count the items, one more or less means that all of them may have moved. A list of ids of its own
        # may leave out what has no cover.
        if not keep_unmatched and (foreign or (absent and by_number)):
            raise ConfigError(
                f"{source}: {told}; is {f'--ids {ids}' if ids else 'the source'} right? Nothing is imported; "
                "--unmatched keep imports it all the same"
            )
        doubts.extend([f"{source}: {told}"] if told else [])

    file = import_features(source, out, dataset=dataset.name, ids=ids, name=name, dtype=dtype, check=check)
    for doubt in doubts:
        warn(doubt)
    return file


def _foreign(ids: Sequence[str], dataset: Dataset) -> str:
    """Return how many ids a dataset does not know, or ''; one of media alone is not asked."""
    known = {*dataset.interactions["item"].unique().to_list(), *dataset.titles, *dataset.catalog}
    strange = [item for item in ids if item not in known] if known else []
    if not strange:
        return ""
    return (
        f"{len(strange)} of {len(ids)} ids have neither interactions nor a title in {dataset.name!r}, "
        f"first {strange[0]!r}"
    )


def _absent(ids: Sequence[str], dataset: Dataset) -> str:
    """Return how many items of a dataset are not among the ids, or ''."""
    items = set(dataset.interactions["item"].unique().to_list()) or set(dataset.titles)
    without = sorted(items - set(ids))
    if not without:
        return ""
    return f"{len(without)} of the {len(items)} items of {dataset.name!r} are not among the ids, first {without[0]!r}"
