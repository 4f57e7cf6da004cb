"""Figures that compare methods over several seeds: a mean, with the lowest and the highest seed.

A name keeps its colour and marker in every figure, given by its `style`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.figures.style import GREY, MARKERS, OKABE_ITO, blank_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Scale = Literal["linear", "log2", "log10", "from 0"]
SeedRange = tuple[float, float, float, float]  # x, mean, lowest, highest over the seeds
LOG_RATIO = 8  # values that differ by more have a logarithmic axis
FLOOR_RATIO = 10  # a floor further below all scores than this would squeeze a logarithmic axis
FLOOR = "floor"  # the head of its label
DASHES = ("-", (0, (6, 2)), (0, (3, 1.5)), (0, (7, 2, 1.5, 2)), (0, (1.5, 1.5)))
MAX_TICKS = 8  # up to so many places on a logarithmic axis are named one by one


@dataclass(frozen=True)
class Series:
    """A line; `style` numbers its method's colour and marker, `variant` the lines of a method."""

    name: str
    style: int
    points: tuple[SeedRange, ...]
    variant: int = 0

    @property
    def colour(self) -> str:
        return OKABE_ITO[self.style % len(OKABE_ITO)]

    @property
    def look(self) -> dict[str, Any]:
        """The line's properties for matplotlib."""
        return {
            "color": self.colour,
            "marker": MARKERS[self.style % len(MARKERS)],
            "markerfacecolor": "white" if self.variant % 2 else self.colour,
            "linestyle": DASHES[(self.style + self.variant) % len(DASHES)],
            "label": plain(self.name),
            "zorder": 2 + self.style / 100 + self.variant / 1000,  # dashes show what they lie on
        }


def rounds_figure(
    series: Sequence[Series], xlabel: str, ylabel: str, title: str = "", floor: float | None = None
) -> "Figure":
    """Return lines over rounds with a band from the lowest to the highest seed.

    `floor` draws a dashed line: the score of real images against real ones.
    """
    axes = (figure := blank_figure(5.6, 3.9)).subplots()
    _bands(axes, series)
    _scale_scores(axes, series, floor)
    axes.set(xlabel=plain(xlabel), ylabel=plain(ylabel), title=plain(title))
    _legend(figure)
    return figure


def panels_figure(
    panels: Mapping[str, Sequence[Series]],
    xlabel: str,
    ylabels: Sequence[str],
    title: str = "",
    has_zero: bool = True,
) -> "Figure":
    """Return one panel of lines with bands for each text, side by side, with one legend."""
    figure = blank_figure(0.6 + 3.3 * len(panels), 3.9)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (text, series), ylabel in zip(row, panels.items(), ylabels, strict=True):
        _bands(axes, series)
        if has_zero:
            axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
        elif series:
            _scale_scores(axes, series, None)
        axes.set(xlabel=plain(xlabel), ylabel=plain(ylabel))
        axes.set_title(plain(text), fontsize=10)
    figure.suptitle(plain(title))
    _legend(figure)
    return figure


def settings_figure(
    series: Sequence[Series],
    xlabel: str,
    ylabel: str,
    scale: Scale,
    title: str = "",
    floor: float | None = None,
) -> "Figure":
    """Return a score against a setting or a cost, with bars from the lowest to the highest seed.

    A method with one setting only is drawn with a dotted line across, to compare the others with.
    `scale` "from 0" is for costs: logarithmic, with room for 0.
    """
    figure = blank_figure(5.6, 3.9)
    axes = figure.subplots()
    for line in series:
        _bars(axes, line, [point[0] for point in line.points])
        if len(line.points) == 1 and scale != "from 0":
            _across(axes, line)
    _scale_places(axes, sorted({p[0] for line in series for p in line.points}), scale)
    _scale_scores(axes, series, floor)
    _tidy(axes)
    axes.set(xlabel=plain(xlabel), ylabel=plain(ylabel), title=plain(title))
    _legend(figure)
    return figure


def _bars(axes: "Axes", line: Series, places: Sequence[float]) -> None:
    """Draw a line with a bar from the lowest to the highest seed at each of these places."""
    mean = [point[1] for point in line.points]
    bars = [[m - low for _, m, low, _ in line.points], [high - m for _, m, _, high in line.points]]
    ends = bars if any(map(any, bars)) else None  # one seed has none, nor has its legend
    axes.errorbar(places, mean, yerr=ends, capsize=3, markersize=5.5, **line.look)


def _across(axes: "Axes", line: Series) -> None:
    """Continue a line that has one point, to compare the others with."""
    [(_, mean, _, _)] = line.points
    axes.axhline(mean, color=line.colour, linestyle=":", linewidth=0.9, zorder=0)


def _bands(axes: "Axes", series: Sequence[Series]) -> None:
    for line in series:
        x, mean, low, high = zip(*line.points, strict=True)
        axes.plot(x, mean, markersize=4.5, markevery=max(1, len(x) // 15), **line.look)
        axes.fill_between(x, low, high, color=line.colour, alpha=0.18, linewidth=0)
    axes.locator_params(axis="x", integer=True)
    _tidy(axes)


def _tidy(axes: "Axes") -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _scale_places(axes: "Axes", places: Sequence[float], scale: Scale) -> None:
    """Scale the horizontal axis and name its few places."""
    if scale == "from 0" and min(places) <= 0:
        first = math.floor(math.log10(min((p for p in places if p > 0), default=1.0)))
        last = math.ceil(math.log10(max(*places, 1.0)))
        axes.set_xscale("symlog", linthresh=10.0**first, linscale=0.7)
        axes.set_xticks([0.0, *(10.0**power for power in range(first, last + 1))])
        axes.set_xlim(left=-(10.0**first) / 3)
    elif scale == "log2":
        axes.set_xscale("log", base=2)
    elif scale != "linear":
        axes.set_xscale("log")
    if scale in ("log2", "log10") and len(places) <= MAX_TICKS:
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()


def _scale_scores(axes: "Axes", series: Sequence[Series], floor: float | None) -> None:
    """Draw the floor, and make the axis logarithmic where scores differ by orders of magnitude."""
    values = [value for line in series for point in line.points for value in point[1:]]
    low, is_log = min(values), differ_by_orders(values)
    style: dict[str, Any] = {"color": GREY, "linestyle": "--"}
    if floor is not None and (not is_log or floor * FLOOR_RATIO > low):
        axes.axhline(floor, label=f"{FLOOR} (real against real)", **style)
        low = min(low, floor)
    elif floor is not None:
        axes.plot([], [], label=f"{FLOOR} {floor:.2g}, below the axis", **style)
    if is_log:
        scale_log(axes)


def differ_by_orders(values: Sequence[float]) -> bool:
    """Return whether values need a logarithmic axis, and may have one."""
    return min(values) > 0 and max(values) > LOG_RATIO * min(values)


def scale_log(axes: "Axes") -> None:
    """Make the vertical axis logarithmic, with plain numbers at its ticks."""
    axes.set_yscale("log")
    ticks = _log_ticks(*axes.get_ylim())
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten between two numbers; over three decades at most, also 2 and 5 times."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if math.log10(high / low) <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _legend(figure: "Figure") -> None:
    """Name every line once, below the figure, the floor last, in as many columns as fit."""
    legends = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {n: line for lines, names in legends for line, n in zip(lines, names, strict=True)}
    names = sorted(handles, key=lambda name: name.startswith(FLOOR))
    lines, place = [handles[name] for name in names], "outside lower center"
    look = {"frameon": False, "fontsize": 9, "handlelength": 3}
    for num_columns in (3, 2, 1):
        legend = figure.legend(lines, names, loc=place, ncols=num_columns, **look)
        figure.draw_without_rendering()
        if num_columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()
