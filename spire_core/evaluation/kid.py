"""Kernel Inception Distance between sets of features, bit for bit as torch-fidelity computes it.

Letters: N real and M fake features, each of D numbers; n features in a subset.
"""

import itertools
import math
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
    # One thread: products this small take 10-20 times longer when threads wait for a busy core, and
    # with one thread the scores do not depend on the number of cores.
    return ThreadpoolController().select(internal_api="openblas")


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the kernel (x.y / D + 1)^3, (n, n), between features x and y, each (n, D)."""
    return (np.matmul(x, y.T) * (1.0 / x.shape[1]) + 1) ** 3


@dataclass(frozen=True)
class SubsetRule:
    """The random subsets of KID: a function of the seed and the sizes of the two sets alone."""

    size: int
    num_subsets: int
    seed: int

    def draw(self, num_real: int, num_fake: int) -> list[Subset]:
        """Return pairs of subsets of at most `size` features; one pair if that is both whole sets.

        DataError for a size below 2.
        """
        size = min(self.size, num_real, num_fake)
        if size < 2:
            raise DataError(f"KID expected a subset size of at least 2, got {size}: raise it")
        rounds = 1 if size == num_real == num_fake else self.num_subsets
        rng, sizes = np.random.RandomState(self.seed % 2**32), (num_real, num_fake)
        draws = [[rng.choice(n, size, replace=False) for n in sizes] for _ in range(rounds)]
        return [(at_real, at_fake) for at_real, at_fake in draws]


class SubsetSums:
    """A set of features (N, D), and the kernel's sums within its subsets.

    All sets of one size are compared with the same subsets of this one, so that their sums are
    computed once.
    """

    def __init__(self, features: Tensor) -> None:
        self.features = features.float().cpu().numpy()
        self._within: dict[int, list[np.floating]] = {}

    def __len__(self) -> int:
        return len(self.features)

    def within(self, subsets: Sequence[np.ndarray], num_other: int) -> list[np.floating]:
        """Return for each subset the kernel's sum over pairs of different features.

        `num_other` is the size of the set that this one is compared with.
        """
        if num_other not in self._within:
            kernels = (_kernel(rows, rows) for rows in (self.features[at] for at in subsets))
            sums = [(kernel.sum(axis=1) - np.diagonal(kernel)).sum() for kernel in kernels]
            self._within[num_other] = sums
        return self._within[num_other]


def _score(real: SubsetSums, fake: SubsetSums, subsets: Sequence[Subset]) -> KidScore:
    """Return the KID of one set against another over the given pairs of subsets."""
    size, of_real, of_fake = len(subsets[0][0]), *zip(*subsets, strict=True)
    sums = zip(real.within(of_real, len(fake)), fake.within(of_fake, len(real)), strict=True)
    mmds = np.zeros(len(subsets))
    for k, ((in_real, in_fake), (at_real, at_fake)) in enumerate(zip(sums, subsets, strict=True)):
        across = _kernel(real.features[at_real], fake.features[at_fake]).sum(axis=0).sum()
        mmds[k] = (in_real + in_fake) / (size * (size - 1)) - 2 * across / (size * size)
    mean, std = float(np.mean(mmds)), float(np.std(mmds))
    return KidScore(mean, std, size, len(subsets), len(real), len(fake))


def _unknown(num_real: int, num_fake: int) -> KidScore:
    """Return the score of features without any number: NaN."""
    return KidScore(math.nan, math.nan, 0, 0, num_real, num_fake)


def _scores(
    fakes: Sequence[Tensor], reals: Sequence[Tensor], rule: SubsetRule
) -> list[list[KidScore]]:
    """Return the score of every fake set (rows) against every real one (columns)."""
    for fake, real in itertools.product(fakes, reals):
        _check(real, fake)
    if all(features.shape[1] == 0 for features in (*fakes, *reals)):
        return [[_unknown(len(real), len(fake)) for real in reals] for fake in fakes]
    real_sets, fake_sets = ([SubsetSums(f) for f in some] for some in (reals, fakes))
    sizes = {(len(real), len(fake)) for real in real_sets for fake in fake_sets}
    subsets = {pair: rule.draw(*pair) for pair in sizes}
    with _numpy_blas().limit(limits=1):
        return [
            [_score(real, fake, subsets[len(real), len(fake)]) for real in real_sets]
            for fake in fake_sets
        ]


def kid(
    real: Tensor, fake: Tensor, subset_size: int = 1000, num_subsets: int = 20, seed: int = 0
) -> KidScore:
    """Return the KID of fake (M, D) against real (N, D) features.

    KID is the unbiased estimate of MMD^2 with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018,
    sections 2.1 and 4), averaged over `num_subsets` pairs of random subsets of min(subset_size, N,
    M) features. If N = M = that size, every subset is the whole set: the score is then computed
    once, and `std` is 0. Equal distributions score about 0, possibly below. Scores of different
    extractors are not comparable. The result equals that of torch-fidelity's
    `calculate_metrics(kid=True, rng_seed=seed)`. Raises `DataError` for fewer than 2 features,
    differing D, or values that are not finite.
    """
    return _scores([fake], [real], SubsetRule(subset_size, num_subsets, seed))[0][0]


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return the MMD^2 of KID between features (N, D) and (M, D), without a term of `real` alone.

    Sets of fake features are in the order of their distances to one real set, of which a single
    feature is enough. Both sets are whole. Raises DataError as `kid` does otherwise.
    """
    _check(real.expand(max(2, len(real)), -1), fake)
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
    num_splits: int = 10,
    max_images: int | None = None,
) -> KidScore:
    """Return the KID of real features (N, D) against themselves, the floor of sampling noise.

    The mean over `num_splits` random splits into two disjoint halves, with the spread over the
    splits as `std`. A KID within about two `std` of the floor cannot be distinguished from real
    data. `max_images` caps the images per half: pass the number of images behind the scores that
    are compared with the floor, because fewer images are noisier. Raises `DataError` for fewer than
    4 features.
    """
    if real.ndim == 2 and real.shape[1] == 0:
        return _unknown(len(real), len(real))
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

    Entry (i, j) is `kid(reals[j], fakes[i], ...).mean`. A row whose smallest entry is off the
    diagonal belongs to a client that is drawn as another.
    """
    scores = _scores(fakes, reals, SubsetRule(subset_size, num_subsets, seed))
    means = [[score.mean for score in row] for row in scores]
    return np.array(means, dtype=np.float64).reshape(len(fakes), len(reals))
