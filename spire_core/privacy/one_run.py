"""A lower bound on epsilon from one training run (Steinke, Nasr & Jagielski 2023).

Each of m images was trained on with probability 1/2, by independent draws. An auditor sees the
model, guesses for r of the images whether they were, and is right v times. An algorithm that is
(epsilon, delta)-differentially private for one image makes a large v unlikely.
"""

import math
from collections.abc import Sequence

import numpy as np

MAX_EPSILON = 50.0
PRECISION = 1e-4  # of the bound
FRACTIONS = (0.125, 0.25, 0.5, 1.0)  # of the images that are guessed; a bound is tried for each


def _binomial(num_trials: int, chance: float) -> np.ndarray:
    """Return the probabilities (num_trials + 1,) of 0 .. num_trials successes."""
    if chance >= 1.0:
        return np.append(np.zeros(num_trials), 1.0)
    k = np.arange(num_trials + 1)
    ways = np.array([math.lgamma(i + 1) + math.lgamma(num_trials - i + 1) for i in k])
    logs = math.lgamma(num_trials + 1) - ways
    return np.exp(logs + k * math.log(chance) + (num_trials - k) * math.log1p(-chance))


def p_value(
    num_images: int, num_guesses: int, num_correct: int, epsilon: float, delta: float
) -> float:
    """Return a bound on P[at least v correct guesses] under (epsilon, delta)-DP.

    P[B >= v] + 2 m delta max_i P[v > B >= v - i] / i with B ~ Binomial(r, 1 / (1 + e^-epsilon))
    (theorem 5.2 and appendix D; m = `num_images`, r = `num_guesses`, v = `num_correct`).
    """
    chances = _binomial(num_guesses, 1.0 / (1.0 + math.exp(-epsilon)))
    below = np.cumsum(chances[:num_correct][::-1])  # P[v > B >= v - i] for i = 1 .. v
    worst = float((below / np.arange(1, num_correct + 1)).max()) if num_correct else 0.0
    return min(1.0, float(chances[num_correct:].sum()) + 2 * num_images * delta * worst)


def epsilon_lower_bound(
    num_images: int,
    num_guesses: int,
    num_correct: int,
    delta: float = 0.0,
    confidence: float = 0.95,
) -> float:
    """Return the largest epsilon that these guesses refute; 0 if they refute none.

    With probability `confidence` or more it is at most the true one. At most `MAX_EPSILON`.
    """
    low, high = 0.0, MAX_EPSILON
    counts = num_images, num_guesses, num_correct
    if p_value(*counts, low, delta) >= 1 - confidence:
        return 0.0
    while high - low > PRECISION:  # the p-value rises with epsilon
        middle = (low + high) / 2
        is_refuted = p_value(*counts, middle, delta) < 1 - confidence
        low, high = (middle, high) if is_refuted else (low, middle)
    return low


def epsilon_from_scores(
    scores: np.ndarray,
    included: np.ndarray,
    delta: float = 0.0,
    confidence: float = 0.95,
    fractions: Sequence[float] = FRACTIONS,
) -> float:
    """Return the bound from scores (m,), higher for members, and the true inclusion (m,).

    Half of the guesses say "in", for the highest scores, and half "out", for the lowest. The bound
    is the best over the `fractions` of images that are guessed, each at a confidence that makes up
    for the choice (a union bound).
    """
    order, num_images = np.argsort(-scores, kind="stable"), len(scores)
    each = 1 - (1 - confidence) / len(fractions)
    bounds = []
    for fraction in fractions:
        half = max(1, round(fraction * num_images / 2))
        half = min(half, num_images // 2)
        right = int(included[order[:half]].sum() + (~included[order[num_images - half :]]).sum())
        bounds.append(epsilon_lower_bound(num_images, 2 * half, right, delta, each))
    return max(bounds)
