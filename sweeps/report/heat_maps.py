"""Figures of a number over two settings: heat maps side by side, every cell with its text.

Like `figures`, without pyplot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.figures.style import blank_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Grid:
    """One heat map: values (rows, columns), NaN where missing, and the text in each cell."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    texts: tuple[tuple[str, ...], ...]


def grids_figure(
    grids: Sequence[Grid], xlabel: str, ylabels: Sequence[str], number: str
) -> "Figure":
    """Return heat maps with one scale of colours, which is labelled `number`.

    The scale is logarithmic where all values allow it.
    """
    values = np.concatenate([grid.values[np.isfinite(grid.values)] for grid in grids])
    low, high = float(values.min()), float(values.max())
    scale = "log" if 0 < low < high else "linear"
    look = {"norm": scale, "vmin": low, "vmax": high, "cmap": "viridis_r"}
    width = sum(0.9 + 0.75 * len(grid.columns) for grid in grids)
    height = 1.6 + 0.42 * max(len(grid.rows) for grid in grids)
    figure = blank_figure(max(4.0, 0.9 + width), height)
    row = figure.subplots(1, len(grids), squeeze=False)[0]
    for axes, grid, ylabel in zip(row, grids, ylabels, strict=True):
        image = axes.imshow(grid.values, aspect="auto", **look)
        axes.set_xticks(range(len(grid.columns)), [*map(plain, grid.columns)])
        axes.set_yticks(range(len(grid.rows)), [*map(plain, grid.rows)])
        axes.set(xlabel=plain(xlabel), ylabel=plain(ylabel))
        axes.set_title(plain(grid.title), fontsize=10)
        for at in zip(*np.nonzero(np.isfinite(grid.values)), strict=True):
            is_dark = float(image.norm(grid.values[at])) > 0.5
            axes.text(
                at[1],
                at[0],
                grid.texts[at[0]][at[1]],
                ha="center",
                va="center",
                fontsize=8,
                color="white" if is_dark else "black",
            )
    figure.colorbar(row[0].images[0], ax=list(row), label=plain(number), shrink=0.9)
    return figure
