"""Colours, markers and the empty figure from which every other one starts."""

import io
from typing import TYPE_CHECKING, Any, Literal

from spire_core.config.method import OTHER_METHODS
from spire_core.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "<", ">")
GREY = "#555555"


def blank_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of `width` x `height` inches, made without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # takes a third of a second, and many processes never draw

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def svg_text(figure: "Figure") -> str:
    """Return a figure as SVG, the same text for the same figure on every day."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": "figure"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def log_scale(axes: "Axes", name: Literal["x", "y"]) -> None:
    """Give an axis of what is drawn a logarithmic scale with plain numbers at round places."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    subs = (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 8.0) if high < 8 * low else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def method_place(method: str) -> int:
    """Return a method's place among all: ours, those of other packages, and unknown ones."""
    known = [*METHODS]
    known += OTHER_METHODS.names() if method not in known else ()
    return known.index(method) if method in known else len(known)


def look_of(method: str) -> dict[str, Any]:
    """Return the colour and marker that a method has in every figure."""
    place = method_place(method)
    return {"color": OKABE_ITO[place % len(OKABE_ITO)], "marker": MARKERS[place % len(MARKERS)]}


def plain(text: str) -> str:
    """Return a name so that matplotlib shows it as it is.

    Matplotlib would read the text between two dollar signs as mathematics, and cannot draw the
    bytes of a file's name that are not UTF-8; these are shown as their codes.
    """
    return text.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
