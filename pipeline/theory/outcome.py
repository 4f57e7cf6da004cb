"""What a theory experiment returns: tables, panels, and claims with their verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.figures.style import GREY, MARKERS, OKABE_ITO, blank_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_ERRORS = 4.0  # standard errors by which chance may break a claim
ROUNDING = 1e-9
DASHES = ("--", ":", "-.", (0, (1, 3)), (0, (5, 5)))


@dataclass(frozen=True)
class Claim:
    """A sentence with its numbers, and whether they confirm it (None: an observation)."""

    text: str
    is_met: Any = None

    def __post_init__(self) -> None:  # a comparison in numpy or pandas has its own True and False
        object.__setattr__(self, "is_met", None if self.is_met is None else bool(self.is_met))

    def __str__(self) -> str:
        """Return the sentence behind its verdict."""
        return f"{'note' if self.is_met is None else 'ok  ' if self.is_met else 'FAIL'} {self.text}"


@dataclass(frozen=True)
class Panel:
    """One set of axes: columns of a frame against its index, which may hold names.

    A column "X +-" has the standard errors of the column "X". `references` are dashed lines.
    `scale` is `loglog`, `logx`, `logy` or `linear`.
    """

    title: str
    ylabel: str
    frame: pd.DataFrame
    measured: Sequence[str]
    references: Sequence[str] = ()
    scale: str = "loglog"
    is_joined: bool = True


@dataclass(frozen=True)
class Outcome:
    """The result of one experiment; `numbers` become metrics."""

    title: str
    claims: Sequence[Claim]
    tables: Mapping[str, pd.DataFrame]
    panels: Sequence[Panel] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, part: "Outcome") -> "Outcome":
        """Return both under the title of the first."""
        return Outcome(
            self.title,
            [*self.claims, *part.claims],
            {**self.tables, **part.tables},
            [*self.panels, *part.panels],
            {**self.numbers, **part.numbers},
        )

    def __str__(self) -> str:
        """Return title, tables and claims as they are printed."""
        tables = [f"{name}\n{_table(frame)}" for name, frame in self.tables.items()]
        return "\n\n".join([self.title, *tables, "\n".join(map(str, self.claims))])


def _table(frame: pd.DataFrame) -> str:
    """Return a frame with errors beside the values; a wide one is transposed."""
    cells = frame.map(_cell)
    for name in [name for name in map(str, frame) if name.endswith(" +-")]:
        errors, owner = cells.pop(name), name.removesuffix(" +-")
        known = cells[owner] != "-"
        cells[owner] = cells[owner].where(~known, cells[owner] + " +-" + errors)
    if cells.shape[1] > 8:
        return cells.T.to_string(header=False)
    return cells.to_string(index=False)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if math.isfinite(value) else "-"


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
