"""Every plot that a run draws: functions from plain numbers to a matplotlib `Figure`.

Figures are made without pyplot, so nothing is global and no display is needed; save one with
`figure.savefig(path)`. Colours are those of Okabe and Ito (2008) and viridis, which colour-blind
readers tell apart. Shapes: M clients, K classes, N images of C channels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.figures.style import GREY, OKABE_ITO, blank_figure, look_of, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NUMBERED = 20  # a matrix with more columns shows colours only
MAX_NAMED = 40  # of more rows or columns some are named, at even distances
FORGETTING = {  # the panel of each metric, and its vertical axis
    "forgetting/own": ("own: the new client", "KID above its lowest so far"),
    "forgetting/global": ("global: existing clients", "KID above its start"),
    "forgetting/replaced": ("replaced: the new client alone", "KID above the population's"),
}


def partition_figure(
    counts: np.ndarray,
    class_names: Sequence[str],
    num_train_clients: int,
    clients: Sequence[int | str] | None = None,
) -> "Figure":
    """Return a heat map of who holds what: images of each class at each client, (M, K) int.

    Rows from `num_train_clients` on are the new clients: below a line and named as such. Clients
    are called `clients`, or counted from 0.
    """
    own = clients or range(len(counts))
    names = [f"new {c}" if i >= num_train_clients else str(c) for i, c in enumerate(own)]
    title, axis_names = "Images of each class at each client", ("class", "client")
    figure = matrix_figure(counts, names, class_names, title, "images", axis_names, "d")
    if num_train_clients < len(counts):
        figure.axes[0].axhline(num_train_clients - 0.5, color=OKABE_ITO[1], linewidth=2.5)
    return figure


def forgetting_figure(curves: "pd.DataFrame") -> "Figure | None":
    """Return the forgetting curves in one panel for each kind that any run has.

    `curves`: a row for each method, metric and step of a run.
    """
    kinds = [key for key in FORGETTING if (curves.metric == key).any()]
    if not kinds:
        return None
    figure = blank_figure(0.6 + 3.3 * len(kinds), 3.9)
    for axes, key in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        mean_lines(axes, curves[curves.metric == key], "step", "value")
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
        title, ylabel = FORGETTING[key]
        axes.set(xlabel="epochs of adaptation", ylabel=ylabel)
        axes.set_title(title, fontsize=10)
    return with_legend(figure)


def matrix_figure(
    matrix: np.ndarray,
    row_names: Sequence[str],
    col_names: Sequence[str],
    title: str,
    label: str = "KID",
    axis_names: tuple[str, str] = ("data of client", "samples of client"),
    spec: str = ".2g",
) -> "Figure":
    """Return a heat map: by default, row i = samples of client i, column j = data of client j.

    `label` names the quantity, `axis_names` are those of the columns and the rows. The numbers
    stand in the cells, as `spec` says, of at most `MAX_NAMED` rows and `MAX_NUMBERED` columns.
    """
    num_rows, num_columns = matrix.shape
    width, height = 0.55 * min(num_columns, MAX_NAMED), 0.24 * min(num_rows, MAX_NAMED)
    figure = blank_figure(max(4.0, 1.8 + width), 1.4 + height)
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap="viridis", aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=axes, label=plain(label), pad=0.02)
    axes.tick_params(labelsize=8, length=2)
    if num_rows <= MAX_NAMED and num_columns <= MAX_NUMBERED:
        for (row, column), level in np.ndenumerate(image.norm(matrix)):
            text = format(matrix[row, column], spec)
            colour = "black" if level > 0.6 else "white"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    x, y = (range(0, num, -(-num // MAX_NAMED)) for num in (num_columns, num_rows))
    slant = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    is_long = max(map(len, col_names)) > 4
    axes.set_xticks(x, [plain(col_names[i]) for i in x], fontsize=8, **(slant if is_long else {}))
    axes.set_yticks(y, [plain(row_names[i]) for i in y], fontsize=8)
    axes.set(xlabel=plain(axis_names[0]), ylabel=plain(axis_names[1]), title=plain(title))
    return figure


# --- lines of methods ---


def mean_lines(axes: "Axes", rows: "pd.DataFrame", x: str, y: str, has_band: bool = True) -> None:
    """Draw each method's mean over its runs, with the range over them as a band or as bars.

    With a band, only the places count where all runs of the method are.
    """
    for method, own in rows.groupby("method", sort=False):
        at = own.groupby(x)[y].agg(["mean", "min", "max", "count"])
        at = at[at["count"] == at["count"].max()] if has_band else at.dropna()
        look = look_of(str(method)) | {"label": plain(str(method)), "markersize": 5}
        if has_band:
            axes.plot(at.index, at["mean"], markevery=max(1, len(at) // 15), **look)
            axes.fill_between(at.index, at["min"], at["max"], color=look["color"], alpha=0.18, lw=0)
        else:
            ends = [at["mean"] - at["min"], at["max"] - at["mean"]]
            axes.errorbar(at.index, at["mean"], yerr=ends, capsize=3, **look)
            if len(at) == 1:  # a line across, to compare the others with
                axes.axhline(at["mean"].iloc[0], color=look["color"], linestyle=":", linewidth=0.9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def with_legend(figure: "Figure") -> "Figure":
    """Name every line once, below the figure, in as many columns as fit."""
    legends = [axes.get_legend_handles_labels() for axes in figure.axes]
    lines = {name: line for own, names in legends for line, name in zip(own, names, strict=True)}
    columns = max(1, min(len(lines), int(figure.get_figwidth() / 1.3)))
    look: dict[str, Any] = {"frameon": False, "fontsize": 9, "loc": "outside lower center"}
    figure.legend([*lines.values()], [*lines], ncols=columns, **look)
    return figure
