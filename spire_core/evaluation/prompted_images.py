"""Images that were drawn for prompts, against real images of the same prompts.

Letters: n drawn images, each for a prompt of some kind; N real images of A owners, each of a kind.
The distance of two images is their mean absolute difference as a share of a pixel's range.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gallery:
    """Real uint8 images (N, C, H, W) with the kind (N,) and the owner (N,) of each.

    Owners count from 0; -1 is an image that takes no part.
    """

    images: np.ndarray
    kinds: np.ndarray
    owner: np.ndarray

    def only(self, positions: np.ndarray) -> "Gallery":
        """Return the gallery in which these images alone take part; the images are not copied."""
        owner = np.full_like(self.owner, -1)
        owner[positions] = self.owner[positions]
        return Gallery(self.images, self.kinds, owner)

    def without(self, positions: np.ndarray) -> "Gallery":
        """Return the gallery in which these images take no part; the images are not copied."""
        owner = self.owner.copy()
        owner[positions] = -1
        return Gallery(self.images, self.kinds, owner)

    def of_kind(self, kind: int) -> tuple[Tensor, np.ndarray]:
        """Return the images of a kind, (m, C, H, W) float in [-1, 1], and their owners (m,)."""
        at = np.flatnonzero((self.kinds == kind) & (self.owner >= 0))
        return torch.from_numpy(self.images[at]).float() / 127.5 - 1, self.owner[at]


def owner_distances(images: Tensor, kinds: np.ndarray, gallery: Gallery) -> np.ndarray:
    """Return the mean distance of images (n, C, H, W) to each owner's images of their kinds, (A,).

    The mean is over the images of whose kind the owner has any; infinite where it has none.
    """
    num_owners = int(gallery.owner.max(initial=-1)) + 1
    totals, counts = np.zeros(num_owners), np.zeros(num_owners)
    for distances, has_kind in _by_image(images, kinds, gallery):
        totals, counts = totals + distances, counts + has_kind
    return _means(totals, counts)


def retrieval_rank(owner: int, images: Tensor, kinds: np.ndarray, gallery: Gallery) -> int:
    """Return how many owners are at least as near to images (n, C, H, W) as one: 1 is the best.

    The one is among them. Another is compared with it by the mean distances of both to the images
    of whose kind both have any, and is not counted where there is none.
    """
    num_owners = int(gallery.owner.max(initial=-1)) + 1
    others, own, counts = np.zeros((3, num_owners))
    for distances, has_kind in _by_image(images, kinds, gallery):
        if has_kind[owner]:
            others, counts = others + distances, counts + has_kind
            own += distances[owner] * has_kind
    return int(((counts > 0) & (_means(others, counts) <= _means(own, counts))).sum())


def _means(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)


def _by_image(
    images: Tensor, kinds: np.ndarray, gallery: Gallery
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each image its mean distance to each owner's of its kind, and who has any, (A,).

    The distance is 0 to who has none.
    """
    num_owners = int(gallery.owner.max(initial=-1)) + 1
    for kind in np.unique(kinds):
        real, owner = gallery.of_kind(kind)
        held = np.bincount(owner, minlength=num_owners)
        for row in pixel_distances(images[torch.from_numpy(kinds == kind)], real).numpy():
            yield np.bincount(owner, row, num_owners) / np.maximum(held, 1), held > 0


def pixel_distances(images: Tensor, others: Tensor) -> Tensor:
    """Return the distance of each image (n, C, H, W) to each of the others, (n, m) float64."""
    return _mean_differences(images.flatten(1), others.flatten(1))


def paired_pixel_distances(images: Tensor, others: Tensor) -> Tensor:
    """Return the distance of each image (n, C, H, W) to the other of its place, (n,) float64.

    The bits are those of `pixel_distances`, so that equal images are equally far.
    """
    return _mean_differences(images.flatten(1)[:, None], others.flatten(1)[:, None])[:, 0, 0]


def _mean_differences(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double(), p=1) / (2 * x.shape[-1])


def mean_images(kinds: np.ndarray, gallery: Gallery) -> Tensor | None:
    """Return the mean of all images of each kind, (n, C, H, W); None if one has no image."""
    means = {kind: gallery.of_kind(kind)[0] for kind in np.unique(kinds)}
    if not all(len(images) for images in means.values()):
        return None
    return torch.stack([means[kind].mean(0) for kind in kinds])


def nearest_images(kinds: np.ndarray, gallery: Gallery, distances: np.ndarray) -> Tensor | None:
    """Return the first image of each kind that the nearest owner has, (n, C, H, W).

    `distances` (A,) order the owners. An owner without an image of a kind leaves it to the next.
    None if one kind has no image.
    """
    found = []
    for kind in kinds:
        images, owner = gallery.of_kind(kind)
        if len(images) == 0:
            return None
        found.append(images[int(np.argmin(distances[owner]))])
    return torch.stack(found)
