"""One client's data, as the trainer, the evaluator and the adapter take them.

N, n: numbers of images of everybody and of the client; K: classes; L: words of a caption.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.config.schema import Config
from spire_core.adaptation.set_aside import fitted_split
from spire_core.evaluation.prompted_images import Gallery
from spire_core.evaluation.reference_split import ReferenceSplit
from spire_core.partition.split import ClientSplit, Partition
from spire_core.training.context import ClientContext


@dataclass(frozen=True, eq=False)
class ClientData:
    """A client's split of the uint8 images (N, C, H, W), and its true class mixture (K,).

    The mixture is None where it is unknown or no score needs it. `tokens` (N, L) are captions, None
    without text; `labels` (N,) are classes, None where unknown. `gallery` has the images of all
    clients with their captions, where prompts are scored. `encode` makes latents of uint8 images,
    None for a network of pixels. `reference`: the test split that scores compare with, None where
    that is the client's own held-out images. Images are copied on request.
    """

    split: ClientSplit
    images: np.ndarray
    mixture: np.ndarray | None = None
    tokens: np.ndarray | None = None
    labels: np.ndarray | None = None
    gallery: Gallery | None = None
    encode: Callable[[Tensor], Tensor] | None = None
    reference: ReferenceSplit | None = None

    @property
    def client_id(self) -> int:
        return self.split.client_id

    def as_fitted(self, config: Config) -> "ClientData":
        """Return a client with the training images that its fit steps on alone."""
        sets_aside = config.sets_aside and config.is_new(self.client_id)
        return replace(self, split=fitted_split(self.split, sets_aside, config.seed))

    def train_images(self) -> Tensor:
        """Return the images to learn from, (n, C, H, W) uint8."""
        return self.images_at(self.split.train)

    def test_images(self) -> Tensor:
        """Return the held-out images, (n, C, H, W) uint8."""
        return self.images_at(self.split.test)

    def reference_images(self, seed: int) -> Tensor:
        """Return the real images that scores compare with, (n, C, H, W) uint8; a run's `seed`.

        A client of a test split has a class mixture.
        """
        if self.reference is None:
            return self.test_images()
        assert self.mixture is not None  # it has scores
        return torch.from_numpy(self.reference.images_of(self.mixture, seed, self.client_id))

    def reference_labels(self, seed: int) -> np.ndarray | None:
        """Return the classes (n,) of `reference_images`; None where they are unknown."""
        if self.reference is None:
            return None if self.labels is None else self.labels[self.split.test]
        assert self.mixture is not None
        at = self.reference.positions_of(self.mixture, seed, self.client_id)
        return self.reference.labels[at]

    def images_at(self, positions: np.ndarray) -> Tensor:
        """Return the images at positions (n,) among those of everybody, (n, C, H, W) uint8."""
        return torch.from_numpy(self.images[positions])

    def with_images_at(self, positions: np.ndarray, seed: int) -> ClientContext:
        """Return the client with the images at positions (n,), and their captions."""
        images = self.as_shown(self.images_at(positions))
        return ClientContext(self.client_id, seed, images, self._text(positions))

    def as_shown(self, images: Tensor) -> Tensor:
        """Return uint8 images (n, C, H, W) as the network takes them: as they are, or latents."""
        return images if self.encode is None else self.encode(images)

    def prompts(self, num_images: int) -> Tensor | None:
        """Return tokens (num_images, L) to draw for: the held-out images' captions, in turn."""
        return self._text(self.asked(num_images))

    def truth(self, num_images: int) -> tuple[Tensor, Tensor] | None:
        """Return the images (n, C, H, W) uint8 that the prompts describe, and their classes (n,).

        None without text.
        """
        if self.tokens is None or self.labels is None:
            return None
        asked = self.asked(num_images)
        return torch.from_numpy(self.images[asked]), torch.from_numpy(self.labels[asked])

    def asked(self, num_images: int) -> np.ndarray:
        """Return the positions (num_images,) of the held-out images whose captions are drawn."""
        return self.split.test[np.arange(num_images) % len(self.split.test)]

    def _text(self, positions: np.ndarray) -> Tensor | None:
        return None if self.tokens is None else torch.from_numpy(self.tokens[positions])


def gallery_of(
    partition: Partition, images: np.ndarray, tokens: np.ndarray | None
) -> Gallery | None:
    """Return all clients' images (N, C, H, W) with their captions' kinds, by tokens (N, L).

    None without captions, and where clients are not those of the data.
    """
    if tokens is None or not partition.names:
        return None
    _, kinds = np.unique(tokens, axis=0, return_inverse=True)
    owner = np.full(len(images), -1)
    for client in (*partition.train_clients, *partition.new_clients):
        owner[client.train] = owner[client.test] = client.client_id
    return Gallery(images, kinds.reshape(-1), owner)
