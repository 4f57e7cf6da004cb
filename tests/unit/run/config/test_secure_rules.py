"""Rules between groups of settings for secure sums."""

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.config.effect import load_typed
from pipeline.config.load import load_config
from pipeline.config.secure_rules import (
    RARE,
    chance_of_drawn_loss,
    chance_of_few,
    chance_of_loss,
)
from spire_core.errors import AggregationError, ConfigError
from spire_core.secure_sum.keys import ClientSecrets
from spire_core.secure_sum.protocol import SumPlan, require_threshold

SECURE = ("federation.secure_aggregation=true", "federation.num_rounds=20")
DRAWN = ("client.opt_state=reset", "privacy.rounds.epsilon=8", "federation.num_clients=1000")
DRAWN += ("client.engine=loop",)


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


@pytest.mark.parametrize("num_members", [3, 9, 20, 65])
def test_the_chance_of_a_lost_sum_is_that_of_the_protocol(num_members: int) -> None:
    """Counted over draws of who stays, by the very check that ends a run."""
    plan = SumPlan(
        "a sum", {c: ClientSecrets(b"k" * 32, "s", c).public for c in range(num_members)}
    )
    rng, rate, lost, num_draws = np.random.default_rng(0), 0.25, 0, 400
    for _ in range(num_draws):
        remaining = np.flatnonzero(rng.random(num_members) >= rate).tolist()
        try:
            require_threshold(plan, remaining)
        except AggregationError:
            lost += 1
    low, high = binom.interval(0.999, num_draws, chance_of_loss(num_members, rate))
    assert low <= lost <= high
    assert 0 < lost < num_draws


def test_a_ring_has_the_bound_of_all_its_clients() -> None:
    few = binom.cdf(43, 65, 0.9)  # 44 of 65 holders are needed
    assert chance_of_loss(200, 0.1) == pytest.approx(200 * few, rel=1e-9)
    assert chance_of_loss(200, 0.9) == 1.0


@pytest.mark.parametrize(("num_clients", "cohort_size"), [(100, 20), (60, 30), (10**6, 20)])
def test_drawn_cohorts_have_the_mean_over_their_sizes(num_clients: int, cohort_size: int) -> None:
    sizes = range(1, min(num_clients, 100) + 1)
    drawn = binom.pmf(sizes, num_clients, cohort_size / num_clients)
    expected = sum(p * chance_of_loss(k, 0.05) for p, k in zip(drawn, sizes, strict=True))
    found = chance_of_drawn_loss(num_clients, cohort_size, 0.05)
    assert found == pytest.approx(expected, rel=1e-3)
    assert chance_of_drawn_loss(cohort_size, cohort_size, 0.05) == chance_of_loss(cohort_size, 0.05)


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        (("federation.cohort_size=3",), 0.1),  # of three clients none may leave
        (("federation.num_clients=40", "federation.cohort_size=20"), 0.1),
        ((*DRAWN, "federation.cohort_size=20"), 0.1),
    ],
)
def test_clients_that_would_probably_end_the_run_are_refused_before_it(
    words: tuple[str, ...], rate: float
) -> None:
    wanted = r"expected a chance of at most 0.001 that too few clients of some round stay .* got "
    with pytest.raises(ConfigError, match=wanted):
        load_typed("smoke", [*SECURE, *words, f"federation.drop_rate={rate}"])
    assert load_typed("smoke", [*SECURE, *words]).federation.secure_aggregation
    plain = [*words, f"federation.drop_rate={rate}"]
    assert load_typed("smoke", plain).federation.drop_rate == rate
    stored = load_config("smoke", [*SECURE, *plain])  # a run that had begun, and may have finished
    assert stored.federation.drop_rate == rate


def test_a_large_cohort_may_lose_some_and_a_method_without_rounds_all() -> None:
    words = ("federation.num_clients=40", "federation.cohort_size=20", "federation.drop_rate=0.02")
    assert load_typed("smoke", [*SECURE, *words]).federation.drop_rate == 0.02
    words = ("method=local", "federation.drop_rate=0.9")
    assert load_typed("smoke", [*SECURE, *words]).federation.drop_rate == 0.9
