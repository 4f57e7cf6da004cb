"""The figure of a theory experiment: its panels side by side, each with its own legend below."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.figures import GREY, MARKERS, OKABE_ITO, blank_figure
from pipeline.theory_outcome import Curve, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURED_DASHES, REFERENCE_DASHES = "-", ("--", ":", "-.", (0, (1, 3)), (0, (5, 5)))


def panels_figure(panels: Sequence[Panel], title: str) -> "Figure":
    """Return the panels of one experiment, with bars of one standard error of the Monte Carlo."""
    figure = blank_figure(max(5.2, 4.6 * len(panels)), 4.6)
    figure.suptitle(title, fontsize=9)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel)
    return figure


def _draw(axes: "Axes", panel: Panel) -> None:
    measured = [name for name, curve in panel.curves.items() if not curve.is_reference]
    references = [name for name, curve in panel.curves.items() if curve.is_reference]
    for name, curve in panel.curves.items():
        if curve.is_reference:
            place = references.index(name)
            # A reference of the same number as the curves takes their colours: one for each curve.
            is_paired = len(references) == len(measured) > 1
            colour = OKABE_ITO[place % len(OKABE_ITO)] if is_paired else GREY
            dashes = "--" if is_paired else REFERENCE_DASHES[place % len(REFERENCE_DASHES)]
            axes.plot(*_xy(curve), linestyle=dashes, color=colour, linewidth=1.3, label=name)
        else:
            _draw_measured(axes, name, curve, measured.index(name))
    if panel.scale in ("loglog", "logx"):
        axes.set_xscale("log")
    if panel.scale in ("loglog", "logy"):
        axes.set_yscale("log")
    axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
    axes.set_title(panel.title, fontsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _draw_measured(axes: "Axes", name: str, curve: Curve, place: int) -> None:
    colour, marker = OKABE_ITO[place % len(OKABE_ITO)], MARKERS[place % len(MARKERS)]
    style = {"color": colour, "marker": marker, "markersize": 3.5, "linewidth": 1.2}
    errors = list(curve.errors) or None
    axes.errorbar(*_xy(curve), yerr=errors, capsize=2, label=name, **style)


def _xy(curve: Curve) -> tuple[Sequence[float], Sequence[float]]:
    x, y = zip(*curve.points, strict=True) if curve.points else ((), ())
    return x, y
