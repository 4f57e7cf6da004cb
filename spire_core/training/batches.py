"""A client's images in batches, in an order that is drawn anew for each pass.

B: batch size; L: words of a caption.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from spire_core.training.context import ClientContext


class Batch(NamedTuple):
    """uint8 images (B, C, H, W) and their captions' tokens (B, L), None without text.

    `rows` (B,): the embedding that each is shown with, None of a single one.
    """

    images: Tensor
    tokens: Tensor | None = None
    rows: Tensor | None = None

    def repeated(self, times: int) -> "Batch":
        """Return the batch so many times, one copy after the other.

        The timesteps of a batch ascend (`sample_timesteps`), so that those of an image's copies are
        spread evenly.
        """
        if times == 1:
            return self
        tokens = None if self.tokens is None else self.tokens.repeat(times, 1)
        rows = None if self.rows is None else self.rows.repeat(times)
        return Batch(self.images.repeat(times, 1, 1, 1), tokens, rows)


def batches(
    images: Tensor, batch_size: int, num_steps: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield `num_steps` batches: passes over the images, which are reshuffled before each pass."""
    taken = 0
    while taken < num_steps:
        for index in torch.randperm(len(images), generator=generator).split(batch_size):
            if taken == num_steps:
                return
            taken += 1
            yield images[index]


def client_batches(
    client: ClientContext, batch_size: int, num_steps: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Yield a client's batches, images with their captions, in the order of `batches`."""
    for index in batches(torch.arange(len(client.images)), batch_size, num_steps, generator):
        chosen = client.chosen(index)
        yield Batch(chosen.images, chosen.tokens, chosen.rows)
