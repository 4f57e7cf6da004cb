"""Robust aggregation over clients: median and trimmed mean, coordinate by coordinate.

They bound the influence of a few wrong updates (Yin et al. 2018, "Byzantine-robust distributed
learning", definitions 1 and 2). They weight all clients equally: the number of examples is reported
by the client itself, and a false one would outvote the others. K: clients.
"""

import math

import numpy as np

BLOCK = 1 << 16  # coordinates sorted at once, so that no second copy of all updates is needed


def robust_mean(rows: np.ndarray, aggregation: str, trim_fraction: float) -> np.ndarray:
    """Return the clients' numbers (K, n) combined into (n,) float32 by the named aggregation."""
    if aggregation == "median":
        return trimmed_mean(rows, (len(rows) - 1) // 2)
    return trimmed_mean(rows, num_trimmed(len(rows), trim_fraction))


def trimmed_mean(rows: np.ndarray, num_trimmed: int) -> np.ndarray:
    """Return in each coordinate the mean of K values without the smallest and the largest.

    `num_trimmed` values are left out at each end; (K - 1) // 2 gives the median. The values (K, n)
    are summed in float64 in ascending order, so the result does not depend on the order of the
    clients. It is float32.
    """
    num_clients, size = rows.shape
    middle = slice(num_trimmed, num_clients - num_trimmed)
    mean = np.empty(size, dtype=np.float32)
    for start in range(0, size, BLOCK):
        at = slice(start, start + BLOCK)
        mean[at] = np.sort(rows[:, at], axis=0)[middle].mean(axis=0, dtype=np.float64)
    return mean


def num_trimmed(num_clients: int, trim_fraction: float) -> int:
    """Return how many of K values a trimmed mean leaves out at each end; at least one remains.

    Paper: beta K is whole. We: rounded up, because a round with few answers must not fall back to
    the plain mean.
    """
    wanted = math.ceil(round(trim_fraction * num_clients, 9))  # 0.07 * 100 is a bit above 7
    return min(wanted, (num_clients - 1) // 2)
