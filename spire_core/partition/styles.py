"""Styles: each client draws its images in a way of its own, so that clients differ in features.

A style is one number per client, drawn from the seed and the client's id (feature skew, as rotated
and coloured digits have it in other benchmarks). Letters: n images, H x W pixels, white on black.
"""

import colorsys
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spire_core.errors import ConfigError
from spire_core.partition.split import Partition
from spire_core.rng import numpy_generator

MAX_ANGLE = math.pi / 4


def amount_of(client_id: int, seed: int) -> float:
    """Return a client's style, uniform in [-1, 1]."""
    return float(numpy_generator(seed, "style", client_id).uniform(-1, 1))


def styled_channels(channels: int, style: str) -> int:
    """Return the number of channels of images in a style; ConfigError as `styled` says."""
    if style != "tint":
        return channels
    if channels != 1:
        raise ConfigError(
            f"expected grey images with partition.style=tint, got {channels} channels: choose "
            "rotation or stroke"
        )
    return 3


def styled(images: np.ndarray, partition: Partition, style: str, seed: int) -> np.ndarray:
    """Return uint8 images (N, C, H, W) in their owners' styles; images of nobody stay black.

    `tint` makes colour images out of grey ones; ConfigError if they have colours.
    """
    if style == "none":
        return images
    channels = styled_channels(images.shape[1], style)
    out = np.zeros((len(images), channels, *images.shape[2:]), np.uint8)
    for client in (*partition.train_clients, *partition.new_clients):
        own = np.concatenate([client.train, client.test])
        amount = amount_of(client.client_id, seed)
        drawn = STYLES[style](torch.from_numpy(images[own]).float(), amount)
        out[own] = drawn.round().clamp(0, 255).to(torch.uint8).numpy()
    return out


def _rotated(images: Tensor, amount: float) -> Tensor:
    """Turn images (n, C, H, W) about their middle, by up to 45 degrees either way."""
    cos, sin = math.cos(amount * MAX_ANGLE), math.sin(amount * MAX_ANGLE)
    turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _tinted(images: Tensor, amount: float) -> Tensor:
    """Colour grey images (n, 1, H, W) by a full hue."""
    colour = torch.tensor(colorsys.hsv_to_rgb((amount + 1) / 2, 1.0, 1.0))
    return images * colour[:, None, None]


def _stroked(images: Tensor, amount: float) -> Tensor:
    """Thicken (above 0) or thin the strokes of images (n, C, H, W) by up to one pixel each side."""
    extreme = F.max_pool2d(images, 3, 1, 1) if amount > 0 else -F.max_pool2d(-images, 3, 1, 1)
    return (1 - abs(amount)) * images + abs(amount) * extreme


STYLES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "rotation": _rotated,
    "tint": _tinted,
    "stroke": _stroked,
}
