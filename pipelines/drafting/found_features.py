"""Feature files of a dataset: looked for where they usually lie, and checked by dataset name and item ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from features.errors import ConfigError, StoreError
from features.store import FeatureFile
from pipelines.data.joining import LEAST_SHARE
from pipelines.recipe.file_origin import CLEAN, Origin, origin

ARRAYS = (".npy", ".safetensors")
OTHER_KINDS = {
    "layers": "holds layers, which items.kind=adapter reads, or v with items.mix=true",
    "activations": "holds activations, which items.kind=top reads",
    "pixels": "holds pixels, which items.kind=e2e reads",
}


@dataclass(frozen=True)
class Found:
    """A feature file that fits the dataset."""

    path: Path
    """The file."""
    origin: Origin
    """What made it."""
    modality: str
    """'video', 'cover' or 'title'; for an imported array, its name."""
    width: int
    """F, the length of a vector."""
    lacking: int
    """How many of the ranked items have no vector in it."""

    @property
    def line(self) -> str:
        """Return the file's content in words."""
        lacking = f"{self.lacking} items have none" if self.lacking else "all items have one"
        what = "" if self.modality == self.origin.name else f"{self.modality} "
        return f"{what}{self.origin.content} of {self.origin.label}, width {self.width}, {lacking}"

    @property
    def way(self) -> tuple[str, tuple[str, ...]]:
        """Return how the file was made; a recipe refuses files that were made in different ways."""
        return self.origin.recipe, self.origin.faults


@dataclass(frozen=True)
class Search:
    """What a search for feature files came to."""

    chosen: tuple[Found, ...]
    """The files that the recipe reads, one per modality."""
    others: tuple[tuple[Found, str], ...]
    """Files that fit, too, and why they were not chosen."""
    passed_over: tuple[tuple[Path, str], ...]
    """Files that do not fit, and why."""
    places: tuple[Path, ...]
    """Where files were looked for."""


def usual_places(folder: Path) -> list[Path]:
    """Return the folders in which feature files of a dataset folder usually lie."""
    return [Path("data/features"), Path("features"), folder / "features", folder.parent / "features"]


def find_features(dataset: str, items: Sequence[str], folder: Path, named: Sequence[Path] = ()) -> Search:
    """Look for feature files of a dataset.

    Args:
        dataset: name of the dataset.
        items: ids of the items that are ranked.
        folder: the dataset folder.
        named: files or folders to look at instead of the usual places. Files that are named one by one may have been
            made under another dataset name, as long as their ids fit.

    Raises:
        ConfigError: a named path does not exist, or none of the named files fits.
    """
    for path in named:
        if not path.exists():
            raise ConfigError(f"--features {path} does not exist; name a feature file, or a folder of feature files")
    places = tuple(named) or tuple(usual_places(folder))
    found: list[Found] = []
    passed: list[tuple[Path, str]] = []
    for path in _candidates(places):
        one = _examine(path, dataset, items, any_name=path in named)
        if isinstance(one, str):
            passed.append((path, one))
        else:
            found.append(one)
    if named and not found:
        told = "; ".join(f"{path.name}: {why}" for path, why in passed[:3]) or "there is no .h5 file"
        raise ConfigError(
            f"none of --features fits {folder}: {told}; leave --features out for a recipe without content"
        )
    chosen, others = _choose(found)
    return Search(tuple(chosen), tuple(others), tuple(passed), places)


def _candidates(places: Iterable[Path]) -> Iterator[Path]:
    """Yield files named one by one, and the feature files and arrays of folders, each once."""
    seen: set[Path] = set()
    for place in places:
        inside = sorted(place.iterdir()) if place.is_dir() else [place] if place.is_file() else []
        for path in inside:
            wanted = path == place or (path.suffix in (".h5", *ARRAYS) and not path.name.startswith("."))
            if wanted and path.is_file() and path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _examine(path: Path, dataset: str, items: Sequence[str], *, any_name: bool) -> Found | str:
    """Return the file, or why it is passed over."""
    if path.suffix in ARRAYS:
        return "is an array, not a feature file; `features import` makes one of it"
    try:
        file = FeatureFile(path)
    except StoreError as error:
        return str(error).removeprefix(f"{path} ")
    if file.provenance.dataset != dataset and not any_name:
        return (
            f"was made for dataset {file.provenance.dataset!r}; name the file with --features if its ids are the same"
        )
    joined = int((file.rows(items) >= 0).sum())
    if joined < LEAST_SHARE * len(items):
        looks = f", whose ids look like {file.columns.ids[0]!r}, not {items[0]!r}" if file.columns.ids else ""
        return f"has rows for {joined} of {len(items)} items{looks}"
    lacking = len(items) - int(file.done(items).sum())
    if lacking == len(items):
        return "has no vector for any item"
    made = origin(file)
    return Found(path, made, str(file.provenance.recipe.get("modality", made.name)), file.width, lacking)


def _choose(found: Sequence[Found]) -> tuple[list[Found], list[tuple[Found, str]]]:
    """Return one file of vectors per modality, all made in one way, and the others with the reason."""
    vectors = sorted((one for one in found if one.origin.content == "vectors"), key=_preference)
    chosen: dict[str, Found] = {}
    others: list[tuple[Found, str]] = []
    for one in vectors:
        if one.way != vectors[0].way:
            others.append((one, f"was made in another way ({' '.join((one.way[0], *one.way[1]))})"))
        elif one.modality in chosen:
            others.append((one, f"{chosen[one.modality].path.name} holds {one.modality} vectors already"))
        else:
            chosen[one.modality] = one
    others += [(one, OTHER_KINDS[one.origin.content]) for one in found if one.origin.content != "vectors"]
    return list(chosen.values()), others


def _preference(one: Found) -> tuple[bool, bool, bool, int, int, str]:
    """Return the sort key: cleanly made first, then trained weights, few items without a vector, wide vectors."""
    made = one.origin
    return bool(made.faults), made.recipe != CLEAN, made.random, one.lacking, -one.width, one.path.name
