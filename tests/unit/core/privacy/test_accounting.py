"""Epsilon and noise: Google's accountant, the closed forms and a derivation by hand agree."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld
from scipy.optimize import brentq
from scipy.stats import norm

from spire_core.config.privacy import PrivateAdaptConfig
from spire_core.errors import ConfigError
from spire_core.privacy import accounting, sampled
from spire_core.privacy.accounting import epsilon_spent, gaussian_delta, noise_for
from spire_core.privacy.guarantee import guarantee_of

PAGE = (Path(__file__).parents[4] / "docs" / "privacy.md").read_text()

RNG = np.random.default_rng(0)
WHOLE = [  # noise multiplier, steps, delta
    (float(np.exp(RNG.uniform(-1, 4))), int(np.exp(RNG.uniform(0, 6))), 10 ** RNG.uniform(-9, -2))
    for _ in range(180)
]
SAMPLED = [  # noise multiplier, steps, sampling rate, delta
    (RNG.uniform(2, 8), int(RNG.integers(1, 40)), RNG.uniform(0.02, 0.9), 10 ** RNG.uniform(-7, -3))
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


def test_sampled_steps_are_googles_loss_distributions() -> None:
    for sigma, steps, rate, delta in SAMPLED:
        event = dp_accounting.SelfComposedDpEvent(
            dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma)), steps
        )
        expected = pld.PLDAccountant().compose(event).get_epsilon(delta)
        found = epsilon_spent(sigma, steps, rate, delta)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert found <= epsilon_spent(sigma, steps, 1.0, delta) + 1e-3


@pytest.mark.parametrize(("sigma", "rate"), [(0.7, 0.1), (1.0, 0.5), (2.0, 0.9)])
def test_one_sampled_step_has_the_epsilon_that_follows_by_hand(sigma: float, rate: float) -> None:
    """P = (1 - q) N(0, s^2) + q N(1, s^2) against Q = N(0, s^2), in both directions.

    P > e^eps Q where the ratio N(1, s^2) / N(0, s^2) exceeds r = (e^eps - 1 + q) / q, and
    Q > e^eps P where it is below r' = (e^-eps - 1 + q) / q.
    """
    delta = 1e-4

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


@pytest.mark.parametrize(("epsilon", "rate"), [(0.1, 1.0), (1.0, 1.0), (8.0, 1.0), (2.0, 0.25)])
def test_the_noise_of_a_budget_spends_it_and_no_more(epsilon: float, rate: float) -> None:
    sigma = noise_for(epsilon, 1e-4, 40, rate)
    spent = epsilon_spent(sigma, 40, rate, 1e-4)
    assert 0.99 * epsilon < spent <= epsilon * (1 + 1e-12)
    assert epsilon_spent(0.98 * sigma, 40, rate, 1e-4) > epsilon


def test_sampled_steps_never_ask_for_more_noise_than_others() -> None:
    """The grid of losses is too wide for this budget; the closed form is not."""
    epsilon, delta, steps, rate = 1e-4, 1e-10, 10_000, 0.9
    sigma = noise_for(epsilon, delta, steps, rate)
    assert sigma == noise_for(epsilon, delta, steps, 1.0)
    assert epsilon_spent(sigma, steps, rate, delta) <= epsilon


@pytest.mark.parametrize("delta", [1e-6, sampled.LEAST_DELTA])
def test_an_account_of_nearly_all_images_is_that_of_all(delta: float) -> None:
    for epsilon, steps in ((0.5, 100), (8.0, 100), (8.0, 3000)):
        sigma = noise_for(epsilon, delta, steps, 1.0)
        account = sampled.sampled_epsilon(sigma, steps, 1 - 1e-9, delta)
        assert account == pytest.approx(epsilon, rel=1e-3)


def test_a_delta_below_the_rounding_of_sampled_accounts_is_refused() -> None:
    sentence = r"^expected a delta of at least 1e-10 where .*, got 1e-15: .*, or sample nothing$"
    private = PrivateAdaptConfig(epsilon=2.0, delta=1e-15, steps=100, batch_size=10)
    assert guarantee_of(replace(private, batch_size=100), 100) is not None
    with pytest.raises(ConfigError, match=sentence):
        guarantee_of(private, 100)


def test_the_table_of_the_gaussian_mechanism() -> None:
    """Values from a second implementation: `dp_accounting.get_sigma_gaussian`."""
    for epsilon, delta in ((1.0, 1 / 640), (3.0, 1 / 640), (8.0, 1 / 640), (0.05, 1e-8)):
        expected = dp_accounting.get_sigma_gaussian(epsilon, delta)
        assert noise_for(epsilon, delta, 1, 1.0) == pytest.approx(expected, rel=1e-3)
        assert noise_for(epsilon, delta, 9, 1.0) == pytest.approx(3 * expected, rel=1e-3)


def test_a_guarantee_names_what_it_rests_on() -> None:
    found = guarantee_of(PrivateAdaptConfig(epsilon=4.0), 64)
    assert found is not None
    assert (found.delta, found.num_steps, found.sampling_rate) == (1 / 640, 40, 1.0)
    assert (found.batch, found.source, found.mechanism) == (64, "secret", "dp_sgd")
    assert found.epsilon == 4.0, "that of every client of one budget"
    assert epsilon_spent(found.noise_multiplier, 40, 1.0, 1 / 640) <= 4.0
    assert found.noise_multiplier == noise_for(4.0, 1 / 640, 40, 1.0)
    one = guarantee_of(PrivateAdaptConfig(epsilon=4.0, mechanism="one_release"), 1000, True)
    assert one is not None
    assert (one.num_steps, one.sampling_rate, one.source) == (1, 1.0, "simulated")
    many = guarantee_of(PrivateAdaptConfig(epsilon=1.0, batch_size=100), 400)
    assert many is not None
    assert (many.sampling_rate, many.batch) == (0.25, 100)
    assert many.noise_multiplier < noise_for(1.0, 1 / 4000, 40, 1.0)
    assert guarantee_of(PrivateAdaptConfig(), 64) is None


def test_a_delta_that_lets_an_image_be_published_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^expected privacy.adapt.delta below 1/64 .*: "):
        guarantee_of(PrivateAdaptConfig(epsilon=4.0, delta=1 / 64), 64)


def test_noise_that_a_sum_cannot_hold_is_refused() -> None:
    """Its whole steps of the grid would all be the largest int64."""
    needed = r"privacy\.adapt\.epsilon and .* at most 1e\+06, got .* needs 1\.09e\+13: raise"
    with pytest.raises(ConfigError, match=needed):
        guarantee_of(PrivateAdaptConfig(epsilon=1e-12, delta=1e-14), 64)
    found = guarantee_of(PrivateAdaptConfig(epsilon=1e-5, delta=1e-6), 64)
    assert found is not None
    assert 5e5 < found.noise_multiplier < accounting.MAX_NOISE


def test_a_missing_package_is_one_sentence_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    assert guarantee_of(PrivateAdaptConfig(epsilon=4.0), 256) is not None  # whole batches
    with pytest.raises(ConfigError, match=r"^expected the package dp-accounting.*: pip install"):
        guarantee_of(PrivateAdaptConfig(epsilon=4.5), 257)


def test_the_page_says_how_lax_the_default_delta_is() -> None:
    noises = [noise_for(epsilon, 1 / 640, 40, 1.0) for epsilon in (1.0, 4.0, 8.0)]
    strict = [epsilon_spent(noise, 40, 1.0, 1e-5) for noise in noises]
    assert strict == pytest.approx([1.59, 5.72, 10.88], abs=0.005)
    assert "of epsilon 1, 4 and 8 at this delta (1/640) has epsilon 1.59, 5.72 and 10.88" in PAGE


def test_the_page_says_what_copies_of_an_image_cost() -> None:
    """k copies that are left out together change a sum by k C: the noise of one, over k."""
    found = guarantee_of(PrivateAdaptConfig(epsilon=4.0), 64)
    assert found is not None
    of_copies = [
        epsilon_spent(found.noise_multiplier / k, found.num_steps, 1.0, found.delta) for k in (2, 4)
    ]
    assert of_copies == pytest.approx([9.95, 26.75], abs=0.01)
    assert "with 64 images and epsilon 4 it is 9.95 for two copies and 26.75 for four" in PAGE
