"""Pictures made of images: many images as one array, and such grids stacked under their titles."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.figures.style import blank_figure, plain
from spire_core.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 6.5  # inches of a figure of grids
TITLE_PIXELS = 20  # of a line of text above a grid


def image_grid(images: np.ndarray, columns: int, pad: int = 2, scale: int = 2) -> np.ndarray:
    """Return images (N, C, H, W), uint8 or float in [-1, 1], as one picture (H', W', 3) of uint8.

    C is 1 or 3; rows fill from the left, `pad` white pixels lie between and around the images, and
    each pixel becomes scale x scale; floats outside [-1, 1] are clipped. Raises DataError for
    floats that are not finite.
    """
    if images.dtype != np.uint8:
        if not np.isfinite(images).all():
            raise DataError("expected finite images, got NaN or inf: look for a diverged model")
        images = np.rint((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)
    num, _, height, width = images.shape
    num_rows = -(-num // columns)
    tiles = np.full((num_rows * columns, 3, height * scale, width * scale), 255, np.uint8)
    tiles[:num] = images.repeat(scale, axis=2).repeat(scale, axis=3)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (pad, 0), (pad, 0)), constant_values=255)
    grid = tiles.reshape(num_rows, columns, *tiles.shape[1:]).transpose(0, 3, 1, 4, 2)
    grid = grid.reshape(num_rows * tiles.shape[2], columns * tiles.shape[3], 3)
    return np.pad(grid, ((0, pad), (0, pad), (0, 0)), constant_values=255)


def titled(text: str, picture: np.ndarray) -> np.ndarray:
    """Return a picture (H, W, 3) of uint8 below a line of text, which is cut at its width."""
    strip = Image.new("RGB", (picture.shape[1], TITLE_PIXELS), "white")
    font = ImageFont.load_default(TITLE_PIXELS - 6)
    ImageDraw.Draw(strip).text((2, 2), text, fill="black", font=font)
    return np.concatenate([np.asarray(strip), picture])


def labelled_grids(rows: Sequence[tuple[str, np.ndarray]], columns: int) -> "Figure":
    """Return stacked image grids, each below its own title.

    `rows` holds (title, images as `image_grid` takes them), for example "client 24: real".
    """
    grids = [image_grid(images, columns) for _, images in rows]
    heights = [WIDTH * grid.shape[0] / grid.shape[1] for grid in grids]
    figure = blank_figure(WIDTH, sum(heights) + 0.3 * len(rows))
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, grid, (text, _) in zip(panels, grids, rows, strict=True):
        axes.imshow(grid, interpolation="nearest")
        axes.set_title(plain(text), loc="left", fontsize=10, pad=3)
        axes.set_axis_off()
    return figure
