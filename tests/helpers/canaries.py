"""An auditor of noisy sums: canaries take part by chance, each in a direction of its own."""

import math

import numpy as np
from scipy.stats import binom


def proven_epsilon(seen: np.ndarray, inside: np.ndarray, delta: float) -> float:
    """Return the epsilon that is proven with 95 % confidence by all that is seen of canaries.

    The auditor says "in" of the highest and "out" of the lowest quarter of `seen` (m,); `inside`
    (m,) is the truth. Steinke, Nasr & Jagielski 2023, theorem 5.2: with (epsilon, delta)-
    differential privacy, P[right >= v] <= f(v) + 2 m delta max_i (f(v - i) - f(v)) / i, f the upper
    tail of Binomial(r, e^eps / (1 + e^eps)).
    """
    order, quarter = np.argsort(seen), len(seen) // 4
    num_right = int((~inside[order[:quarter]]).sum() + inside[order[-quarter:]].sum())

    def p_value(epsilon: float) -> float:
        chance = 1 / (1 + math.exp(-epsilon))
        tail = binom.sf(num_right - 1 - np.arange(num_right + 1), 2 * quarter, chance)
        more = (tail[1:] - tail[0]) / np.arange(1, num_right + 1)
        return tail[0] + 2 * len(seen) * delta * max(0.0, more.max(initial=0.0))

    low, high = 0.0, 20.0
    if p_value(low) > 0.05:
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) < 0.05 else (low, middle)
    return low
