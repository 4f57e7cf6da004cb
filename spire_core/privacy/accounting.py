"""The privacy loss of T noisy steps: epsilon from the noise, and the noise from epsilon.

A step publishes a sum of vectors, each of length at most C, plus N(0, (sigma C)^2 I); sigma is its
noise multiplier. Neighbouring data sets differ by one image that is left out, so that a sum
changes by C at most. Their size n is public.

Without sampling, T steps are one Gaussian mechanism with sigma / sqrt(T) (Dong, Roth & Su 2022,
corollary 3.3), whose loss has a closed form (Balle & Wang 2018, theorem 8). With Poisson sampling
it is computed by privacy loss distributions (`sampled`). Both are exact up to rounding, which is
upwards.
"""

import math
from collections.abc import Callable

from spire_core.config.checks import require
from spire_core.privacy.sampled import sampled_epsilon, sampled_noise

TOLERANCE = 1e-9  # relative, of a search
MAX_NOISE = 1e6  # much above it whole steps of the grid are no int64
MAX_EPSILON = 650.0  # above it a probability is no float64 any more


def gaussian_delta(epsilon: float, noise_multiplier: float) -> float:
    """Return the delta of one Gaussian mechanism at an epsilon (Balle & Wang 2018, theorem 8).

    delta = Phi(1/(2 sigma) - epsilon sigma) - exp(epsilon) Phi(-1/(2 sigma) - epsilon sigma).
    """
    half, shift = 0.5 / noise_multiplier, epsilon * noise_multiplier
    return _phi(half - shift) - math.exp(epsilon) * _phi(-half - shift)


def epsilon_spent(
    noise_multiplier: float, num_steps: int, sampling_rate: float, delta: float
) -> float:
    """Return the smallest epsilon of so many steps at a delta; infinity above `MAX_EPSILON`."""
    if sampling_rate < 1.0:  # which lowers the loss, but the account of it is rounded upwards
        whole = epsilon_spent(noise_multiplier, num_steps, 1.0, delta)
        return min(whole, sampled_epsilon(noise_multiplier, num_steps, sampling_rate, delta))
    sigma = noise_multiplier / math.sqrt(num_steps)
    if gaussian_delta(0.0, sigma) <= delta:
        return 0.0
    if gaussian_delta(MAX_EPSILON, sigma) > delta:
        return math.inf
    return _smallest(lambda epsilon: gaussian_delta(epsilon, sigma) <= delta, 0.0, MAX_EPSILON)


def noise_for(epsilon: float, delta: float, num_steps: int, sampling_rate: float) -> float:
    """Return the smallest noise multiplier with which so many steps spend at most epsilon."""
    high = 1.0
    while gaussian_delta(epsilon, high) > delta:
        high *= 2
    whole = _smallest(lambda sigma: gaussian_delta(epsilon, sigma) <= delta, 1e-3, high)
    most = whole * math.sqrt(num_steps)
    if sampling_rate == 1.0:
        return most
    # Sampling lowers the loss, so that `most` is enough.
    return sampled_noise(epsilon, delta, num_steps, sampling_rate, most)


def check_noise(noise_multiplier: float, group: str) -> None:
    """Raise ConfigError if a budget needs more noise than a sum has room for.

    `group`: that of the settings, such as "privacy.adapt".
    """
    require(
        noise_multiplier <= MAX_NOISE,
        f"{group}.epsilon and {group}.delta that need a noise multiplier of at most {MAX_NOISE:g}",
        f"a budget that needs {noise_multiplier:.3g}",
        f"raise {group}.epsilon",
    )


def _phi(x: float) -> float:
    """Return the standard normal distribution function, accurate in its lower tail."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _smallest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return, from above, the smallest number in (low, high] for which a monotone claim holds."""
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
