"""Images as latents of a frozen autoencoder, and back.

An image's latents are the mean of the encoder's distribution, times the autoencoder's scaling
factor, so that encoding draws nothing. Images pass one by one: their bits then depend on no other
image, and the memory on one alone. n images; C, H, W their channels and sides, c, h, w those of
latents.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spire_core.errors import ConfigError
from spire_core.pretrained.folder import BackboneFolder, read_settings
from spire_core.pretrained.loading import library, load_part
from spire_core.pretrained.trial import check_takes

TRIED = 8  # latents a side, of which any autoencoder makes images


@dataclass(frozen=True)
class LatentShapes:
    """C of images, c of latents, and how many pixels a side one latent stands for."""

    image_channels: int
    channels: int
    factor: int

    def of(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (c, h, w) of the latents of an image (C, H, W)."""
        return self.channels, image_shape[1] // self.factor, image_shape[2] // self.factor


def latent_shapes(folder: BackboneFolder) -> LatentShapes | None:
    """Return the shapes of a folder's autoencoder by its settings, None for a model of pixels.

    ConfigError for settings that no AutoencoderKL of images has, or that do not scale latents
    alone.
    """
    if folder.autoencoder is None:
        return None
    path = folder.autoencoder / "config.json"
    settings = read_settings(path)
    try:
        if not (levels := len(settings["block_out_channels"])):
            raise ValueError("block_out_channels")
        found = LatentShapes(
            int(settings["in_channels"]), int(settings["latent_channels"]), 2 ** (levels - 1)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"expected the settings of an AutoencoderKL in {path}, got none of {error}: save the "
            "pipeline again"
        ) from error
    moved = [name for name in ("shift_factor", "latents_mean", "latents_std") if settings.get(name)]
    if moved:
        raise ConfigError(
            f"expected an autoencoder whose latents are scaled alone in {path}, got one with "
            f"{moved[0]}: choose another model.backbone"
        )
    scale = settings.get("scaling_factor", 1.0)  # older files have none, but diffusers' default
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not (is_number and 0.0 < scale < math.inf):
        raise ConfigError(
            f"expected scaling_factor as a finite number above 0 in {path}, got {scale!r:.80}: "
            "save the pipeline again"
        )
    return found


@dataclass(frozen=True, eq=False)
class LatentCodec:
    """An autoencoder on a device; `name` has the hash of its weights, and the kind of device."""

    vae: Any  # diffusers' AutoencoderKL
    shapes: LatentShapes
    name: str
    device: torch.device

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return images (n, C, H, W) in [-1, 1] as latents (n, c, h, w) on the CPU."""
        scale = self.vae.config.scaling_factor
        return self._one_by_one(lambda x: self.vae.encode(x).latent_dist.mode() * scale, images)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return latents (n, c, h, w) as images (n, C, H, W), about in [-1, 1], on the CPU."""
        scale = self.vae.config.scaling_factor
        return self._one_by_one(lambda z: self.vae.decode(z / scale).sample, latents)

    def _one_by_one(self, call: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        return torch.cat([call(row.to(self.device)).cpu() for row in rows.split(1)])


def load_codec(folder: BackboneFolder, device: torch.device | str) -> LatentCodec | None:
    """Return a folder's autoencoder, frozen, in float32; None for a model of pixels.

    ConfigError if it cannot be loaded.
    """
    shapes = latent_shapes(folder)
    if shapes is None or folder.autoencoder is None:
        return None
    vae = load_part(library().AutoencoderKL, folder.autoencoder).requires_grad_(False)
    side = TRIED * shapes.factor
    check_takes(vae, (shapes.image_channels, side, side), folder.autoencoder)
    where = torch.device(device)
    name = f"latents {folder.autoencoder_sha256} {where.type}"
    return LatentCodec(vae.to(where), shapes, name, where)
