"""The primary comparisons as one figure: each effect with its interval, and the margins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

from pipeline.figures.style import GREY, OKABE_ITO, blank_figure, plain, ratio_ticks
from pipeline.results.metric_names import COVERED_RATIO, FLD_EXCESS
from sweeps.primary import MEASURES, place_of
from sweeps.report.choice import HIGHER_IS_BETTER
from sweeps.report.figures import Picture
from sweeps.report.groups import label
from sweeps.report.primary import LEVEL, MATCHES, UNKNOWN, Finding

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHER, METHOD, DIFFER = "the other is ahead", "the method is ahead", "they differ"
COLOURS = {OTHER: OKABE_ITO[0], METHOD: OKABE_ITO[1], DIFFER: OKABE_ITO[3]}
COLOURS |= {MATCHES: OKABE_ITO[2], UNKNOWN: GREY}
NEITHER_IS_BETTER = (COVERED_RATIO, FLD_EXCESS)
RATIO = "ratio"
XLABELS = {RATIO: "method / other", "difference": "method - other"}
MOST = 24  # comparisons of a figure; a page is not made of them alone
LABEL = 48  # characters of a line of a comparison's name
LINE, SPACE, AROUND = 0.15, 0.2, 0.75  # inches: such a line, between comparisons, of a panel's axis
CAPTION = (
    "The comparisons that were written down before the study ran. Point and bar: the mean over "
    "pairs of runs on the same seeds, with its 95 % interval. Blue: the other method is ahead; "
    "red: the method is, both with Holm below 0.05; green: they match, equivalence below 0.05; "
    "grey: cannot tell. Where a side is ahead and both match, the colour is the side's. Shaded: "
    "the margin within which two methods match."
)


@dataclass(frozen=True)
class Bar:
    """A comparison: a logarithm of a ratio or a difference, half its 95 % interval, its margin.

    Its lines of `name` are as matplotlib shows them.
    """

    name: str
    measure: str
    scale: str
    mean: float
    half: float
    margin: float
    verdict: str


def bar_of(found: Finding, name: str = "") -> Bar | None:
    """Return a finding as a bar; None for one without an interval."""
    effect, primary = found.effect, found.primary
    if effect is None or effect.half_width is None:
        return None
    parts = [name] if name else _parts(found)
    words = "\n".join(line for part in parts for line in wrap(plain(part), LABEL))
    of_effect = (primary.scale, effect.mean, effect.half_width, primary.limit)
    return Bar(words, MEASURES[primary.measure], *of_effect, _verdict(found, effect.mean))


def _parts(found: Finding) -> list[str]:
    """Return what is compared, and where: the task says only what the settings do not."""
    primary = found.primary
    rest = label(tuple((key, value) for key, value in found.task if key not in primary.where))
    if primary.against_where is None:
        return [f"{primary.method} against {primary.other}", primary.place, rest]
    method = f"{primary.method} at {primary.place}" if primary.place else primary.method
    other = f"{primary.against} at {place_of(primary.against_where)}"
    return [method, f"against {other}", rest]


def _verdict(found: Finding, mean: float) -> str:
    measure = found.primary.measure
    if found.holm_p is not None and found.holm_p < LEVEL:
        is_better = (mean < 0) != (measure in HIGHER_IS_BETTER)
        return DIFFER if measure in NEITHER_IS_BETTER else METHOD if is_better else OTHER
    return MATCHES if MATCHES in found.verdict else UNKNOWN


def primary_pictures(found: Sequence[Finding]) -> list[Picture]:
    """Return one figure of the findings that have an interval; none without any."""
    bars = [bar for one in found if (bar := bar_of(one)) is not None]
    if not bars:
        return []
    text = CAPTION
    if (num_left := len(found) - len(bars[:MOST])) > 0:
        text += f" The table has {num_left} more: without an interval, or beyond {MOST}."
    return [Picture("primary", "Primary comparisons", text, forest_figure(bars[:MOST]))]


def forest_figure(bars: Sequence[Bar], words: Mapping[str, str] | None = None) -> "Figure":
    """Return bars below each other, those of each measure in a panel of its own.

    `words`: what stands in the place of a verdict's text or of an axis's.
    """
    words = words or {}
    kinds = dict.fromkeys((bar.measure, bar.scale) for bar in bars)
    panels = [[bar for bar in bars if (bar.measure, bar.scale) == kind] for kind in kinds]
    most = [max(1 + bar.name.count("\n") for bar in own) for own in panels]
    heights = [len(own) * (SPACE + LINE * num) for own, num in zip(panels, most, strict=True)]
    figure = blank_figure(7.6, sum(heights) + AROUND * len(panels) + 0.3)
    grid = {"squeeze": False, "height_ratios": [height + AROUND for height in heights]}
    axes = figure.subplots(len(panels), 1, **grid)[:, 0]
    for own, panel in zip(panels, axes, strict=True):
        _panel(panel, own)
        xlabel = f"{own[0].measure}: {XLABELS[own[0].scale]}"
        panel.set_xlabel(words.get(xlabel, xlabel))
    verdicts = [verdict for verdict in COLOURS if any(bar.verdict == verdict for bar in bars)]
    for verdict in verdicts:
        name = words.get(verdict, verdict)
        axes[0].plot([], [], marker="o", color=COLOURS[verdict], label=name)
    figure.legend(loc="outside upper right", ncols=len(verdicts), frameon=False)
    return figure


def _panel(axes: "Axes", bars: Sequence[Bar]) -> None:
    """Draw the bars of one measure and scale; ratios stand at their logarithms."""
    for place, bar in enumerate(bars):
        colour = COLOURS[bar.verdict]
        axes.barh(place, 2 * bar.margin, left=-bar.margin, height=0.8, color=GREY, alpha=0.12)
        axes.errorbar(bar.mean, place, xerr=bar.half, fmt="o", color=colour, capsize=3)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=8)
    if bars[0].scale == RATIO:
        ticks = ratio_ticks(*axes.get_xlim())
        axes.set_xticks([math.log(tick) for tick in ticks], [f"{tick:.4g}" for tick in ticks])
