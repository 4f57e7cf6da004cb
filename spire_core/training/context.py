"""One client as the functions that train and measure it see it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spire_core.rng import torch_generator


@dataclass(frozen=True, eq=False)
class ClientContext:
    """A client's id, the run's seed, and the uint8 images (N, C, H, W) of the task at hand.

    Of a model of latents `images` are float latents (N, c, h, w).
    `tokens` (N, L) are the images' captions, None without text.
    """

    client_id: int
    seed: int
    images: Tensor
    tokens: Tensor | None = None

    def chosen(self, index: Tensor) -> "ClientContext":
        """Return this client with some of its images."""
        tokens = None if self.tokens is None else self.tokens[index]
        return replace(self, images=self.images[index], tokens=tokens)

    def prior_decay(self, sigma: float | None) -> float:
        """Return the weight decay that gives an embedding e a prior N(0, sigma^2 I); 0 for None.

        Let the client's images have N numbers in all, each with unit variance around the network's
        prediction. The most probable e then minimises L + |e|^2 / (sigma^2 N), where L is the mean
        denoising loss. Its gradient has a term 2 e / (sigma^2 N), so that the prior counts for less
        the more images there are.
        """
        return 0.0 if sigma is None else 2 / (sigma**2 * self.images.numel())

    def generator(self, purpose: str, *counters: int) -> torch.Generator:
        """Return this client's random stream for one purpose, such as a round's batches."""
        return torch_generator(self.seed, purpose, self.client_id, *counters)
