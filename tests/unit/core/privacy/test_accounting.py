"""Epsilon and noise: Google's accountant, the closed forms and a derivation by hand agree."""

import math

import dp_accounting
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from spire_core.privacy.accounting import (
    LEAST_DELTA,
    epsilon_spent,
    gaussian_delta,
    noise_for,
    sampled_epsilon,
)

RNG = np.random.default_rng(0)
WHOLE = [  # noise multiplier, steps, delta
    (float(np.exp(RNG.uniform(-1, 4))), int(np.exp(RNG.uniform(0, 6))), 10 ** RNG.uniform(-9, -2))
    for _ in range(20)
]


def textbook_delta(epsilon: float, sigma: float) -> float:
    """Balle & Wang 2018, equation 6, with scipy's normal distribution; sensitivity 1."""
    first = norm.cdf(1 / (2 * sigma) - epsilon * sigma)
    return float(first - np.exp(epsilon + norm.logcdf(-1 / (2 * sigma) - epsilon * sigma)))


def test_whole_batches_are_one_gaussian_by_google_and_by_the_textbook() -> None:
    for sigma, steps, delta in WHOLE:
        found = epsilon_spent(sigma, steps, 1.0, delta)
        single = sigma / math.sqrt(steps)
        if found == math.inf:  # above what anybody would call private
            assert gaussian_delta(600, single) > delta
            continue
        expected = dp_accounting.get_epsilon_gaussian(single, delta)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
        if found > 0:
            assert textbook_delta(found, single) == pytest.approx(delta, rel=1e-3)


def test_one_sampled_step_has_the_epsilon_that_follows_by_hand() -> None:
    """P = (1 - q) N(0, s^2) + q N(1, s^2) against Q = N(0, s^2), in both directions.

    P > e^eps Q where the ratio N(1, s^2) / N(0, s^2) exceeds r = (e^eps - 1 + q) / q, and
    Q > e^eps P where it is below r' = (e^-eps - 1 + q) / q.
    """
    sigma, rate, delta = 2.0, 0.9, 1e-4

    def by_hand(epsilon: float) -> float:
        e = math.exp(epsilon)
        place = sigma**2 * math.log((e - 1 + rate) / rate) + 0.5
        q_above, n1_above = norm.sf(place / sigma), norm.sf((place - 1) / sigma)
        added = (1 - rate) * q_above + rate * n1_above - e * q_above
        low = (1 / e - 1 + rate) / rate
        if low <= 0:
            return added
        place = sigma**2 * math.log(low) + 0.5
        q_below, n1_below = norm.cdf(place / sigma), norm.cdf((place - 1) / sigma)
        removed = q_below - e * ((1 - rate) * q_below + rate * n1_below)
        return max(added, removed)

    expected = brentq(lambda epsilon: by_hand(epsilon) - delta, 1e-6, 50)
    assert epsilon_spent(sigma, 1, rate, delta) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("epsilon", "rate"), [(0.1, 1.0), (8.0, 1.0), (2.0, 0.25)])
def test_the_noise_of_a_budget_spends_it_and_no_more(epsilon: float, rate: float) -> None:
    sigma = noise_for(epsilon, 1e-4, 40, rate)
    spent = epsilon_spent(sigma, 40, rate, 1e-4)
    assert 0.99 * epsilon < spent <= epsilon * (1 + 1e-12)
    assert epsilon_spent(0.98 * sigma, 40, rate, 1e-4) > epsilon


def test_an_account_of_nearly_all_images_is_that_of_all() -> None:
    for epsilon, steps in ((0.5, 100), (8.0, 3000)):
        sigma = noise_for(epsilon, LEAST_DELTA, steps, 1.0)
        account = sampled_epsilon(sigma, steps, 1 - 1e-9, LEAST_DELTA)
        assert account == pytest.approx(epsilon, rel=1e-3)
