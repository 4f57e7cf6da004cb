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

from spire_core.errors import ConfigError
from spire_core.privacy.sampled import sampled_epsilon, sampled_noise

TOLERANCE = 1e-9  # relative, of a search
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
    if sampling_rate < 1.0:
        return sampled_epsilon(noise_multiplier, num_steps, sampling_rate, delta)
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


def check_budget(
    epsilon: float,
    delta: float,
    noise_multiplier: float,
    num_steps: int,
    spent: Callable[[int], float],
    setting: str = "privacy.adapt.steps",
) -> None:
    """Raise ConfigError if so many steps with this noise spend more than epsilon.

    `spent`: the epsilon of a number of steps. `setting`: that of the steps.
    """
    if (all_spent := spent(num_steps)) <= epsilon:
        return
    carried, too_many = 0, num_steps
    while too_many - carried > 1:
        middle = (carried + too_many) // 2
        is_carried = spent(middle) <= epsilon
        carried, too_many = (middle, too_many) if is_carried else (carried, middle)
    advice = "lower the steps, or raise noise or budget"
    if carried == 0:
        group = setting.replace("federation", "privacy.rounds").rpartition(".")[0]
        advice = f"{group}.noise_multiplier=null takes the noise that the budget needs"
    raise ConfigError(
        f"expected at most {carried} {setting}, which is what epsilon {epsilon:g} at "
        f"delta {delta:.3g} carries with a noise multiplier of {noise_multiplier:g}, got "
        f"{num_steps}, which spend {all_spent:.4g}: {advice}"
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
