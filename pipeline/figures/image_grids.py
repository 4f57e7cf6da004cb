"""Pictures made of images: many images as one array, and such grids stacked under their titles."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from spire_core.errors import DataError

FONT_PIXELS = 14


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


def labelled_grids(rows: Sequence[tuple[str, np.ndarray]], columns: int) -> np.ndarray:
    """Return stacked image grids as one picture (H, W, 3) of uint8, each below its own title.

    `rows` holds (title, images as `image_grid` takes them), all of one size.
    """
    from matplotlib import get_data_path  # takes a third of a second

    font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), FONT_PIXELS)
    parts = []
    for title, images in rows:
        grid = image_grid(images, columns)
        strip = Image.new("RGB", (grid.shape[1], FONT_PIXELS + 6), "white")
        text = title.encode("utf-8", "backslashreplace").decode()
        ImageDraw.Draw(strip).text((2, 2), text, fill="black", font=font)
        parts += [np.asarray(strip), grid]
    return np.concatenate(parts)


def inline(picture: np.ndarray) -> str:
    """Return a picture (H, W, 3) of uint8 as an address that a page can show by itself."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
