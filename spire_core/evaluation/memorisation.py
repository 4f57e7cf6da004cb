"""Whether generated images lie nearer to a client's training images than to its held-out ones.

The training images are a random part of the client's images. If a model has learnt of them at most
how many there are of each class, training and held-out images of a class are therefore exchangeable
given the generated ones, whatever these look like: blur and missing classes move no p-value. The
test exchanges their roles within classes and compares the number of generated images whose nearest
image is a training image. It permutes the real images and not the generated ones, of which many may
share one neighbour. Over all classes at once it would find copies in a model that draws new images
of the training images' classes, whose shares are never those of the held-out images.

Novel KID: the KID of those generated images that are nearer to unseen than to training images.
Class by class as many unseen images as training images are put beside these. Unless a model has
memorised, its images are as often nearest to one of the first as to one of the second. Those that
are nearest to a training image are left out, and with them all copies; the others are scored
against further unseen images.
Letters: q generated images, m training and n held-out or unseen images of one client; D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spire_core.evaluation.kid import kid
from spire_core.rng import numpy_generator

NUM_EXCHANGES = 9999  # the least p-value is 1 / 10,000
_ROUNDING = 1e-9
LEAST = 16  # novel images, below which they have no score


@dataclass(frozen=True, eq=False)
class Neighbours:
    """How generated images lie among one client's training (m,) and held-out images (n,).

    `hits`: of how many generated images an image is the nearest; equally near images share.
    `reach`: its distance to the nearest generated image. `classes` (m + n,) of the training images,
    then of the held-out ones; without them all are alike.
    """

    train_hits: np.ndarray
    test_hits: np.ndarray
    train_reach: np.ndarray
    test_reach: np.ndarray
    classes: np.ndarray | None = None

    @property
    def share(self) -> float:
        """The share of generated images whose nearest image is a training image."""
        train = float(self.train_hits.sum())
        return train / (train + float(self.test_hits.sum()))

    @property
    def chance(self) -> float:
        """The expected share if nothing was memorised: in each class, that of training images."""
        among = self.by_class()
        expected = sum(hits.sum() * num_train / len(hits) for hits, num_train in among)
        return float(expected / sum(hits.sum() for hits, _ in among))

    def by_class(self) -> list[tuple[np.ndarray, int]]:
        """Return the hits of each class's images, and how many of them are training images."""
        hits, m = np.concatenate([self.train_hits, self.test_hits]), len(self.train_hits)
        classes = np.zeros(len(hits), dtype=int) if self.classes is None else self.classes
        return [(hits[of], int(of[:m].sum())) for of in (classes == c for c in np.unique(classes))]


def neighbours(generated: Tensor, train: Tensor, test: Tensor) -> Neighbours:
    """Return how generated images (q, C, H, W) lie among training and held-out ones.

    Distances are Euclidean over pixels. No set is cut to the size of another: the share that chance
    gives is known for any two sizes.
    """
    real = torch.cat([train, test]).flatten(1)
    distances = _distances(generated.flatten(1), real)
    nearest = (distances == distances.amin(1, keepdim=True)).double()
    hits = (nearest / nearest.sum(1, keepdim=True)).sum(0).numpy()
    reach = distances.amin(0).double().numpy()
    m = len(train)
    return Neighbours(hits[:m], hits[m:], reach[:m], reach[m:])


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the distances (N, M) of x (N, P) and y (M, P); 0 of a copy, equal of equal images."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")  # no matrix product


def exchange_p(clients: Sequence[Neighbours], seed: int) -> float:
    """Return the p-value of the clients' mean share, against larger shares, by random exchanges.

    The roles of each client's m + n images are exchanged at random within its classes. The p-value
    (1 + exchanges with at least this share) / (1 + all) is valid at every level and for any number
    of images (Phipson & Smyth 2010).
    """
    observed = sum(client.share for client in clients)
    shares = np.zeros(NUM_EXCHANGES)
    for i, client in enumerate(clients):
        shares += _exchanged_shares(client, numpy_generator(seed, "exchange", i))
    as_large = int((shares >= observed - _ROUNDING).sum())
    return (1 + as_large) / (1 + NUM_EXCHANGES)


def _exchanged_shares(client: Neighbours, rng: np.random.Generator) -> np.ndarray:
    """Return shares under random roles, (NUM_EXCHANGES,).

    Images with as many hits are alike, so that their numbers among m are hypergeometric.
    """
    found, among = np.zeros(NUM_EXCHANGES), client.by_class()
    for hits, num_train in among:
        values, counts = np.unique(hits, return_counts=True)
        drawn = rng.multivariate_hypergeometric(
            counts, num_train, NUM_EXCHANGES, method="marginals"
        )
        found += drawn @ values
    return found / sum(hits.sum() for hits, _ in among)


def beside_training(
    train_labels: np.ndarray, unseen_labels: np.ndarray, seed: int, client_id: int
) -> np.ndarray | None:
    """Return which unseen images (n,), bool, are put beside the training images.

    Labels are (m,) and (n,). None where a class has fewer than twice as many unseen images.
    """
    rng, chosen = numpy_generator(seed, "novelty", client_id), np.zeros(len(unseen_labels), bool)
    for label, num in zip(*np.unique(train_labels, return_counts=True), strict=True):
        held = np.flatnonzero(unseen_labels == label)
        if len(held) < 2 * num:
            return None
        chosen[rng.choice(held, num, replace=False)] = True
    return chosen


def is_novel(generated: Tensor, train: Tensor, beside: Tensor) -> Tensor:
    """Return which generated images (q,), bool, are nearer to one beside the training images.

    Images are (q, C, H, W) and twice (m, C, H, W); distances are Euclidean over pixels.
    """
    drawn, *sets = (images.flatten(1) for images in (generated, train, beside))
    to_train, to_beside = (_distances(drawn, x).amin(1) for x in sets)
    return to_beside < to_train


def novel_kid(
    features: Tensor, novel: Tensor, real: Tensor, kid_sizes: tuple[int, int, int]
) -> float | None:
    """Return the KID of the novel among generated images, None if fewer than `LEAST` are.

    `features` (q, D) and `novel` (q,) of the generated images, `real` (n - m, D) of the unseen
    images that do not stand beside the training images; `kid_sizes` as `kid` takes them.
    """
    return kid(real, features[novel], *kid_sizes).mean if novel.sum() >= LEAST else None
