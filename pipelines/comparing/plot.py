"""Accuracy against what training cost, as a picture: one point per row of a comparison."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import ConfigError
from features.installation import install_extra
from models.shared.representation import Kind
from pipelines.comparing.cost_table import costs, kind_of
from pipelines.comparing.result_table import Comparison, Row, columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMS = (".svg", ".png")
MARKS: dict[Kind | str, str] = {
    "id": "o",
    "v": "s",
    "dnn": "D",
    "id+v": "P",
    "adapter": "p",
    "top": "^",
    "e2e": "v",
    "-": "X",
}
# Offsets of a name from its point, in typographic points; the first one where it covers nothing is taken.
PLACES = [
    (8, -3),
    (8, 7),
    (8, -13),
    (-8, -3),
    (-8, 7),
    (-8, -13),
    (0, 12),
    (0, -18),
    (8, 18),
    (-8, 18),
    (8, -24),
    (-8, -24),
]


def check_plot(path: Path) -> None:
    """Raise ConfigError if no picture can be drawn: the file is neither SVG nor PNG, or matplotlib is missing."""
    if path.suffix.lower() not in FORMS:
        raise ConfigError(f"--plot {path} ends in {path.suffix!r}; name a file that ends in {' or '.join(FORMS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        told = install_extra("plot")
        raise ConfigError(f"--plot needs matplotlib, which is not installed; {told}") from error


def write_plot(path: Path, shown: Comparison) -> None:
    """Draw the first metric of a comparison against seconds of training and validation, with the spread over seeds.

    Raises:
        ConfigError: as `check_plot`, or no row has both the metric and recorded costs.
    """
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    metric = draw_against_cost(figure, shown)
    if not figure.axes:
        raise ConfigError(f"--plot {path}: no row has both {metric} and its training cost; train the recipes again")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_against_cost(figure: Figure, shown: Comparison) -> str:
    """Draw the picture of `write_plot` into a figure with a canvas, and return the metric.

    The figure stays empty where no row has both the metric and recorded costs.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    metric = columns(shown.rows)[0][1]
    points = _points(shown.rows, metric)
    if not points:
        return metric
    axes = figure.add_subplot()
    drawn: dict[str, Any] = {}
    for point in points:
        drawn[kind_of(point.row)] = _draw(axes, point)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:,.10g}"))  # 200, not 2 x 10^2
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.2, y=0.15)
    axes.set_xlabel("seconds of training and validation")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    axes.set_title("" if shown.title == Comparison.title else shown.title, fontsize="medium", wrap=True)
    axes.legend(drawn.values(), drawn.keys(), title="items", loc="best", fontsize="small")
    figure.canvas.draw()  # positions are known only after drawing
    _name_points(axes, short_names([point.row.name for point in points]), points)
    return metric


@dataclass(frozen=True)
class _Point:
    """A row of the picture: seconds and values, one per run."""

    row: Row
    seconds: list[float]
    values: list[float]

    @property
    def middle(self) -> tuple[float, float]:
        """Return the means."""
        return statistics.fmean(self.seconds), statistics.fmean(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Return the standard deviations; that of the seconds is kept below their mean, as a log scale has no 0."""
        x, y = (statistics.stdev(each) if len(each) > 1 else 0.0 for each in (self.seconds, self.values))
        return min(x, 0.9 * self.middle[0]), y


def _points(rows: Sequence[Row], metric: str) -> list[_Point]:
    """Return the rows that have both; rows in which nothing trains are left out, as a log scale cannot show 0 s."""
    found = [
        _Point(row, spent.get("total_s", []), row.values("all", metric))
        for row, spent in zip(rows, costs(rows), strict=True)
    ]
    return [point for point in found if point.values and point.seconds and min(point.seconds) > 0]


def _draw(axes: Axes, point: _Point) -> Any:
    kind, (x, y), (dx, dy) = kind_of(point.row), point.middle, point.spread
    colour = f"C{list(MARKS).index(kind)}"
    return axes.errorbar(x, y, xerr=dx, yerr=dy, fmt=MARKS[kind], color=colour, capsize=3, elinewidth=1)


def short_names(names: Sequence[str]) -> list[str]:
    """Return names without the beginning that all of them share, up to a '-' or '['.

    >>> short_names(["corpus-sasrec-id", "corpus-sasrec-v"])
    ['id', 'v']
    """
    pieces = [re.split(r"(?<=[-[])", name) for name in names]
    same = 0
    while all(len(each) > same + 1 and each[same] == pieces[0][same] for each in pieces) and len(names) > 1:
        same += 1
    bracket = any("[" in piece for piece in pieces[0][:same])
    return ["".join(each[same:]).removesuffix("]" if bracket else "") for each in pieces]


def _covered(axes: Axes, point: _Point) -> list[Any]:
    """Return the boxes, in pixels, that a point and its two bars take."""
    from matplotlib.transforms import Bbox

    (x, y), (dx, dy) = point.middle, point.spread
    ends = axes.transData.transform([(x - dx, y), (x + dx, y), (x, y - dy), (x, y + dy)])
    return [Bbox([start - 5, stop + 5]) for start, stop in (ends[:2], ends[2:])]


def _name_points(axes: Axes, names: Sequence[str], points: Sequence[_Point]) -> None:
    """Write each name beside its point, if possible where it covers neither a point nor another name."""
    taken = [box for point in points for box in _covered(axes, point)]
    if (legend := axes.get_legend()) is not None:
        taken.append(legend.get_window_extent())
    for name, point in zip(names, points, strict=True):
        tried = []
        for right, up in PLACES:
            side = "left" if right > 0 else "right" if right < 0 else "center"
            text = axes.annotate(name, point.middle, (right, up), textcoords="offset points", ha=side, fontsize=8)
            box = text.get_window_extent()
            over = sum(box.overlaps(other) for other in taken) + (not _inside(axes, box))
            tried.append((over, text, box))
            if not over:
                break
        best = min(tried, key=lambda one: one[0])
        for _, text, _ in tried:
            if text is not best[1]:
                text.remove()
        taken.append(best[2])


def _inside(axes: Axes, box: Any) -> bool:
    room = axes.get_window_extent()
    return bool(room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1)
