"""The privacy loss of steps that sample images by Poisson: Google's `dp-accounting`.

The package is an extra. It is imported where it is used, since only clients that sample need it.
Losses are discretised upwards ("connect the dots", Doroshenko et al. 2022), so that an epsilon is
one at any width of the grid. The time of an account falls with the width.
"""

import functools
import math
from typing import Any

from spire_core.config.checks import require
from spire_core.errors import ConfigError

FINE, COARSE = 1e-4, 1e-3  # widths of a loss's grid: of accounts, and of a search's first steps
LEAST_DELTA = 1e-10  # below it rounding of the convolutions takes more than 1e-3 from an epsilon
TOLERANCE = 5e-4  # relative, below the budget, of the epsilon at which a search ends
MISSING = (
    "expected the package dp-accounting, which computes the privacy of sampled steps, got none: "
    "pip install 'dp-accounting>=0.6,<0.7', or sample nothing: all images in each step with a "
    "larger privacy.adapt.batch_size, or all clients in each round"
)


def sampled_epsilon(
    noise_multiplier: float,
    num_steps: int,
    sampling_rate: float,
    delta: float,
    width: float = FINE,
) -> float:
    """Return the epsilon of steps that take each image with a chance and add Gaussian noise.

    Neighbours differ by one image that is added or removed. Raises ConfigError without the package,
    and for a delta below `LEAST_DELTA`.
    """
    check_delta(delta)
    loss = _step_loss(noise_multiplier, sampling_rate, width)
    return float(loss.self_compose(num_steps).get_epsilon_for_delta(delta))


def sampled_noise(
    epsilon: float, delta: float, num_steps: int, sampling_rate: float, enough: float
) -> float:
    """Return the smallest noise multiplier with which such steps spend at most epsilon.

    `enough`: that of steps without sampling, which is never exceeded. Raises ConfigError as
    `sampled_epsilon` does.

    The search begins at the noise that a central limit gives: sigma with q^2 T (exp(sigma^-2) - 1)
    = mu^2, where one Gaussian of noise 1 / mu spends epsilon (Bu et al. 2020, theorem 5).
    """
    if sampled_epsilon(enough, num_steps, sampling_rate, delta) > epsilon:
        return enough  # the grid is too wide for so small a budget
    noise = math.log1p((sampling_rate * enough) ** -2) ** -0.5
    for width in (COARSE, FINE):
        noise = _search(epsilon, delta, num_steps, sampling_rate, noise, width)
    return min(noise, enough)


def check_delta(delta: float) -> None:
    """Raise ConfigError for a delta at which an account of sampled steps would not be right."""
    require(
        delta >= LEAST_DELTA,
        f"a delta of at least {LEAST_DELTA:g} where steps or rounds sample",
        f"{delta:g}",
        "the account of sampled steps cannot tell smaller ones from its rounding, so raise "
        "privacy.adapt.delta or privacy.rounds.delta, or sample nothing",
    )


def _search(
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
        if -TOLERANCE <= gap <= 0 or (gap <= 0 and at - low < TOLERANCE):
            return math.exp(at)
        low, high = (at, high) if gap > 0 else (low, at)
        if last is not None and gap != last[1]:
            slope = min(-1.0, (gap - last[1]) / (at - last[0]))
        last, at = (at, gap), at - (gap + TOLERANCE / 2) / slope
        if not low < at < high:
            at = (low + high) / 2


@functools.lru_cache(maxsize=2)  # a run asks for the account of one noise after many rounds
def _step_loss(noise_multiplier: float, sampling_rate: float, width: float) -> Any:
    """Return the loss distribution of one step, of neighbours by adding or removing one image."""
    try:
        from dp_accounting import pld
    except ImportError as error:
        raise ConfigError(MISSING) from error
    return pld.privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sampling_prob=sampling_rate,
        value_discretization_interval=width,
    )
