"""Real images of a test split that no client holds, as the reference of clients' scores.

N images of the split, K classes, n images of one client's reference.
"""

from dataclasses import dataclass

import numpy as np

from spire_core.rng import numpy_generator

MAX_REFERENCE = 2048  # images of one client


@dataclass(frozen=True, eq=False)
class ReferenceSplit:
    """The uint8 images (N, C, H, W) of a test split and their classes (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def images_of(self, mixture: np.ndarray, seed: int, client_id: int) -> np.ndarray:
        """Return a client's reference, (n, C, H, W): images with its class mixture (K,)."""
        return self.images[self.positions_of(mixture, seed, client_id)]

    def positions_of(self, mixture: np.ndarray, seed: int, client_id: int) -> np.ndarray:
        """Return which images (n,) of the split a client's reference has. Clients may share some.

        They are drawn without replacement, as a function of the seed and the client's id.
        """
        held = np.bincount(self.labels, minlength=len(mixture))
        rng = numpy_generator(seed, "reference", client_id)
        chosen = [
            rng.choice(np.flatnonzero(self.labels == label), num, replace=False)
            for label, num in enumerate(reference_counts(mixture, held))
        ]
        return np.concatenate(chosen)


def reference_counts(mixture: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return how many images (K,) of each class a reference of a mixture (K,) has.

    They are n times the mixture, rounded by largest remainder. n is the largest number for which a
    split that has `held` (K,) images has enough of each class, at most `MAX_REFERENCE`; 0 if there
    is none.
    """
    shown = mixture > 0
    # A class never has less than the whole part of its share, so that no larger n is possible.
    most = int(((held[shown] + 1) / mixture[shown]).min(initial=MAX_REFERENCE))
    for num in range(most, 0, -1):
        counts = _rounded(num, mixture)
        if (counts <= held).all():
            return counts
    return np.zeros(len(mixture), dtype=np.int64)


def _rounded(num: int, mixture: np.ndarray) -> np.ndarray:
    """Return whole numbers (K,) that add up to `num`, by largest remainder of its shares."""
    shares = num * mixture
    counts = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(counts - shares, kind="stable")
    counts[by_remainder[: num - counts.sum()]] += 1
    return counts
