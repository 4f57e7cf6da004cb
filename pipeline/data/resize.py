"""Resizes uint8 images to the size that a model sees."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.config.data import side

_CHUNK_VALUES = 2**23  # resized at a time


def resized(images: np.ndarray, image_size: int | None) -> np.ndarray:
    """Return images (N, C, H, H) uint8 as (N, C, S, S) uint8, where S is `image_size`.

    Images that are 28 wide, with another S, are first padded with zeros to 32. With None they are
    only padded. If S divides their size, each pixel is the mean of a square, and halves round up.
    Otherwise the resizing is bilinear, with antialiasing if it shrinks.
    """
    num, channels, _, width = images.shape
    size = side(width, image_size)
    if size == width:
        return images
    out = np.empty((num, channels, size, size), dtype=np.uint8)
    step = max(1, _CHUNK_VALUES // (channels * max(size, width) ** 2))
    for start in range(0, num, step):
        chunk = images[start : start + step]
        if width == 28:
            chunk = np.pad(chunk, ((0, 0), (0, 0), (2, 2), (2, 2)))
        out[start : start + step] = _resize_chunk(chunk, size)
    return out


def _resize_chunk(images: np.ndarray, size: int) -> np.ndarray:
    num, channels, _, width = images.shape
    if width % size == 0:
        factor = width // size
        kind = np.uint16 if factor <= 16 else np.uint32  # that holds factor^2 (255 + 1/2)
        total = np.full((num, channels, size, size), factor**2 // 2, kind)
        for row, column in itertools.product(range(factor), repeat=2):  # 6 x as fast as one sum
            total += images[:, :, row::factor, column::factor]
        total //= kind(factor**2)
        return total.astype(np.uint8)
    x = torch.from_numpy(np.array(images)).float()
    x = F.interpolate(x, (size, size), mode="bilinear", antialias=size < width)
    return x.round().clamp(0, 255).to(torch.uint8).numpy()
