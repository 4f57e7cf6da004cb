"""One client as the functions that train and measure it see it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spire_core.rng import torch_generator


@dataclass(frozen=True, eq=False)
class ClientContext:
    """A client's id, the run's seed, and the uint8 images (N, C, H, W) of the task at hand."""

    client_id: int
    seed: int
    images: Tensor

    def generator(self, purpose: str, *counters: int) -> torch.Generator:
        """Return this client's random stream for one purpose, such as a round's batches."""
        return torch_generator(self.seed, purpose, self.client_id, *counters)
