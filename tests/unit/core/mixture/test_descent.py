"""Descent on the denoising loss: where it is as good as likelihood, where it fails, the ends."""

import math

import pytest
import torch

from spire_core.mixture.estimators import (
    all_t_gradient,
    descend_all_t,
    descend_fixed_t,
    fixed_t_gradient,
    iterates,
    maximum_likelihood,
    tail_mean,
)
from spire_core.mixture.expected_loss import (
    cramer_rao,
    expected_path,
    fixed_t_error,
    published_bound,
    rate,
)
from spire_core.mixture.two_components import draw_projected, time_of
from spire_core.rng import numpy_generator

W = 0.3


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def errors_of_descent(d: int, m_t: float, n: int, replicates: int, case: int) -> torch.Tensor:
    """n * squared errors of descent at the t where m_t is as given, ||mu|| = sqrt(d)."""
    m, generator = math.sqrt(d), numpy_generator(0, "test_descent", case)
    y = draw_projected(W, m, (replicates, n), generator)
    return n * (descend_fixed_t(y, m, time_of(m_t, m), 80, 50, generator) - W) ** 2


@pytest.mark.parametrize(
    ("case", "d", "m_t"),
    [(100, 4, 0.5), (104, 64, 0.75), (108, 1024, 1.0)],
)
def test_the_error_does_not_grow_with_d(case: int, d: int, m_t: float) -> None:
    mean, error = mean_and_error(errors_of_descent(d, m_t, 400, 500, case))
    assert 0.19 - 4 * error <= mean <= 0.30 + 4 * error
    expected = 400 * fixed_t_error(W, math.sqrt(d), time_of(m_t, math.sqrt(d)), 400, 50)
    assert abs(mean - expected) <= 4 * error


@pytest.mark.slow
@pytest.mark.parametrize(("case", "d"), [(200, 4), (201, 256)])
def test_fixed_draws_cost_what_the_sandwich_says(case: int, d: int) -> None:
    m, generator = math.sqrt(d), numpy_generator(0, "test_fixed_draws", case)
    y, t = draw_projected(W, m, (600, 1000), generator), time_of(0.75, m)
    gradient = fixed_t_gradient(y, m, t, generator, is_fresh=False)
    found = tail_mean(iterates(gradient, 2.0 * 0.75**2, 600), 100, 1)
    mean, error = mean_and_error(1000 * (found - W) ** 2)
    assert abs(mean - 1000 * fixed_t_error(W, m, time_of(0.75, m), 1000, 1)) <= 4 * error


@pytest.mark.parametrize(("case", "d", "t"), [(300, 256, 1.0), (302, 16, 0.1)])
def test_descent_at_one_t_fails_where_m_t_is_large(case: int, d: int, t: float) -> None:
    m, n, generator = math.sqrt(d), 200, numpy_generator(0, "test_failure", case)
    y = draw_projected(W, m, (500, n), generator)
    mean, error = mean_and_error(n * (descend_fixed_t(y, m, t, 200, 1, generator) - W) ** 2)
    assert mean - 4 * error > n * published_bound(W, m * math.exp(-t), d, n)
    if (d, t) == (256, 1.0):
        assert abs(mean - 8.0) <= 0.2


def test_descent_over_all_t_does_not_fail_there() -> None:
    n, generator = 200, numpy_generator(0, "test_all_t_works")
    y = draw_projected(W, 16.0, (300, n), generator)
    found = descend_all_t(y, 16.0, 300, 250, generator)
    mean, error = mean_and_error(n * (found - W) ** 2)
    assert mean <= 1.2 * n * cramer_rao(W, 16.0, n) + 4 * error


def test_descent_over_all_t_goes_to_maximum_likelihood() -> None:
    generator = numpy_generator(0, "test_all_t_limit")
    y = draw_projected(W, 2.0, (10, 200), generator)
    found = tail_mean(iterates(all_t_gradient(y, 2.0, generator), 3.0, 10), 2500, 2400)
    left = (found - maximum_likelihood(y, 2.0)).abs()
    assert float(left.max()) < 0.2 * math.sqrt(cramer_rao(W, 2.0, 200))


@pytest.mark.parametrize("m_t", [0.5, 1.0, 1.5])
def test_the_expected_path_converges_by_the_linear_factor(m_t: float) -> None:
    path = expected_path(W, m_t, 120)
    left = [w - W for w in path if abs(w - W) > 1e-11]
    assert left[-1] / left[-2] == pytest.approx(1.0 - rate(W, m_t), rel=1e-3)
