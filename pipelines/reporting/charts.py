"""The charts of a report: courses of training, accuracy against cost, groups of users, offers, and feature files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from features.errors import ConfigError
from features.inspect import Look
from pipelines.comparing.plot import draw_against_cost, short_names
from pipelines.comparing.result_table import ByGroup, Comparison, Row
from pipelines.reporting.people import Concentration
from pipelines.reporting.svg import LINE, PAPER, SERIES, chart, line_style, name_lines
from pipelines.runs.run_files import read_text
from pipelines.training.epoch_log import LOG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 30  # bars of a histogram


def epochs(folder: Path) -> list[dict[str, Any]] | None:
    """Return the epochs that a run logged, none where nothing is trained; None where it has no log.

    Raises:
        ConfigError: the log is damaged.
    """
    path = folder / LOG
    if not path.is_file():
        return None
    try:
        return [dict(json.loads(line)) for line in read_text(path).splitlines()]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error})") from error


def course_charts(courses: Sequence[tuple[str, str, list[dict[str, Any]]]]) -> list[Markup]:
    """Return charts of loss and of validation by epoch.

    Args:
        courses: name of a row, its monitored metric, and the epochs of its first seed's run.
    """

    def losses(axes: Axes) -> list[str]:
        return _lines(axes, [(name, [(e["epoch"], e["loss"]) for e in course]) for name, _, course in courses])

    def validation(axes: Axes) -> list[str]:
        told = [
            (name, [(e["epoch"], e["valid"][metric]) for e in course if e.get("valid") and metric in e["valid"]])
            for name, metric, course in courses
        ]
        return _lines(axes, told)

    metrics = ", ".join(dict.fromkeys(metric for _, metric, _ in courses))
    return [
        _by_epoch("loss", "training loss", losses),
        _by_epoch("validation", f"validation {metrics}", validation),
    ]


def _by_epoch(name: str, what: str, lines: Callable[[Axes], list[str]]) -> Markup:
    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_subplot()
        named = lines(axes)
        axes.set(xlabel="epoch", ylabel=what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.6)
        name_lines(axes, named)
        if not named:
            figure.clear()

    return chart(name, f"Line chart: {what} by epoch, one line for each row", draw)


def _lines(axes: Axes, told: Sequence[tuple[str, list[tuple[float, float]]]]) -> list[str]:
    """Draw one line for each name with points, and return those names."""
    named = []
    for number, (name, points) in enumerate(told):
        if points:
            axes.plot(*zip(*points, strict=True), **line_style(number, len(points)))
            named.append(name)
    return named


def cost_chart(shown: Comparison) -> Markup:
    """Return the picture of `compare --plot`; '' where no row recorded what it cost."""
    about = "Scatter plot: accuracy of each row against its seconds of training and validation"
    untitled = replace(shown, title=Comparison.title)  # the page has the title
    return chart("cost", about, lambda figure: draw_against_cost(figure, untitled), size=(6.4, 4.2))


def group_chart(name: str, found: ByGroup, metric: str, what: str) -> Markup:
    """Return a chart of one metric by groups of users; `what` the groups go by."""

    def draw(figure: Figure) -> None:
        axes, places = figure.add_subplot(), range(len(found.groups))
        for number, means in enumerate(found.means):
            axes.plot(places, means, **line_style(number, len(means)))
        axes.set_xticks(list(places), [f"{group}\n({users} users)" for group, users in found.groups])
        axes.set(xlabel=what, ylabel=metric)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.6)
        name_lines(axes, [row.name for row in found.rows])

    return chart(name, f"Line chart: {metric} by {what}, one line for each row; the table below has the numbers", draw)


def warm_cold_chart(rows: Sequence[Row], metric: str) -> Markup:
    """Return bars of one metric for warm and for cold targets."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, group in enumerate(("warm", "cold")):
            means = [statistics.fmean(row.values(group, metric) or [0.0]) for row in rows]
            heights = [place + 0.2 - 0.4 * number for place in range(len(rows))]
            axes.barh(heights, means, 0.36, color=f"C{number}", label=group, hatch=("", "//")[number], edgecolor=PAPER)
        axes.set_yticks(range(len(rows)), short_names([row.name for row in rows]))
        axes.invert_yaxis()
        axes.set_xlabel(metric)
        axes.legend(fontsize="small", loc="best")

    about = f"Bar chart: {metric} of each row for warm and for cold targets; the table below has the numbers"
    return chart("warm-cold", about, draw, size=(6.4, 1.2 + 0.45 * len(rows)))


def offer_chart(spread: Sequence[Concentration]) -> Markup:
    """Return curves of the share of places that the most offered items take."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, one in enumerate(spread):
            axes.plot(range(101), [100 * share for share in one.curve], **line_style(number))
        axes.plot([0, 100], [0, 100], color=LINE, linewidth=1)
        axes.set(xlabel="% of the items, most offered first", ylabel="% of all places in lists")
        axes.grid(alpha=0.6)
        name_lines(axes, [one.row for one in spread])

    about = "Line chart: share of all places in lists that the most offered items take; the diagonal is an even spread"
    return chart("offers", about, draw)


def feature_chart(number: int, name: str, look: Look) -> Markup:
    """Return the histogram of a file's norms and its spectrum side by side; '' for a file of pixels."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        left.hist(look.norms, BINS, color=f"C{number % SERIES}")
        left.set(xlabel="norm", ylabel="items")
        right.plot(range(1, len(look.spectrum) + 1), look.spectrum, **line_style(number))
        right.set(xlabel="direction", ylabel="share of the spectrum")
        if len(look.spectrum):
            right.set_yscale("log")
            right.minorticks_off()  # each costs time, and none is read
        for axes in (left, right):
            axes.grid(alpha=0.6)

    about = f"Histogram of the norms of {name}, and its singular values as shares, largest first"
    return chart(f"feature-{number}", about, draw, size=(6.4, 2.6)) if len(look.norms) else Markup("")
