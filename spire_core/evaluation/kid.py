"""Kernel Inception Distance between sets of features, bit for bit as torch-fidelity computes it.

The only file that imports torch_fidelity, for Inception alone and inside a function: the import
takes two seconds. Letters: N real and M fake features, each of D numbers; n features in a subset.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from spire_core.errors import DataError
from spire_core.rng import numpy_generator

Subset = tuple[np.ndarray, np.ndarray]  # positions of real and of fake features, n of each


@dataclass(frozen=True)
class KidScore:
    """A KID and what it was computed with.

    `std` is the spread over subsets (over splits for a floor), not a confidence interval.
    """

    mean: float
    std: float
    subset_size: int
    num_subsets: int
    num_real: int
    num_fake: int


def _check(real: Tensor, fake: Tensor) -> None:
    for name, features in (("real", real), ("fake", fake)):
        if features.ndim != 2 or len(features) < 2:
            raise DataError(
                f"KID expected at least 2 {name} features (N, D), got {tuple(features.shape)}: "
                "give every client more images"
            )
        if not torch.isfinite(features).all():
            raise DataError(
                f"KID expected finite {name} features, got NaN or infinity: look at the images, "
                "training may have diverged"
            )
    if real.shape[1] != fake.shape[1]:
        raise DataError(
            f"KID expected features of one size, got {real.shape[1]} real and {fake.shape[1]} "
            "fake: compute both with the same extractor"
        )


@cache
def _numpy_blas() -> ThreadpoolController:
    # One thread: products this small take 10-20 times longer where threads wait for a busy core,
    # and the scores do not depend on the number of cores.
    return ThreadpoolController().select(internal_api="openblas")


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the kernel (x.y / D + 1)^3, (n, n), between features x and y, each (n, D)."""
    return (np.matmul(x, y.T) * (1.0 / x.shape[1]) + 1) ** 3


def _sums_within(x: np.ndarray, chosen: Sequence[np.ndarray]) -> list[np.floating]:
    """Return for each subset of x (N, D) the kernel's sum over pairs of different rows."""
    kernels = (_kernel(rows, rows) for rows in (x[at] for at in chosen))
    return [(kernel.sum(axis=1) - np.diagonal(kernel)).sum() for kernel in kernels]


def kid(
    real: Tensor, fake: Tensor, subset_size: int = 1000, num_subsets: int = 20, seed: int = 0
) -> KidScore:
    """Return the KID of fake (M, D) against real (N, D) features.

    KID is the unbiased estimate of MMD^2 with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018,
    sections 2.1 and 4), averaged over `num_subsets` pairs of random subsets of min(subset_size, N,
    M) features. Where N = M = that size, every subset is the whole set: it is then computed once,
    and `std` is 0. Equal distributions give about 0, also a little below. Scores of different
    extractors are not comparable. The result is that of torch-fidelity's
    `calculate_metrics(kid=True, rng_seed=seed)`. Raises `DataError` for fewer than 2 features,
    differing D, or values that are not finite.
    """
    return _kids([fake], [real], subset_size, num_subsets, seed)[0][0]


def _kids(
    fakes: Sequence[Tensor],
    reals: Sequence[Tensor],
    subset_size: int,
    num_subsets: int,
    seed: int,
) -> list[list[KidScore]]:
    """Return the score of every fake set (rows) against every real one (columns).

    The subsets depend on the seed and the sizes of the two sets, so that what lies within one set
    is summed once for all that it is compared with.
    """
    for fake, real in itertools.product(fakes, reals):
        _check(real, fake)
    xs, ys = ([f.float().cpu().numpy() for f in some] for some in (reals, fakes))

    @cache
    def subsets(num_real: int, num_fake: int) -> list[Subset]:
        size = min(subset_size, num_real, num_fake)
        if size < 2:
            raise DataError(f"KID expected a subset size of at least 2, got {size}: raise it")
        rounds = 1 if size == num_real == num_fake else num_subsets
        rng, sizes = np.random.RandomState(seed % 2**32), (num_real, num_fake)
        draws = [[rng.choice(n, size, replace=False) for n in sizes] for _ in range(rounds)]
        return [(at_real, at_fake) for at_real, at_fake in draws]

    @cache
    def within_real(j: int, num_fake: int) -> list[np.floating]:
        return _sums_within(xs[j], [at for at, _ in subsets(len(xs[j]), num_fake)])

    @cache
    def within_fake(i: int, num_real: int) -> list[np.floating]:
        return _sums_within(ys[i], [at for _, at in subsets(num_real, len(ys[i]))])

    def score(i: int, j: int) -> KidScore:
        """Return the KID of fake set i against real set j."""
        x, y = xs[j], ys[i]
        chosen, size = subsets(len(x), len(y)), min(subset_size, len(x), len(y))
        within = zip(within_real(j, len(y)), within_fake(i, len(x)), strict=True)
        mmds = np.zeros(len(chosen))
        for k, ((in_x, in_y), (at_x, at_y)) in enumerate(zip(within, chosen, strict=True)):
            across = _kernel(x[at_x], y[at_y]).sum(axis=0).sum()
            mmds[k] = (in_x + in_y) / (size * (size - 1)) - 2 * across / (size * size)
        mean, std = float(np.mean(mmds)), float(np.std(mmds))
        return KidScore(mean, std, size, len(chosen), len(x), len(y))

    with _numpy_blas().limit(limits=1):
        return [[score(i, j) for j in range(len(xs))] for i in range(len(ys))]


def kid_floor(
    real: Tensor,
    subset_size: int = 1000,
    num_subsets: int = 20,
    seed: int = 0,
    num_splits: int = 10,
    max_images: int | None = None,
) -> KidScore:
    """Return the KID of real features (N, D) against themselves: what sampling noise alone gives.

    The mean over `num_splits` random splits into two disjoint halves, with the spread over the
    splits as `std`: a KID within about two of these of the mean cannot be told from real data. Give
    as `max_images` the number of images behind the scores that are held against the floor: fewer
    images are noisier. Raises `DataError` for fewer than 4 features.
    """
    if real.ndim != 2 or len(real) < 4:
        raise DataError(
            f"the floor of KID expected at least 4 real features (N, D), got {tuple(real.shape)}: "
            "give every client more images"
        )
    half = min(len(real) // 2, max_images or len(real))
    scores: list[KidScore] = []
    for split in range(num_splits):
        order = torch.from_numpy(numpy_generator(seed, "kid_floor", split).permutation(len(real)))
        scores.append(
            kid(real[order[:half]], real[order[half : 2 * half]], subset_size, num_subsets, seed)
        )
    means = [score.mean for score in scores]
    size, rounds = scores[0].subset_size, scores[0].num_subsets
    return KidScore(float(np.mean(means)), float(np.std(means)), size, rounds, half, half)


def kid_matrix(
    fakes: Sequence[Tensor],
    reals: Sequence[Tensor],
    subset_size: int = 1000,
    num_subsets: int = 20,
    seed: int = 0,
) -> np.ndarray:
    """Return the KIDs (len(fakes), len(reals)), float64, of every fake set against every real one.

    Entry (i, j) is `kid(reals[j], fakes[i], ...).mean`; a row whose least entry is off the diagonal
    is a client that is drawn as another.
    """
    scores = _kids(fakes, reals, subset_size, num_subsets, seed)
    means = [[score.mean for score in row] for row in scores]
    return np.array(means, dtype=np.float64).reshape(len(fakes), len(reals))
