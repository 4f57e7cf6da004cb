"""The figures of a report: rounds, axes, new clients, comparisons.

Lines are means over seeds, with the lowest and the highest seed. A method keeps its colour and
marker in every figure.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.figures.plots import mean_lines, with_legend
from pipeline.figures.style import GREY, OKABE_ITO, blank_figure, log_scale, look_of, plain
from sweeps.report.compare import SAME, score_of
from sweeps.report.runs import KID_ROUNDS, SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {  # of axes
    "model.d_emb": "size of the client embedding, d_emb",
    "federation.tau": "tau [optimizer steps]",
    "federation.local_epochs": "local epochs [passes]",
    "adapt.lr": "learning rate of adaptation",
    "adapt.epochs": "length of adaptation [epochs]",
}
CLIENT_SCORES = {  # the first that any client has is drawn
    "style_distance": "distance to the true images",
    "kid": "KID",
    "heldout": "held-out loss",
}
LOG_RATIO = 8  # values that differ by more have a logarithmic axis
MAX_TICKS = 8  # up to so many places on an axis are named one by one
LEFT, RIGHT = -0.18, 0.18  # places of before and after beside a method's


def rounds_figure(curves: pd.DataFrame, floor: float = math.nan) -> "Figure | None":
    """Return KID of the pre-training clients over rounds; `floor`: of real against real images."""
    own = curves[curves.metric == KID_ROUNDS]
    if own.empty:
        return None
    figure = blank_figure(5.6, 3.9)
    axes = figure.subplots()
    mean_lines(axes, own, "step", "value")
    _scale_scores(axes, own.value, floor)
    axes.set(xlabel="round (one synchronization)", ylabel="KID, mean over pre-training clients")
    return with_legend(figure)


def axis_figure(here: pd.DataFrame, key: str) -> "Figure":
    """Return the score against one setting, in the runs of one task that `along` has chosen."""
    score, at = score_of(here), pd.to_numeric(here["at"], errors="coerce")
    figure = blank_figure(3.9, 3.1)
    axes = figure.subplots()
    if at.isna().any():  # words stand side by side
        positions, places = pd.factorize(here["at"])
        mean_lines(axes, here.assign(at=positions), "at", score, has_band=False)
        axes.set_xticks(range(len(places)), [plain(str(place)) for place in places])
        axes.margins(x=0.15)
    else:
        mean_lines(axes, here.assign(at=at), "at", score, has_band=False)
        if at.min() > 0 and at.max() >= 4 * at.min():
            log_scale(axes, "x")
        if at.nunique() <= MAX_TICKS:
            axes.set_xticks(sorted(at.unique()), [f"{place:g}" for place in sorted(at.unique())])
    _scale_scores(axes, here[score])
    axes.set(xlabel=plain(NAMES.get(key, key)), ylabel=SCORES[score])
    return with_legend(figure)


def dots_figure(clients: pd.DataFrame) -> "Figure | None":
    """Return every new client of every seed, before adaptation (grey) and after, by method."""
    known = [key for key in CLIENT_SCORES if f"{key}_after" in clients]
    known = [key for key in known if clients[f"{key}_after"].notna().any()]
    if not known:
        return None
    before, after = f"{known[0]}_before", f"{known[0]}_after"
    clients = clients.dropna(subset=[before, after])
    methods = [*clients.method.unique()]
    figure = blank_figure(max(4.6, 1.4 + 0.8 * len(methods)), 3.6)
    axes = figure.subplots()
    for place, method in enumerate(methods):
        own, colour = clients[clients.method == method], look_of(method)["color"]
        left, right = place + LEFT, place + RIGHT
        axes.plot([left, right], own[[before, after]].T, color=GREY, linewidth=0.5, alpha=0.35)
        axes.scatter([left] * len(own), own[before], s=14, color=GREY, alpha=0.45, linewidth=0)
        axes.scatter([right] * len(own), own[after], s=22, color=colour, alpha=0.75, linewidth=0)
        seeds = own.groupby("seed")[after].mean()
        ends = [[seeds.mean() - seeds.min()], [seeds.max() - seeds.mean()]]
        bar: dict[str, Any] = {"marker": "_", "markersize": 13, "markeredgewidth": 2.4}
        bar |= {"capsize": 3, "color": colour}
        axes.errorbar(
            [place + 2 * RIGHT], [seeds.mean()], yerr=ends if len(seeds) > 1 else None, **bar
        )
    axes.set_xticks(range(len(methods)), [*map(plain, methods)])
    axes.tick_params(axis="x", rotation=30 if len(methods) > 5 else 0)
    axes.set_xlim(-0.6, len(methods) - 0.4)
    _scale_scores(axes, pd.concat([clients[before], clients[after]]))
    axes.set_ylabel(f"{CLIENT_SCORES[known[0]]} of a new client")
    return figure


def comparisons_figure(rows: pd.DataFrame, is_ratio: bool) -> "Figure":
    """Return written-down comparisons of one scale with their intervals and margins.

    Differences are in units of their margin.
    """
    figure = blank_figure(7.4, 1.1 + 0.34 * len(rows))
    axes = figure.subplots()
    ends, places = rows[["low", "middle", "high"]].astype(float), range(len(rows))
    ends = ends if is_ratio else ends.div(rows.margin, axis=0)
    high = 1 + rows.margin if is_ratio else 1.0
    low, middle = (1 / high, 1) if is_ratio else (-1.0, 0)
    colours = [GREY if verdict == SAME else OKABE_ITO[0] for verdict in rows.verdict]
    axes.hlines(places, low, high, color=GREY, linewidth=9, alpha=0.18)
    axes.hlines(places, ends.low, ends.high, color=colours, linewidth=1.6)
    axes.scatter(ends.middle, places, s=25, color=colours, zorder=3)
    axes.axvline(middle, color=GREY, linewidth=0.8, zorder=0)
    names = [plain(f"{row.task}: {row.comparison}".strip(": ")) for row in rows.itertuples()]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if is_ratio:
        log_scale(axes, "x")
    axes.set_xlabel("ratio" if is_ratio else "difference, in margins")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _scale_scores(axes: "Axes", values: Any, floor: float = math.nan) -> None:
    """Draw the floor; make the axis logarithmic where scores differ by orders of magnitude."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if math.isfinite(floor):
        axes.axhline(floor, color=GREY, linestyle="--", label="floor (real against real)")
        low = min(low, floor)
    if low > 0 and high > LOG_RATIO * low:
        log_scale(axes, "y")
