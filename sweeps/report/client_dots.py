"""The main comparison: each method's score of every single client, with the mean over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from pipeline.figures.style import GREY, OKABE_ITO, blank_figure, plain
from sweeps.report.figures import Picture
from sweeps.report.groups import Group, by_task, label, method_order
from sweeps.report.seed_plots import differ_by_orders, scale_log
from sweeps.report.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ClientRows = Mapping[str, Sequence[Mapping[str, Any]]]  # a row for each client, by run
SCORES = (  # the first that any client has: its columns' head, the metric of the mean, words
    ("style_distance", "final/adapt_style_distance_after", "distance to the true images"),
    ("kid", "final/adapt_kid_after", "KID"),
    ("heldout", "final/adapt_heldout_after", "held-out loss"),
)
LEFT, RIGHT = -0.18, 0.18  # places of before and after beside a method's


@dataclass(frozen=True)
class Dots:
    """One method's clients: (before, after) of each, and the mean of after over seeds."""

    name: str
    style: int
    clients: tuple[tuple[float, float], ...]
    mean: Estimate

    @property
    def worst(self) -> float:
        return max(after for _, after in self.clients)


def client_pictures(groups: Sequence[Group], rows: ClientRows) -> list[Picture]:
    """Return a strip plot of new clients for each task whose runs have tables of them."""
    tasks, pictures = by_task(groups), []
    for number, (task, here) in enumerate(tasks.items(), 1):
        picture = _picture(here, rows, label(task))
        if picture is not None and len(tasks) > 1:
            title = f"{picture.title} ({label(task)})"
            picture = replace(picture, name=f"{picture.name}_{number}", title=title)
        pictures += [picture] if picture is not None else []
    return pictures


def _picture(groups: Sequence[Group], rows: ClientRows, task: str) -> Picture | None:
    for column, metric, words in SCORES:
        dots = [one for group in groups if (one := _dots(group, rows, column, metric))]
        if dots:
            figure = dots_figure(dots, f"{words} of a new client", task)
            text = (
                "Every new client of every seed, before adaptation (grey) and after (coloured), at "
                "each method's own best setting. Bar: mean over seeds after adaptation, from the "
                "lowest to the highest seed. Ring: the worst client. Lower is better."
            )
            return Picture("new_clients", f"New clients, one by one: {words}", text, figure)
    return None


def _dots(group: Group, rows: ClientRows, column: str, metric: str) -> Dots | None:
    own = [row for run in group.runs for row in rows.get(run.run_id, ())]
    pairs = [(row.get(f"{column}_before"), row.get(f"{column}_after")) for row in own]
    known = tuple((float(a), float(b)) for a, b in pairs if _is_known(a) and _is_known(b))
    mean = group.estimate(metric)
    if not known or mean is None:
        return None
    return Dots(group.method, method_order(group.method)[0], known, mean)


def _is_known(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def dots_figure(dots: Sequence[Dots], ylabel: str, title: str = "") -> "Figure":
    """Return a column of dots for each method; logarithmic where scores differ by much."""
    figure = blank_figure(max(4.6, 1.4 + 0.8 * len(dots)), 3.9)
    axes = figure.subplots()
    for place, one in enumerate(dots):
        _column(axes, place, one)
    values = [value for one in dots for pair in one.clients for value in pair]
    if differ_by_orders(values):
        scale_log(axes)
    axes.set_xticks(range(len(dots)), [plain(one.name) for one in dots])
    if len(dots) > 5:
        axes.tick_params(axis="x", rotation=30)
    axes.set_xlim(-0.6, len(dots) - 0.4)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(ylabel=plain(ylabel), title=plain(title))
    return figure


def _column(axes: "Axes", place: int, dots: Dots) -> None:
    colour, mean = OKABE_ITO[dots.style % len(OKABE_ITO)], dots.mean
    ends = [[mean.mean - mean.low], [mean.high - mean.mean]]
    before, after = zip(*dots.clients, strict=True)
    left, right = place + LEFT, place + RIGHT
    for pair in dots.clients:
        axes.plot((left, right), pair, color=GREY, linewidth=0.5, alpha=0.35, zorder=1)
    axes.scatter([left] * len(before), before, s=14, color=GREY, alpha=0.45, linewidth=0)
    axes.scatter([right] * len(after), after, s=22, color=colour, alpha=0.75, linewidth=0)
    axes.scatter([right], [dots.worst], s=70, facecolor="none", edgecolor=colour, linewidth=1.2)
    axes.errorbar(
        [place + 2 * RIGHT],
        [mean.mean],
        yerr=ends if mean.num > 1 else None,
        marker="_",
        markersize=13,
        markeredgewidth=2.4,
        capsize=3,
        color=colour,
        label=plain(dots.name),
    )
