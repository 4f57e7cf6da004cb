"""The figure of a theory experiment: its panels side by side, each with its own legend below."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.figures.style import GREY, MARKERS, OKABE_ITO, blank_figure
from pipeline.theory.outcome import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("--", ":", "-.", (0, (1, 3)), (0, (5, 5)))


def panels_figure(panels: Sequence[Panel], title: str) -> "Figure":
    """Return the panels of one experiment, with bars of one standard error of the Monte Carlo."""
    figure = blank_figure(4.8 * len(panels) + 0.8, 4.6)
    figure.suptitle(title, fontsize=10)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel)
    return figure


def _draw(axes: "Axes", panel: Panel) -> None:
    frame = panel.frame
    has_names = not pd.api.types.is_numeric_dtype(frame.index)
    x = pd.Series(range(len(frame)) if has_names else frame.index)
    for i, name in enumerate(panel.measured):
        axes.errorbar(
            x + 0.09 * (i - 1.5) if has_names else x,
            frame[name],
            yerr=frame.get(f"{name} +-"),
            label=name,
            color=OKABE_ITO[i % len(OKABE_ITO)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=3.5,
            linestyle="-" if panel.is_joined and not has_names else "",
            linewidth=1.2,
            capsize=2,
        )
    for i, name in enumerate(panel.references):
        # The reference "bound, d = 4" has the colour of the curve "d = 4".
        own = [j for j, other in enumerate(panel.measured) if other in name.split(", ")]
        colour, dashes = (OKABE_ITO[own[0] % len(OKABE_ITO)], "--") if own else (GREY, DASHES[i])
        marks = {"ls": "", "marker": "_", "ms": 14} if has_names else {"ls": dashes, "lw": 1.3}
        axes.plot(x, frame[name], color=colour, label=name, **marks)
    axes.set_xscale("log" if panel.scale in ("loglog", "logx") else "linear")
    axes.set_yscale("log" if panel.scale in ("loglog", "logy") else "linear")
    axes.tick_params(which="both", labelsize=8)
    if has_names:
        axes.set_xticks(x, frame.index, rotation=35, ha="right")
    axes.set_xlabel(str(frame.index.name), fontsize=9)
    axes.set_ylabel(panel.ylabel, fontsize=9)
    axes.set_title(panel.title, fontsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    below = {} if has_names else {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
    axes.legend(frameon=False, fontsize=7, ncols=2, **below)
