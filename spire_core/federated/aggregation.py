"""Aggregation of one array over clients: weighted mean, median, trimmed mean.

The mean weighted by examples is FedAvg's (McMahan et al. 2017). The median and the trimmed mean
bound the influence of a few wrong updates (Yin et al. 2018, "Byzantine-robust distributed
learning", definitions 1 and 2). They weight all clients equally: the number of examples is reported
by the client itself, and a false one would outvote the others. K: clients.
"""

import math
from collections.abc import Sequence

import numpy as np

BLOCK = 1 << 20  # coordinates sorted at once, so that no second copy of all updates is needed


def combine(
    arrays: Sequence[np.ndarray],
    num_examples: Sequence[int],
    aggregation: str,
    trim_fraction: float,
) -> np.ndarray:
    """Return the clients' arrays (n,) combined into one by the named aggregation."""
    if aggregation == "mean":
        return weighted_mean(arrays, num_examples)
    if aggregation == "median":
        return trimmed_mean(arrays, (len(arrays) - 1) // 2)
    return trimmed_mean(arrays, num_trimmed(len(arrays), trim_fraction))


def weighted_mean(arrays: Sequence[np.ndarray], weights: Sequence[int]) -> np.ndarray:
    """Return sum_k n_k a_k / sum_k n_k as float32 (McMahan et al. 2017).

    The sum is taken in float64, in the given order.
    """
    total = np.zeros(arrays[0].shape, dtype=np.float64)
    for array, weight in zip(arrays, weights, strict=True):
        total += weight * array.astype(np.float64)
    return (total / sum(weights)).astype(np.float32)


def trimmed_mean(arrays: Sequence[np.ndarray], num_trimmed: int) -> np.ndarray:
    """Return in each coordinate the mean of K values without the smallest and the largest.

    `num_trimmed` values are left out at each end; (K - 1) // 2 gives the median. The values (n,)
    are summed in float64 in ascending order, so the result does not depend on the order of the
    arrays. It is float32.
    """
    size, middle = arrays[0].size, slice(num_trimmed, len(arrays) - num_trimmed)
    mean = np.empty(size, dtype=np.float32)
    for start in range(0, size, BLOCK):
        at = slice(start, start + BLOCK)
        values = np.sort([array[at] for array in arrays], axis=0)  # (K, BLOCK)
        mean[at] = values[middle].mean(axis=0, dtype=np.float64)
    return mean


def num_trimmed(num_clients: int, trim_fraction: float) -> int:
    """Return how many of K values a trimmed mean leaves out at each end; at least one remains.

    Paper: beta K is whole. We: rounded up, because a round with few answers must not fall back to
    the plain mean.
    """
    wanted = math.ceil(round(trim_fraction * num_clients, 9))  # 0.07 * 100 is a bit above 7
    return min(wanted, (num_clients - 1) // 2)
