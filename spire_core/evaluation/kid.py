"""Kernel Inception Distance between sets of features, bit for bit as torch-fidelity computes it.

Letters: N real and M fake features, each of D numbers; n features in a subset.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from spire_core.errors import DataError
from spire_core.rng import numpy_generator

NUM_SPLITS = 10  # of real images, for a floor


@dataclass(frozen=True)
class KidScore:
    """A KID with the sizes behind it.

    `std` is the spread over subsets (over splits for a floor), not a confidence interval. Without
    an extractor, features have no numbers, and both are NaN.
    """

    mean: float
    std: float
    subset_size: int
    num_subsets: int
    num_real: int
    num_fake: int

    @property
    def is_known(self) -> bool:
        """Whether there were features to compare."""
        return not math.isnan(self.mean)


@cache
def _numpy_blas() -> ThreadpoolController:
    # One thread: products this small take 10-20 times longer when threads wait for a busy core, and
    # with one thread the scores do not depend on the number of cores.
    return ThreadpoolController().select(internal_api="openblas")


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the kernel (x.y / D + 1)^3, (n, n), between features x and y, each (n, D)."""
    return (np.matmul(x, y.T) * (1.0 / x.shape[1]) + 1) ** 3


def _scores(
    fakes: Sequence[Tensor], reals: Sequence[Tensor], subset_size: int, num_subsets: int, seed: int
) -> list[list[KidScore]]:
    """Return the score of every fake set (rows) against every real one (columns).

    The random subsets are a function of the seed and the sizes of the two sets alone. All sets of
    one size therefore meet the same subsets of another set, whose own sums are computed once.
    """
    if all(features.shape[1] == 0 for features in (*fakes, *reals)):
        unknown = (math.nan, math.nan, 0, 0)
        return [[KidScore(*unknown, len(real), len(fake)) for real in reals] for fake in fakes]
    sets = [[features.float().cpu().numpy() for features in some] for some in (reals, fakes)]

    @cache
    def subsets(*sizes: int) -> list[list[np.ndarray]]:
        """Return positions of n real and n fake features, so often; once if n is all of both."""
        size = min(subset_size, *sizes)
        if size < 2:
            raise DataError(f"KID expected subsets of at least 2 images, got {size}: give more")
        rng = np.random.RandomState(seed % 2**32)
        rounds = 1 if {*sizes} == {size} else num_subsets
        return [[rng.choice(n, size, replace=False) for n in sizes] for _ in range(rounds)]

    @cache
    def within(side: int, i: int, *sizes: int) -> list[np.floating]:
        """Return for each subset of a set the kernel's sum over pairs of different features."""
        rows = (sets[side][i][at[side]] for at in subsets(*sizes))
        kernels = (_kernel(x, x) for x in rows)
        return [(kernel.sum(axis=1) - np.diagonal(kernel)).sum() for kernel in kernels]

    def score(i: int, j: int) -> KidScore:
        real, fake = sets[0][j], sets[1][i]
        sizes = len(real), len(fake)
        pairs = subsets(*sizes)
        size, mmds = len(pairs[0][0]), np.zeros(len(pairs))
        sums = zip(within(0, j, *sizes), within(1, i, *sizes), pairs, strict=True)
        for k, (in_real, in_fake, (at_real, at_fake)) in enumerate(sums):
            across = _kernel(real[at_real], fake[at_fake]).sum(axis=0).sum()
            mmds[k] = (in_real + in_fake) / (size * (size - 1)) - 2 * across / (size * size)
        return KidScore(float(np.mean(mmds)), float(np.std(mmds)), size, len(pairs), *sizes)

    with _numpy_blas().limit(limits=1):
        return [[score(i, j) for j in range(len(reals))] for i in range(len(fakes))]


def kid(
    real: Tensor, fake: Tensor, subset_size: int = 1000, num_subsets: int = 20, seed: int = 0
) -> KidScore:
    """Return the KID of fake (M, D) against real (N, D) features.

    KID is the unbiased estimate of MMD^2 with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018,
    sections 2.1 and 4), averaged over `num_subsets` pairs of random subsets of min(subset_size, N,
    M) features. If N = M = that size, every subset is the whole set: the score is then computed
    once, and `std` is 0. Equal distributions score about 0, possibly below. Scores of different
    extractors are not comparable. The result equals that of torch-fidelity's
    `calculate_metrics(kid=True, rng_seed=seed)`. Raises `DataError` for fewer than 2 features.
    """
    return _scores([fake], [real], subset_size, num_subsets, seed)[0][0]


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return the MMD^2 of KID between features (N, D) and (M, D), without a term of `real` alone.

    Sets of fake features are in the order of their distances to one real set, of which a single
    feature is enough. Both sets are whole.
    """
    with _numpy_blas().limit(limits=1):
        x, y = (features.double().cpu().numpy() for features in (real, fake))
        within, num_pairs = _kernel(y, y), len(y) * (len(y) - 1)
        different = within.sum() - np.trace(within)
        return float(different / num_pairs - 2 * _kernel(x, y).mean())


def kid_floor(
    real: Tensor,
    subset_size: int = 1000,
    num_subsets: int = 20,
    seed: int = 0,
    max_images: int | None = None,
) -> KidScore:
    """Return the KID of real features (N, D) against themselves, the floor of sampling noise.

    The mean over `NUM_SPLITS` random splits into two disjoint halves, with the spread over the
    splits as `std`. A KID within about two `std` of the floor cannot be distinguished from real
    data. `max_images` caps the images per half: pass the number of images behind the scores that
    are compared with the floor, because fewer images are noisier. Raises `DataError` for fewer than
    4 features.
    """
    half, scores = min(len(real) // 2, max_images or len(real)), list[KidScore]()
    for split in range(NUM_SPLITS):
        order = torch.from_numpy(numpy_generator(seed, "kid_floor", split).permutation(len(real)))
        halves = real[order[:half]], real[order[half : 2 * half]]
        scores.append(kid(*halves, subset_size, num_subsets, seed))
    means = [score.mean for score in scores]
    return replace(scores[0], mean=float(np.mean(means)), std=float(np.std(means)))


def kid_matrix(
    fakes: Sequence[Tensor], reals: Sequence[Tensor], subset_size: int, num_subsets: int, seed: int
) -> np.ndarray:
    """Return the KIDs (len(fakes), len(reals)), float64, of every fake set against every real one.

    Entry (i, j) is `kid(reals[j], fakes[i], ...).mean`. A row whose smallest entry is off the
    diagonal belongs to a client that is drawn as another.
    """
    scores = _scores(fakes, reals, subset_size, num_subsets, seed)
    means = [[score.mean for score in row] for row in scores]
    return np.array(means, dtype=np.float64).reshape(len(fakes), len(reals))
