"""Own images in grey or in colour."""

import numpy as np
from PIL import Image


def in_channels(images: np.ndarray, channels: int | str) -> np.ndarray:
    """Return RGB images (N, 3, S, S) uint8 as (N, C, S, S) with C of `data.channels`.

    "auto" takes one channel if no image has a colour. One channel is Pillow's luma, so that grey
    images keep their values.
    """
    if channels == "auto":
        is_grey = all((images[:, 0] == images[:, i]).all() for i in (1, 2))
        channels = 1 if is_grey else 3
    if channels == 3:
        return images
    out = np.empty((len(images), 1, *images.shape[2:]), dtype=np.uint8)
    for image, grey in zip(images, out, strict=True):  # one at a time, for memory
        grey[0] = np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))
    return out
