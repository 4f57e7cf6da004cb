"""Each new client's lead over its coverage, with the line of the mixed model."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from pipeline.figures.style import GREY, MARKERS, OKABE_ITO, blank_figure, plain, ratio_ticks
from sweeps.report.client_coverage import ClientLine
from sweeps.report.coverage import STEP, change_text
from sweeps.report.differences import REFERENCE
from sweeps.report.figures import Picture
from sweeps.report.groups import method_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 60  # letters of a line of the title
TEXT = (
    "Each new client of every seed: the KID of the method divided by that of SPIRE, over the "
    "distance of the client's class mixture from the hull of the pre-training clients' (0: "
    "covered). Above 1, SPIRE is ahead. Line: the mixed model of the table, with the factor by "
    f"which the ratio changes for each {STEP:g} of hull TV and its 95 % interval."
)


def coverage_pictures(lines: Sequence[ClientLine]) -> list[Picture]:
    """Return a figure for each task that has a model, with all of its methods."""
    tasks: dict[str, list[ClientLine]] = {}
    for one in (one for one in lines if not one.is_of_several):
        tasks.setdefault(one.task, []).append(one)
    pictures = []
    for number, (task, own) in enumerate(tasks.items(), 1):
        end, title = (f"_{number}", f" ({task})") if len(tasks) > 1 else ("", "")
        figure = coverage_figure(own, task)
        head = "Lead and coverage, client by client"
        pictures.append(Picture(f"client_coverage{end}", head + title, TEXT, figure))
    return pictures


def coverage_figure(
    lines: Sequence[ClientLine], title: str = "", names: Mapping[str, str] | None = None
) -> "Figure":
    """Return the clients and the line of each method; `names`: other words for methods."""
    axes = (figure := blank_figure(5.6, 3.9)).subplots()
    words = names or {}
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    for one in lines:
        _draw(axes, one, words.get(one.method, one.method))
    axes.margins(y=0.08)
    ticks = ratio_ticks(*axes.get_ylim())
    axes.set_yticks([math.log(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    ylabel = f"KID / KID with {words.get(REFERENCE, REFERENCE)}"
    axes.set(xlabel="hull TV of a new client", ylabel=plain(ylabel))
    axes.set_title(fill(plain(title), WIDTH), fontsize="medium")
    figure.legend(loc="outside lower center", ncols=1, frameon=False)
    return figure


def _draw(axes: "Axes", one: ClientLine, name: str) -> None:
    style, start = method_order(one.method)[0], one.line.intercept
    colour = OKABE_ITO[style % len(OKABE_ITO)]
    x, y = [point.x for point in one.points], [point.y for point in one.points]
    look = {"s": 22, "color": colour, "marker": MARKERS[style % len(MARKERS)], "linewidth": 0}
    axes.scatter(x, y, alpha=0.65, label=f"{plain(name)}, {len(x)} clients", **look)
    if start is None:  # of several tasks
        return
    ends = [min(x), max(x)]
    line = [start.mean + one.line.slope.mean * end for end in ends]
    label = f"times {change_text(one.line.slope.scaled(STEP))} for each {STEP:g}"
    axes.plot(ends, line, color=colour, label=label)
