"""Checks, before a run trains, whether a feature file's rows were made from what the dataset holds now.

A feature file holds a hash of each title, and for each video or cover a mark (size and date) and a hash of its bytes.
Titles are always compared, media only if their folder exists. Where a mark differs in its date alone, the bytes decide,
unless too many would have to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from extract.media.catalog import Item
from extract.media.modality import Modality
from features.errors import ConfigError
from features.shards.marks import same_source, without_time
from features.store import FeatureFile, State
from pipelines.console import note
from pipelines.data.dataset import Dataset
from pipelines.recipe.file_origin import content_of
from pipelines.recipe.recipe import Recipe
from pipelines.runs.origin import used

READ_BYTES = 2**30  # of media with another date are read at most, to compare them; a laptop takes seconds
SHOWN = 3


@dataclass
class Compared:
    """Ids of the items in which a file's rows and a dataset differ."""

    changed: list[str] = field(default_factory=list)
    """Items whose source has changed."""
    gone: list[str] = field(default_factory=list)
    """Items whose source no longer exists."""
    new: list[str] = field(default_factory=list)
    """Items that have a source now and had none when the file was made."""
    unknown: list[str] = field(default_factory=list)
    """Items that could not be compared: another kind of place, or only the date differs and too much is to be read."""

    def words(self, what: str) -> str:
        """Return in words why rows are out of date, '' if none is; `what` is 'title', 'video' or 'cover'."""
        parts = {f"{what}s changed": self.changed, f"{what}s are gone": self.gone}
        return ", ".join(f"{len(ids)} {told} (first {_some(ids)})" for told, ids in parts.items() if ids)


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:SHOWN]))


def refuse_changed(recipe: Recipe, dataset: Dataset, ids: Sequence[str], files: Sequence[FeatureFile]) -> None:
    """Compare the files that a recipe's items are made from with the dataset, and say what was found.

    Args:
        recipe: its `features` say under `changed` what happens where sources have changed.
        dataset: the dataset as it is now.
        ids: the items that are read.
        files: the recipe's files, opened, in its order; for kind 'e2e' only those of pixels count.

    Raises:
        ConfigError: sources have changed or are gone, and the policy is 'error'.
    """
    chosen = used(recipe, files) or [file for file in files if content_of(file) == "pixels"]
    for number, (file, feature) in enumerate(zip(files, recipe.features, strict=False)):
        made = file.provenance.recipe
        what = made.get("modality", made.get("pixels", {}).get("media"))
        if file not in chosen or what not in ("title", "video", "cover") or not any(file.columns.stamps):
            continue
        if _away(dataset, what):
            note(f"{file.path}: the {what}s are not here, so it was not checked whether they have changed")
            continue
        found = compare(file, dataset, ids, what)
        if found.unknown:
            note(f"{file.path}: {len(found.unknown)} {what}s have another date or place; their bytes were not compared")
        if found.new:
            new = f"{len(found.new)} {what}s are new (first {_some(found.new)})"
            note(f"{file.path}: {new}; `extract` adds their rows")
        told = found.words(what)
        if told and feature.changed == "error":
            raise ConfigError(
                f"{file.path} was made from other {what}s than {dataset.name!r} holds: {told}; run the same `extract` "
                f"to make those rows again, or set features.{number}.changed=keep"
            )
        if told:
            note(f"{file.path}: {told}; used as it is (features.{number}.changed=keep)")


def _away(dataset: Dataset, what: str) -> bool:
    """Return whether a dataset has nothing to compare with: no titles at all, no folder of media."""
    return not {"title": dataset.titles, "video": dataset.videos, "cover": dataset.covers}[what]


def compare(file: FeatureFile, dataset: Dataset, ids: Sequence[str], what: Modality) -> Compared:
    """Compare the rows of `ids` with the titles, videos or covers of a dataset."""
    from extract.media.catalog import build_catalog, digest, stamp

    rows = {item: row for item, row in zip(ids, file.rows(ids).tolist(), strict=True) if row >= 0}
    videos, covers = (dataset.videos if what == "video" else None), (dataset.covers if what == "cover" else None)
    titles = dataset.titles if what == "title" else {}
    catalog = build_catalog(dataset.name, list(rows), videos=videos, covers=covers, titles=titles) if rows else None
    found = Compared()
    undecided: list[tuple[Item, int]] = []
    for item in catalog.items if catalog else ():
        row = rows[item.id]
        then, now = file.columns.stamps[row], stamp(item, what)
        if _kind(then) != _kind(now) and then and now:  # another kind of place, such as an LMDB, has other marks
            found.unknown.append(item.id)
        elif not now and then:
            found.gone.append(item.id)
        elif not then:
            if now and file.columns.states[row] != State.DONE:
                found.new.append(item.id)
        elif not same_source(then, now):
            same_size = what != "title" and without_time(then) == without_time(now)
            undecided.append((item, row)) if same_size else found.changed.append(item.id)
    if sum(int(without_time(file.columns.stamps[row]).partition(":")[2]) for _, row in undecided) > READ_BYTES:
        found.unknown += [item.id for item, _ in undecided]
        return found
    found.changed += [item.id for item, row in undecided if digest(item, what) != file.columns.digests[row]]
    return found


def _kind(mark: str) -> str:
    return mark.partition(":")[0]
