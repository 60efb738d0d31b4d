"""Charts as SVG that stands inside the page: drawn by matplotlib, coloured by the page's style sheet.

matplotlib draws with colours that stand for variables of the style sheet, so one chart serves light and dark pages.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pipelines.reporting.texts import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 8  # colours of the style sheet, --c0 to --c7
TEXT, LINE, PAPER = "#010203", "#010204", "#010205"  # stand for the colours of text, of axes and grids, of the page
STANDS_FOR = {TEXT: "currentColor", LINE: "var(--line)", PAPER: "var(--paper)"}
STANDS_FOR |= {f"#0102f{number}": f"var(--c{number})" for number in range(SERIES)}
DASHES = ("-", "--", ":", "-.")
MARKS = "osD^vPXp"


def installed() -> bool:
    """Return whether charts can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def chart(name: str, about: str, draw: Callable[[Figure], object], *, size: tuple[float, float] = (6.4, 3.6)) -> Markup:
    """Return a chart as an SVG element.

    Args:
        name: a name that no other chart of the page has; the same name and drawing give the same bytes.
        about: what the chart shows, for people who do not see it.
        draw: draws into a figure.
        size: width and height in inches of 72 points.

    Returns:
        The element; '' where `draw` drew nothing, or matplotlib is not installed.
    """
    if not installed():
        return Markup("")
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[str, Any] = {
        "svg.hashsalt": name,
        "svg.fonttype": "none",  # text stays text, in the page's own font
        "text.parse_math": False,  # a name may hold $
        "axes.prop_cycle": cycler(color=[f"#0102f{number}" for number in range(SERIES)]),
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.facecolor": PAPER,
        "legend.edgecolor": LINE,
        "legend.framealpha": 1.0,
        "font.size": 9,
    }
    style |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), TEXT)
    style |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), LINE)
    with rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # measured only; the browser draws the text
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        if not figure.axes:
            return Markup("")
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _inline(written.getvalue(), about)


def _inline(drawn: str, about: str) -> Markup:
    """Return an SVG document as an element of an HTML page, without ids that several charts would share."""
    start = drawn.index("<svg")
    opening, _, rest = drawn[start:].partition(">")
    (box,) = re.findall(r'viewBox="[^"]*"', opening)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(r'<g id="[^"]*"', "<g", rest)
    rest = re.sub("|".join(STANDS_FOR), lambda found: STANDS_FOR[found[0]], rest)
    rest = re.sub(r"\n\s*", "\n", rest)
    # matplotlib has escaped the text in it
    return Markup(f'<svg {box} role="img" aria-label="{html.escape(clean(about))}">{rest}')


def line_style(number: int, points: int = 0) -> dict[str, Any]:
    """Return how the line of a row is drawn; colour, dashes and marks together tell rows apart.

    Args:
        number: place of the row.
        points: how many points the line has; many get no marks.
    """
    marks = {"marker": MARKS[number % len(MARKS)], "markersize": 4} if 0 < points <= 40 else {}
    return {
        "color": f"C{number % SERIES}",
        "linestyle": DASHES[number // SERIES % len(DASHES)],
        "linewidth": 1.4,
    } | marks


def name_lines(axes: Axes, names: list[str]) -> None:
    """Add a legend; matplotlib would leave out names that begin with an underscore."""
    fit = [clean(f"\u200b{name}" if name.startswith("_") else name) for name in names]
    if fit:
        axes.legend(axes.get_lines()[: len(fit)], fit, fontsize="small", loc="best")
