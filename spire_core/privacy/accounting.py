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

import numpy as np

from spire_core.config.checks import require
from spire_core.errors import ConfigError
from spire_core.privacy.sampled import check_delta, sampled_epsilon, sampled_noise

TOLERANCE = 1e-9  # relative, of a search
MAX_NOISE = 1e6  # that of a given noise; much above it whole steps of the grid are no int64
MAX_EPSILON = 650.0  # above it a probability is no float64 any more
NUM_THRESHOLDS = 200  # of an auditor who looks for one image


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


def least_delta(
    epsilon: float, noise_multiplier: float, num_steps: int, sampling_rate: float
) -> float:
    """Return a delta below which so many sampled steps cannot have this epsilon, at once.

    An auditor looks along the contribution of one image, of length 1, in the sum of each step. He
    sees N(0, sigma^2) without it, and N(1, sigma^2) with the chance q if it is there. He says that
    it is there if any step is above a threshold h, which is right with probability
    1 - (1 - (1 - q) Q(h / sigma) - q Q((h - 1) / sigma))^T and wrong with 1 - (1 - Q(h / sigma))^T,
    with Q the upper tail of the standard normal distribution. For every h, delta is at least the
    first minus e^epsilon times the second (Dwork & Roth 2014, definition 2.4). For one step the
    best h is the best test of all (Neyman & Pearson 1933).
    """

    def any_above(tail: float) -> float:
        return -math.expm1(num_steps * math.log1p(-min(tail, 1 - 1e-15)))

    highest = 1.0 + 9.0 * noise_multiplier
    found = 0.0
    for h in np.linspace(0.0, highest, NUM_THRESHOLDS):
        absent, present = _phi(-h / noise_multiplier), _phi((1.0 - h) / noise_multiplier)
        mixed = (1 - sampling_rate) * absent + sampling_rate * present
        found = max(found, any_above(mixed) - math.exp(epsilon) * any_above(absent))
    return found


def check_budget(
    epsilon: float,
    delta: float,
    noise_multiplier: float,
    num_steps: int,
    spent: Callable[[int], float],
    sampling_rate: float,
    setting: str = "privacy.adapt.steps",
) -> None:
    """Raise ConfigError if so many steps with this noise spend more than epsilon.

    `spent`: the epsilon of a number of steps, which takes seconds where steps sample with little
    noise; `least_delta` therefore comes first. `setting`: that of the steps.
    """
    if sampling_rate < 1.0:
        check_delta(delta)

    def surely_exceed(steps: int) -> bool:
        bound = least_delta(epsilon, noise_multiplier, steps, sampling_rate)
        return sampling_rate < 1.0 and bound > delta

    all_spent = math.nan if surely_exceed(num_steps) else spent(num_steps)
    if all_spent <= epsilon:
        return
    carried, too_many = 0, num_steps
    while too_many - carried > 1:
        middle = (carried + too_many) // 2
        is_carried = not surely_exceed(middle) and spent(middle) <= epsilon
        carried, too_many = (middle, too_many) if is_carried else (carried, middle)
    advice = "lower the steps, or raise noise or budget"
    if carried == 0:
        group = setting.replace("federation", "privacy.rounds").rpartition(".")[0]
        advice = f"{group}.noise_multiplier=null takes the noise that the budget needs"
    raise ConfigError(
        f"expected at most {carried} {setting}, which is what epsilon {epsilon:g} at "
        f"delta {delta:.3g} carries with a noise multiplier of {noise_multiplier:g}, got "
        f"{num_steps}, which spend {'more' if math.isnan(all_spent) else f'{all_spent:.4g}'}: "
        f"{advice}"
    )


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
