"""Rules between groups of settings for masks and noise."""

import pytest
from scipy.stats import binom

from pipeline.config.load import load_config
from pipeline.config.privacy_rules import RARE, chance_of_few
from spire_core.errors import ConfigError

BOTH = ("federation.secure_aggregation=true", "client.opt_state=reset", "privacy.rounds.epsilon=8")


@pytest.mark.parametrize(
    ("num_clients", "cohort_size"), [(6, 4), (9, 9), (100, 3), (1000, 20), (100_000_000, 20)]
)
def test_the_chance_of_few_is_that_of_a_binomial(num_clients: int, cohort_size: int) -> None:
    expected = float(binom.cdf(2, num_clients, cohort_size / num_clients))
    assert chance_of_few(num_clients, cohort_size) == pytest.approx(expected, rel=1e-6)


def test_cohorts_of_twenty_are_enough_in_any_population() -> None:
    """The chance grows with the population, towards that of Poisson's distribution."""
    sizes = [20, 40, 1000, 10**6, 10**8]
    chances = [chance_of_few(num_clients, 20) for num_clients in sizes]
    assert chances == sorted(chances)
    assert chances[-1] < RARE < chance_of_few(10**8, 19)


@pytest.mark.parametrize(
    "words",
    [
        ("federation.cohort_size=6",),  # all of six
        ("privacy.rounds.mechanism=dp_ftrl",),  # the next four of six
        ("federation.num_clients=1000", "federation.cohort_size=20"),
    ],
)
def test_masks_and_noise_go_together_where_cohorts_are_large_enough(words: tuple[str, ...]) -> None:
    assert load_config("smoke", [*BOTH, *words]).federation.secure_aggregation
    with pytest.raises(ConfigError, match=r"^expected federation.cohort_size of at least 3 with"):
        load_config("smoke", [*BOTH, *words, "federation.cohort_size=2"])
