"""The account of private rounds: Google's accountant, a closed form, and what is refused."""

from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld

from spire_core.config.privacy import PrivateRoundsConfig
from spire_core.errors import BudgetError, ConfigError
from spire_core.privacy.rounds import rounds_guarantee

RNG = np.random.default_rng(1)
SAMPLED = [  # clients, cohort, rounds, noise
    (
        int(RNG.integers(100, 10**6)),
        float(RNG.uniform(0.01, 0.5)),
        int(RNG.integers(1, 60)),
        float(z),
    )
    for z in RNG.uniform(1.5, 8, 6)
]


def test_sampled_rounds_are_googles_loss_distributions() -> None:
    for num_clients, share, num_rounds, noise in SAMPLED:
        cohort = max(1, round(share * num_clients))
        settings = PrivateRoundsConfig(epsilon=100.0)
        found = rounds_guarantee(settings, num_clients, num_clients, num_rounds)
        assert found is not None
        rate = cohort / num_clients
        found = replace(found, noise_multiplier=noise, sampling_rate=rate, cohort_size=cohort)
        step = dp_accounting.PoissonSampledDpEvent(
            cohort / num_clients, dp_accounting.GaussianDpEvent(noise)
        )
        event = dp_accounting.SelfComposedDpEvent(step, num_rounds)
        expected = pld.PLDAccountant().compose(event).get_epsilon(found.delta)
        assert found.spent(num_rounds) == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("num_rounds", [1, 7, 50])
def test_rounds_of_all_clients_are_one_gaussian(num_rounds: int) -> None:
    found = rounds_guarantee(PrivateRoundsConfig(epsilon=3.0), 500, 500, num_rounds)
    assert found is not None
    noise = found.noise_multiplier / num_rounds**0.5
    expected = dp_accounting.get_epsilon_gaussian(noise, found.delta)
    assert found.spent(num_rounds) == pytest.approx(expected, rel=1e-3)


def test_a_run_stops_before_the_round_that_would_exceed_its_budget() -> None:
    found = rounds_guarantee(PrivateRoundsConfig(epsilon=1.0), 500, 500, 12)
    assert found is not None
    found.check(11)
    with pytest.raises(BudgetError, match=r"^expected at most 12 noisy sums, .*, got 12 that are"):
        found.check(12)
    assert found.spent(12) <= 1.0 < found.spent(13)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"delta": 1 / 500}, r"^expected privacy.rounds.delta below 1/500 for 500 clients, got"),
        ({"epsilon": 0.01, "clip_quantile": 0.5}, r"^expected a noise multiplier below 50 with"),
        ({"epsilon": 1e-12, "delta": 1e-14}, r"^expected privacy.rounds.epsilon and .* at most 1e"),
    ],
)
def test_wrong_settings_are_one_sentence(words: dict, sentence: str) -> None:
    settings = PrivateRoundsConfig(**{"epsilon": 2.0, **words})
    with pytest.raises(ConfigError, match=sentence):
        rounds_guarantee(settings, 500, 500, 12)


def test_one_client_needs_a_delta_of_its_own() -> None:
    """N^-1.1 is 1 for it, so that the advice to leave delta null would lead nowhere."""
    with pytest.raises(
        ConfigError, match=r"^expected federation.num_clients of at least 2 .*got 1:"
    ):
        rounds_guarantee(PrivateRoundsConfig(epsilon=2.0), 1, 1, 3)
    found = rounds_guarantee(PrivateRoundsConfig(epsilon=2.0, delta=1e-5), 1, 1, 3)
    assert found is not None
    assert found.spent(3) <= 2.0


def test_adaptive_clipping_and_a_larger_cohorts_noise_go_together() -> None:
    """Both sums have the noise of 400 clients, scaled to the 40 that are simulated."""
    settings = PrivateRoundsConfig(epsilon=8.0, noise_cohort=400, clip_quantile=0.5)
    found = rounds_guarantee(settings, 10**5, 40, 12)
    assert found is not None
    rounds = found.round(2.0)
    assert rounds.count_noise == pytest.approx(40 / 20)  # a twentieth of a cohort
    whole = (found.noise_multiplier**-2 - (2 * 400 / 20) ** -2) ** -0.5
    assert rounds.sum_noise == pytest.approx(whole / 10)


def test_without_a_budget_nothing_is_promised() -> None:
    assert rounds_guarantee(PrivateRoundsConfig(), 5, 5, 9) is None
