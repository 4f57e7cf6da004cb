"""The figure of a theory experiment: its panels side by side, each with its own legend below."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.figures.style import GREY, MARKERS, OKABE_ITO, blank_figure
from pipeline.theory.outcome import Curve, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("--", ":", "-.", (0, (1, 3)), (0, (5, 5)))


def panels_figure(panels: Sequence[Panel], title: str) -> "Figure":
    """Return the panels of one experiment, with bars of one standard error of the Monte Carlo."""
    figure = blank_figure(max(5.6, 4.8 * len(panels)), 4.6)
    figure.suptitle(title, fontsize=10)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel)
    return figure


def _draw(axes: "Axes", panel: Panel) -> None:
    measured = [name for name, curve in panel.curves.items() if not curve.is_reference]
    greys = iter(DASHES * len(panel.curves))
    for name, curve in panel.curves.items():
        if not curve.is_reference:
            _draw_measured(axes, name, curve, measured.index(name), panel)
            continue
        # The reference "bound, d = 4" has the colour of the curve "d = 4".
        own = [i for i, other in enumerate(measured) if other in name.split(", ")]
        colour, dashes = (OKABE_ITO[own[0] % len(OKABE_ITO)], "--") if own else (GREY, next(greys))
        joined = {"linestyle": dashes, "linewidth": 1.3}
        alone = {"linestyle": "", "marker": "_", "markersize": 14}
        axes.plot(*_xy(curve), color=colour, label=name, **(alone if panel.ticks else joined))
    _style(axes, panel)


def _draw_measured(axes: "Axes", name: str, curve: Curve, place: int, panel: Panel) -> None:
    x, y = _xy(curve)
    if panel.ticks:  # categories: markers side by side, without a line
        x = [value + 0.09 * (place - 1.5) for value in x]
    is_joined = panel.is_joined and not panel.ticks
    axes.errorbar(
        x,
        y,
        yerr=list(curve.errors) or None,
        label=name,
        color=OKABE_ITO[place % len(OKABE_ITO)],
        marker=MARKERS[place % len(MARKERS)],
        markersize=3.5,
        linestyle="-" if is_joined else "",
        linewidth=1.2,
        capsize=2,
    )


def _style(axes: "Axes", panel: Panel) -> None:
    axes.set_xscale("log" if panel.scale in ("loglog", "logx") else "linear")
    axes.set_yscale("log" if panel.scale in ("loglog", "logy") else "linear")
    axes.tick_params(which="both", labelsize=8)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if axis.get_scale() == "log":
            if high < 1000.0 * low:  # with powers of ten alone there would be one label or none
                axis.set_ticks(_round_numbers(low, high))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    if panel.ticks:
        axes.set_xticks(range(len(panel.ticks)), panel.ticks, rotation=35, ha="right")
    axes.set_xlabel(panel.xlabel, fontsize=9)
    axes.set_ylabel(panel.ylabel, fontsize=9)
    axes.set_title(panel.title, fontsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    below = -0.32 if panel.ticks else -0.16
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, below)}
    axes.legend(frameon=False, fontsize=7, ncols=2, **place)


def _round_numbers(low: float, high: float) -> list[float]:
    """Return all 1, 2 and 5 times a power of ten from low to high."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    numbers = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [number for number in numbers if low <= number <= high]


def _xy(curve: Curve) -> tuple[Sequence[float], Sequence[float]]:
    x, y = zip(*curve.points, strict=True) if curve.points else ((), ())
    return x, y
