"""Images as latents of a frozen autoencoder, and back.

An image's latents are the mean of the encoder's distribution, times the autoencoder's scaling
factor, so that encoding draws nothing. Images pass one by one: their bits then depend on no other
image, and the memory on one alone. n images; C, H, W their channels and sides, c, h, w those of
latents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spire_core.errors import ConfigError
from spire_core.pretrained.folder import BackboneFolder, library, load_part


@dataclass(frozen=True, eq=False)
class LatentCodec:
    """An autoencoder on a device; `name` has the hash of its folder, and the kind of device."""

    vae: Any  # diffusers' AutoencoderKL
    name: str
    device: torch.device

    @property
    def factor(self) -> int:
        """How many pixels a side one latent stands for."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def shape_of(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (c, h, w) of an image's latents; ConfigError for an unfit (C, H, W)."""
        channels, height, width = image_shape
        wanted = self.vae.config.in_channels
        if channels != wanted or height % self.factor or width % self.factor:
            raise ConfigError(
                f"expected images of {wanted} channels and a side divisible by {self.factor} for "
                f"the autoencoder of model.backbone, got {channels} x {height} x {width}: choose "
                "other data, another data.image_size or another model.backbone"
            )
        return self.vae.config.latent_channels, height // self.factor, width // self.factor

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

    ConfigError if it is no AutoencoderKL.
    """
    if folder.autoencoder_part is None:
        return None
    vae = load_part(library().AutoencoderKL, folder.path / folder.autoencoder_part)
    where = torch.device(device)
    name = f"latents {folder.sha256} {where.type}"
    return LatentCodec(vae.requires_grad_(False).to(where), name, where)
