"""Colours, markers and the empty figure from which every other one starts."""

import io
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def ratio_ticks(low: float, high: float) -> list[float]:
    """Return some round ratios whose natural logarithms lie between `low` and `high`."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if high - low < math.log(8):
        ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(math.exp(low), math.exp(high))
    else:
        subs = (1.0, 2.0, 5.0) if high - low < math.log(200) else (1.0,)
        ticks = LogLocator(subs=subs, numticks=9).tick_values(math.exp(low), math.exp(high))
    return [float(tick) for tick in ticks if tick > 0 and low <= math.log(tick) <= high]


def plain(text: str) -> str:
    """Return a name so that matplotlib shows it as it is.

    Matplotlib would read the text between two dollar signs as mathematics, and cannot draw the
    bytes of a file's name that are not UTF-8; these are shown as their codes.
    """
    return text.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
