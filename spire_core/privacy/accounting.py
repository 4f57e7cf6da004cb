"""The privacy loss of T noisy steps: epsilon from the noise, and the noise from epsilon.

A step publishes a sum of vectors, each of length at most C, plus N(0, (sigma C)^2 I); sigma is its
noise multiplier. Neighbouring data sets differ by one vector that is left out, so that a sum
changes by C at most.

Without sampling, T steps are one Gaussian mechanism with sigma / sqrt(T) (Dong, Roth & Su 2022,
corollary 3.3), whose loss has a closed form (Balle & Wang 2018, theorem 8). With Poisson sampling
it is the loss distribution of Google's `dp-accounting`, an extra that is imported where it is
needed: discretised upwards ("connect the dots", Doroshenko et al. 2022), so that an epsilon is one
at any width of the grid. The time of an account falls with the width.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

from spire_core.config.checks import require
from spire_core.errors import ConfigError

TOLERANCE = 1e-9  # relative, of a search in the closed form
MAX_EPSILON = 650.0  # above it a probability is no float64 any more
FINE, COARSE = 1e-4, 1e-3  # widths of a loss's grid: of accounts, and of a search's first steps
LEAST_DELTA = 1e-10  # below it rounding of the convolutions takes more than 1e-3 from an epsilon
SAMPLED_TOLERANCE = 5e-4  # relative, below the budget, of the epsilon at which a search ends
MISSING = (
    "expected the package dp-accounting, which computes the privacy of sampled steps, got none: "
    "pip install 'dp-accounting>=0.6,<0.7', or sample nothing: all images in each step with a "
    "larger privacy.adapt.batch_size, or all clients in each round (federation.cohort_size)"
)


def gaussian_delta(epsilon: float, noise_multiplier: float) -> float:
    """Return the delta of one Gaussian mechanism at an epsilon (Balle & Wang 2018, theorem 8).

    delta = Phi(1/(2 sigma) - epsilon sigma) - exp(epsilon) Phi(-1/(2 sigma) - epsilon sigma).
    """
    half, shift = 0.5 / noise_multiplier, epsilon * noise_multiplier
    return _phi(half - shift) - math.exp(epsilon) * _phi(-half - shift)


def sampled_epsilon(
    noise: float, num_steps: int, sampling_rate: float, delta: float, width: float = FINE
) -> float:
    """Return the epsilon of steps that take each vector with a chance.

    Raises ConfigError without the package, and for a delta below `LEAST_DELTA`.
    """
    require(
        delta >= LEAST_DELTA,
        f"a delta of at least {LEAST_DELTA:g} where steps or rounds sample",
        f"{delta:g}",
        "the account of sampled steps cannot tell smaller ones from its rounding, so raise "
        "privacy.adapt.delta or privacy.rounds.delta, or sample nothing",
    )
    loss = _step_loss(noise, sampling_rate, width)
    return float(loss.self_compose(num_steps).get_epsilon_for_delta(delta))


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
    """Return the smallest noise multiplier with which so many steps spend at most epsilon.

    With sampling, the search begins at the noise that a central limit gives: sigma with
    q^2 T (exp(sigma^-2) - 1) = mu^2, where one Gaussian of noise 1 / mu spends epsilon (Bu et al.
    2020, theorem 5).
    """
    high = 1.0
    while gaussian_delta(epsilon, high) > delta:
        high *= 2
    whole = _smallest(lambda sigma: gaussian_delta(epsilon, sigma) <= delta, 1e-3, high)
    enough = whole * math.sqrt(num_steps)  # also with sampling, which lowers the loss
    if sampling_rate == 1.0 or sampled_epsilon(enough, num_steps, sampling_rate, delta) > epsilon:
        return enough  # the grid of losses may be too wide for so small a budget
    noise = math.log1p((sampling_rate * enough) ** -2) ** -0.5
    for width in (COARSE, FINE):
        noise = _sampled_noise(epsilon, delta, num_steps, sampling_rate, noise, width)
    return min(noise, enough)


def _phi(x: float) -> float:
    """Return the standard normal distribution function, accurate in its lower tail."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _smallest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return, from above, the smallest number in (low, high] for which a monotone claim holds."""
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _sampled_noise(
    epsilon: float, delta: float, num_steps: int, sampling_rate: float, noise: float, width: float
) -> float:
    """Return noise that spends at most epsilon, and at least (1 - tolerance) epsilon.

    Epsilon falls at least as fast as noise grows, so that this noise is as close to the smallest.
    Secants of log epsilon over log noise; their first has the slope -1.5, and where one would leave
    what is known to hold the answer, the middle takes its place.
    """
    low, high, last, slope = -math.inf, math.inf, None, -1.5
    at = math.log(noise)
    while True:
        spent = sampled_epsilon(math.exp(at), num_steps, sampling_rate, delta, width)
        gap = math.log(min(max(spent / epsilon, 0.1), 10.0))
        if -SAMPLED_TOLERANCE <= gap <= 0 or (gap <= 0 and at - low < SAMPLED_TOLERANCE):
            return math.exp(at)
        low, high = (at, high) if gap > 0 else (low, at)
        if last is not None and gap != last[1]:
            slope = min(-1.0, (gap - last[1]) / (at - last[0]))
        last, at = (at, gap), at - (gap + SAMPLED_TOLERANCE / 2) / slope
        if not low < at < high:
            at = (low + high) / 2


@functools.lru_cache(maxsize=2)  # a run asks for the account of one noise after many rounds
def _step_loss(noise_multiplier: float, sampling_rate: float, width: float) -> Any:
    """Return the loss distribution of one step, of neighbours by adding or removing one vector."""
    try:
        from dp_accounting import pld
    except ImportError as error:
        raise ConfigError(MISSING) from error
    return pld.privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sampling_prob=sampling_rate,
        value_discretization_interval=width,
    )
