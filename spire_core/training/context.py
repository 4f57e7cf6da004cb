"""One client as the functions that train and measure it see it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spire_core.rng import torch_generator


@dataclass(frozen=True, eq=False)
class ClientContext:
    """A client's id, the run's seed, and the uint8 images (N, C, H, W) of the task at hand.

    Of a model of latents `images` are float latents (N, c, h, w).
    `tokens` (N, L) are the images' captions, None without text. `rows` (N,): of a client with
    several embeddings, the one that each image is shown with.
    """

    client_id: int
    seed: int
    images: Tensor
    tokens: Tensor | None = None
    rows: Tensor | None = None

    def chosen(self, index: Tensor) -> "ClientContext":
        """Return this client with some of its images."""
        tokens = None if self.tokens is None else self.tokens[index]
        rows = None if self.rows is None else self.rows[index]
        return replace(self, images=self.images[index], tokens=tokens, rows=rows)

    def generator(self, purpose: str, *counters: int) -> torch.Generator:
        """Return this client's random stream for one purpose, such as a round's batches."""
        return torch_generator(self.seed, purpose, self.client_id, *counters)
