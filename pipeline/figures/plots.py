"""Every plot that a run draws: functions from plain numbers to a matplotlib `Figure`.

Figures are made without pyplot, so nothing is global and no display is needed; save one with
`figure.savefig(path)`. Colours are those of Okabe and Ito (2008) and viridis, which colour-blind
readers tell apart. Shapes: M clients, K classes, N images of C channels.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.figures.style import GREY, MARKERS, OKABE_ITO, blank_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NUMBERED = 20  # a matrix with more columns shows colours only
MAX_NAMED = 40  # of more rows or columns some are named, at even distances
Curve = Sequence[tuple[float, float]]  # (x, y)


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


def forgetting_figure(own: Mapping[str, Curve], lost: Mapping[str, Curve], title: str) -> "Figure":
    """Return the forgetting curves, (epoch, KID difference) points by method, in two panels.

    `own`: KID on the new client's held-out data above its lowest value so far. `lost`: KID on the
    pre-training population above its value before adaptation.
    """
    figure = blank_figure(7.2, 3.6)
    panels = figure.subplots(1, 2)
    texts = ("own: the new client", "global: the pre-training clients")
    labels = ("KID above its lowest so far", "KID above its start")
    for axes, curves, text, label in zip(panels, (own, lost), texts, labels, strict=True):
        _lines(axes, curves, names=[*lost])
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
        axes.set(xlabel="epochs of adaptation", ylabel=label)
        axes.set_title(text, fontsize=10)
    figure.suptitle(plain(title))
    lines, labels = panels[1].get_legend_handles_labels()  # each name of `own` is in `lost`
    figure.legend(lines, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


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


def _lines(axes: "Axes", series: Mapping[str, Curve], names: Sequence[str]) -> None:
    """Draw the series; a name's colour and marker follow its place in `names`."""
    for name, points in series.items():
        i = names.index(name)
        colour, marker = OKABE_ITO[i % len(OKABE_ITO)], MARKERS[i % len(MARKERS)]
        x, y = zip(*points, strict=True) if points else ((), ())
        style = ("-", "--", ":")[i // len(OKABE_ITO) % 3]
        axes.plot(x, y, style, color=colour, marker=marker, markersize=4.5, label=plain(name))
    axes.locator_params(axis="x", nbins=8, integer=True, steps=[1, 2, 5, 10])
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
