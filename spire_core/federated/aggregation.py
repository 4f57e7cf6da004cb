"""How the same array of several clients becomes one: weighted mean, median, trimmed mean.

The mean weighted by examples is FedAvg's (McMahan et al. 2017). The others cannot be moved far by a
few wrong updates (Yin et al. 2018, "Byzantine-robust distributed learning", definitions 1 and 2);
in them every client counts the same: a number of examples is a client's own word, and one that lies
about it would outvote the others. K: clients.
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
    """Return one array (n,) out of the clients', as `aggregation` says."""
    if aggregation == "mean":
        return weighted_mean(arrays, num_examples)
    if aggregation == "median":
        return trimmed_mean(arrays, (len(arrays) - 1) // 2)
    return trimmed_mean(arrays, num_trimmed(len(arrays), trim_fraction))


def weighted_mean(arrays: Sequence[np.ndarray], weights: Sequence[int]) -> np.ndarray:
    """Return sum_k n_k a_k / sum_k n_k as float32 (McMahan et al. 2017).

    It is summed in float64 in the given order.
    """
    total = np.zeros(arrays[0].shape, dtype=np.float64)
    for array, weight in zip(arrays, weights, strict=True):
        total += weight * array.astype(np.float64)
    return (total / sum(weights)).astype(np.float32)


def trimmed_mean(arrays: Sequence[np.ndarray], num_trimmed: int) -> np.ndarray:
    """Return in each coordinate the mean of K values without the smallest and the largest.

    As many as `num_trimmed` are left out at each end; with (K - 1) // 2 it is the median. The
    values (n,) are summed in float64 in the order of their size, so the order of the arrays makes
    no difference; the result is float32.
    """
    size, middle = arrays[0].size, slice(num_trimmed, len(arrays) - num_trimmed)
    mean = np.empty(size, dtype=np.float32)
    for start in range(0, size, BLOCK):
        at = slice(start, start + BLOCK)
        values = np.sort([array[at] for array in arrays], axis=0)  # (K, BLOCK)
        mean[at] = values[middle].mean(axis=0, dtype=np.float64)
    return mean


def num_trimmed(num_clients: int, trim_fraction: float) -> int:
    """Return how many of K values a trimmed mean leaves out at each end; one or two are left.

    Paper: beta K is whole. We: rounded up, because a round in which few answer must not fall back
    to the plain mean.
    """
    wanted = math.ceil(round(trim_fraction * num_clients, 9))  # 0.07 * 100 is a bit above 7
    return min(wanted, (num_clients - 1) // 2)
