"""A report as one HTML file that needs nothing else: written whole, under a size, and the same for the same inputs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from extract.media.catalog import Catalog
from features.atomic import write_atomic
from features.errors import ConfigError
from features.installation import install_extra
from pipelines.comparing.result_table import Comparison
from pipelines.feature_files.extraction import dataset_catalog
from pipelines.reporting import charts, sections, svg
from pipelines.reporting.feature_look import examine, feature_paths
from pipelines.reporting.gathered import Gathered
from pipelines.reporting.offers import GONE, Datasets, offers
from pipelines.reporting.people import people
from pipelines.reporting.sections import Sections, missing_of
from pipelines.reporting.texts import clean
from pipelines.reporting.thumbnails import Pictures, pictures, without_pillow
from pipelines.runs.kept.kept_data import kept_titles

MB = 10**6
MOST_PICTURES = 3000  # decoded for one page; more than fit 15 MB
UNREADABLE_LISTED = 5


@dataclass(frozen=True)
class Choice:
    """What can be chosen about a report."""

    people: int = 24
    """Users in the sample."""
    items: int = 60
    """Items whose neighbours are shown."""
    features: tuple[Path, ...] = ()
    """Feature files beside those of the recipes."""
    data: Path | None = None
    """Dataset folder, if not that of the runs."""
    seed: int = 0
    """Seed of the samples."""
    max_mb: float = 15.0
    """Most megabytes (10^6 bytes) of the file; pictures are left out beyond it."""
    device: str = "auto"
    """Device to rank on."""

    def __post_init__(self) -> None:
        """Refuse numbers that nothing can be made of."""
        for name, value in (("--people", self.people), ("--items", self.items)):
            if value < 0:
                raise ConfigError(f"{name} is {value}; give 0 to show none, or more")
        if self.max_mb <= 0:
            raise ConfigError(
                f"--max-mb is {self.max_mb}; a page without pictures takes about 1, so give more than that"
            )


@dataclass(frozen=True)
class Written:
    """What was written, and what was left out."""

    path: str
    """The file."""
    bytes: int
    """Its size."""
    people: int
    """Users shown."""
    items: int
    """Items shown with their neighbours."""
    features: int
    """Feature files shown."""
    pictures: int
    """Pictures in the page."""
    pictures_left_out: int
    """Pictures that the size did not allow."""
    missing: list[str]
    """What could not be had, one line each."""

    @property
    def line(self) -> str:
        """Return where the page is and what it holds."""
        left_out = f", {self.pictures_left_out} left out for the size" if self.pictures_left_out else ""
        return (
            f"report written to {self.path}: {self.bytes / MB:.1f} MB, {self.people} people, {self.items} items, "
            f"{self.features} feature files, {self.pictures} pictures{left_out}"
        )


@dataclass
class _Media:
    """Where titles and pictures come from."""

    titles: Mapping[str, str] = field(default_factory=dict)
    catalog: Catalog | None = None


def write_report(out: Path, found: Gathered, choice: Choice) -> Written:
    """Write the report of some rows.

    Args:
        out: the HTML file.
        found: the rows.
        choice: what is chosen.

    Raises:
        ConfigError: the page does not fit `max_mb` even without pictures, or a file of `features` is not there.
        StoreError: the file cannot be written; nothing is left behind.
    """
    _refuse(out)
    missing = list(found.missing)
    made, media = _sections(found, choice, missing)
    asked = list(dict.fromkeys(_items_shown(made)))
    drawn = _pictures(media, asked[:MOST_PICTURES], missing)
    render = _Page(found.shown, made, media, missing, [one for one in asked if one in drawn.made])
    left_out = max(0, len(asked) - MOST_PICTURES)
    text, kept = render.within(round(choice.max_mb * MB), drawn.made, left_out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text)
    return Written(
        path=str(out),
        bytes=len(text.encode()),
        people=len(made.people),
        items=len(made.items),
        features=len(made.features),
        pictures=kept,
        pictures_left_out=len(drawn.made) - kept + left_out,
        missing=[clean(line) for line in missing],
    )


def _refuse(out: Path) -> None:
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name the file to write, such as {out / 'report.html'}")


def _sections(found: Gathered, choice: Choice, missing: list[str]) -> tuple[Sections, _Media]:
    """Return all sections but the pictures; what cannot be had becomes a line in `missing`."""
    rows, datasets = found.shown.rows, Datasets(choice.data)
    made = Sections(tables=sections.tables(found.shown), runs=sections.run_facts(rows))
    made.figures, gone = sections.figures(found.shown, found.baseline)
    missing += gone
    if not svg.installed():
        missing.append(f"charts: they need matplotlib; {install_extra('plot')}")
    offered = missing_of(
        "people and what they are offered",
        lambda: offers(rows, found.baseline, datasets, people=choice.people, seed=choice.seed, device=choice.device),
        missing,
    )
    if offered is not None:
        missing += offered.missing
        made.people = people(offered, choice.people)
        made.offers = sections.spread(offered)
    paths, gone = feature_paths(rows, datasets, choice.features)
    files, unread = examine(paths)
    missing += [*gone, *unread]
    made.features = [(one, charts.feature_chart(place, one.name, one.look)) for place, one in enumerate(files)]
    of_vectors = [one.file for one in files if len(one.file.shape) == 2]
    made.items = sections.neighbours(files, sections.chosen_items(made.people, of_vectors, choice.items, choice.seed))
    return made, _media(found, datasets, missing)


def _media(found: Gathered, datasets: Datasets, missing: list[str]) -> _Media:
    """Return titles and media of the baseline's dataset; the run's own titles where the dataset is gone."""
    base = found.shown.rows[found.baseline]
    try:
        dataset = datasets.data(base).dataset
    except GONE as error:
        missing.append(f"pictures: {error}")
        return _Media(kept_titles(base.folders[0]))
    catalog = missing_of("pictures", lambda: dataset_catalog(dataset), missing)
    return _Media(dataset.titles, catalog)


def _items_shown(made: Sections) -> list[str]:
    """Return the ids of all items in the page, the most telling first."""
    targets = [shown.item for one in made.people for shown in one.targets]
    histories = [shown.item for one in made.people for shown in one.history]
    lists = [shown.item for one in made.people for column in one.columns for shown in column.items or ()]
    near = [other for one in made.items for _, found in one.files for other, _ in found]
    return [*targets, *histories, *lists, *(one.item for one in made.items), *near]


def _pictures(media: _Media, items: Sequence[str], missing: list[str]) -> Pictures:
    if media.catalog is None or not items:
        return Pictures()
    try:
        found = pictures(media.catalog, items)
    except ImportError:
        missing.append(without_pillow())
        return Pictures()
    if found.without:
        missing.append(f"pictures: {found.without} of {len(items)} items have neither cover nor video")
    missing += [f"picture: {why}" for why in found.unreadable[:UNREADABLE_LISTED]]
    if (more := len(found.unreadable) - UNREADABLE_LISTED) > 0:
        missing.append(f"pictures: {more} more could not be read")
    return found


class _Page:
    """The page as text.

    Args:
        shown: the comparison.
        made: the sections.
        media: titles of items.
        missing: what could not be had.
        pictured: items that have a picture, the most telling first.
    """

    def __init__(
        self, shown: Comparison, made: Sections, media: _Media, missing: Sequence[str], pictured: Sequence[str]
    ) -> None:
        self._templates = _templates()
        self._pictured = pictured
        style, script = (_own(self._templates, name) for name in ("style.css", "script.js"))
        self._context: dict[str, Any] = {
            "title": shown.title or "freezeframe report",
            "made": made,
            "titles": media.titles,
            "anchors": {one.item: f"item-{number}" for number, one in enumerate(made.items)},
            "missing": missing,
            "style": style,
            "script": script,
            # the page's policy lets no other script run, whatever a title holds
            "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        }

    def within(self, most: int, addresses: Mapping[str, str], left_out: int) -> tuple[str, int]:
        """Return the page with as many pictures as fit `most` bytes, and their number.

        Args:
            most: bytes of the whole page.
            addresses: picture of each item in `pictured`.
            left_out: how many pictures were not even made.

        Raises:
            ConfigError: the page does not fit even without pictures.
        """
        plain = len(self._text({}, left_out).encode())
        if plain > most:
            raise ConfigError(
                f"--max-mb is {most / MB:g}, but the page without pictures takes {plain / MB:.2f} MB; allow more, or "
                "show fewer --people or --items"
            )
        kept = len(self._pictured)
        while True:
            text = self._text({item: addresses[item] for item in self._pictured[:kept]}, left_out)
            over = len(text.encode()) - most
            if over <= 0:
                return text, kept
            while over > 0 and kept:  # what a picture takes at least; its marks in the page come on top
                kept -= 1
                over -= len(addresses[self._pictured[kept]])

    def _text(self, addresses: Mapping[str, str], left_out: int) -> str:
        numbers = {item: number for number, item in enumerate(addresses)}
        template = self._templates.get_template("page.html")
        rest = len(self._pictured) - len(addresses) + left_out
        return template.render(**self._context, pictures=list(addresses.values()), numbers=numbers, left_out=rest)


def _templates() -> Environment:
    """Return the templates of this room; what they write is escaped, and made fit for a page."""
    return Environment(
        loader=PackageLoader("pipelines.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if type(value) is str else value,
    )


def _own(templates: Environment, name: str) -> Markup:
    """Return a file of the templates as it stands: it is ours, and nothing from outside is in it."""
    assert templates.loader is not None
    return Markup(templates.loader.get_source(templates, name)[0])
