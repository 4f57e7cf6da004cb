"""The lower bound on epsilon: against scipy, and never above the truth of a known mechanism."""

import math

import numpy as np
import pytest
from scipy import stats

from spire_core.privacy.one_run import epsilon_from_scores, epsilon_lower_bound, p_value

M = 200


def reference_p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """The formula with scipy's binomial distribution, term by term."""
    q = 1 / (1 + math.exp(-epsilon))
    worst = total = 0.0
    for i in range(1, v + 1):
        total += stats.binom.pmf(v - i, r, q)
        worst = max(worst, total / i)
    return min(1.0, float(stats.binom.sf(v - 1, r, q)) + worst * delta * 2 * m)


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 2.0, 6.0])
def test_the_p_value_is_that_of_the_paper(epsilon: float, delta: float) -> None:
    for r, v in [(10, 0), (10, 7), (50, 50), (100, 64)]:
        expected = reference_p_value(M, r, v, epsilon, delta)
        assert p_value(M, r, v, epsilon, delta) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_bounds_by_hand() -> None:
    """All of r guesses right refute every epsilon with q^r < 5 %: q = 1 / (1 + e^-epsilon)."""
    q = 0.05 ** (1 / 100)
    expected = math.log(q / (1 - q))
    assert epsilon_lower_bound(100, 100, 100) == pytest.approx(expected, abs=1e-3)
    assert epsilon_lower_bound(100, 100, 50) == 0.0
    assert epsilon_lower_bound(100, 100, 100, delta=1e-3) < expected
    assert epsilon_lower_bound(100, 100, 90) < epsilon_lower_bound(100, 100, 95)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_a_bound_is_seldom_above_the_truth_and_often_near_it(epsilon: float) -> None:
    """Randomised response tells each coin truly with chance q: it is epsilon-DP, and no better."""
    rng, q, bounds = np.random.default_rng(0), 1 / (1 + math.exp(-epsilon)), []
    for _ in range(60):
        included = rng.random(M) < 0.5
        told = np.where(rng.random(M) < q, included, ~included)
        scores = told + 1e-6 * rng.random(M)
        bounds.append(epsilon_from_scores(scores, included))
    assert np.mean(np.array(bounds) > epsilon) <= 0.05 + 0.06  # 60 repeats
    assert np.median(bounds) > 0.3 * epsilon


def test_scores_without_power_prove_nothing() -> None:
    rng, bounds = np.random.default_rng(1), []
    for _ in range(60):
        bounds.append(epsilon_from_scores(rng.random(M), rng.random(M) < 0.5))
    assert np.mean(np.array(bounds) > 0) <= 0.05 + 0.06
    everything = rng.random(M) < 0.5
    assert epsilon_from_scores(everything.astype(float), everything) > 3.0
