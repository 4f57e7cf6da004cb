"""Descent on the denoising loss: where it is as good as likelihood, where it fails, the ends."""

import math
from itertools import islice

import numpy as np
import pytest
import torch

from spire_core.mixture.descent import (
    all_t_gradient,
    descend_all_t,
    descend_fixed_t,
    fixed_t_gradient,
    iterates,
    tail_mean,
)
from spire_core.mixture.estimators import maximum_likelihood
from spire_core.mixture.exact_errors import cramer_rao, fixed_t_error, published_bound
from spire_core.mixture.expected_loss import expected_path, rate
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


@pytest.mark.parametrize(("case", "m_t"), [(0, 0.5), (20, 1.0)])
def test_the_slope_in_n_is_minus_one(case: int, m_t: float) -> None:
    nums = (50, 150, 450, 1350)
    mse = []
    for i, n in enumerate(nums):
        mse.append(mean_and_error(errors_of_descent(64, m_t, n, 400, case + i))[0] / n)
    slope = np.polyfit(np.log(nums), np.log(mse), 1)[0]
    assert abs(slope + 1.0) <= 0.08


@pytest.mark.parametrize(
    ("case", "d", "m_t"),
    [(100, 4, 0.5), (102, 4, 1.0), (104, 64, 0.75), (106, 1024, 0.5), (108, 1024, 1.0)],
)
def test_the_error_does_not_grow_with_d(case: int, d: int, m_t: float) -> None:
    mean, error = mean_and_error(errors_of_descent(d, m_t, 400, 500, case))
    assert 0.19 - 4 * error <= mean <= 0.30 + 4 * error
    expected = 400 * fixed_t_error(W, math.sqrt(d), time_of(m_t, math.sqrt(d)), 400, 50)
    assert abs(mean - expected) <= 4 * error


@pytest.mark.parametrize(("case", "d"), [(200, 4), (201, 256)])
def test_fixed_draws_cost_what_the_sandwich_says(case: int, d: int) -> None:
    m, generator = math.sqrt(d), numpy_generator(0, "test_fixed_draws", case)
    y, t = draw_projected(W, m, (600, 1000), generator), time_of(0.75, m)
    gradient = fixed_t_gradient(y, m, t, generator, is_fresh=False)
    found = tail_mean(iterates(gradient, 2.0 * 0.75**2, 600), 100, 1)
    mean, error = mean_and_error(1000 * (found - W) ** 2)
    assert abs(mean - 1000 * fixed_t_error(W, m, time_of(0.75, m), 1000, 1)) <= 4 * error


def test_both_parameters_find_the_same_weight() -> None:
    y = draw_projected(W, 4.0, (20, 500), numpy_generator(0, "test_parameters"))
    found = []
    for in_weight in (False, True):
        generator = numpy_generator(0, "test_parameters_noise")
        gradient = fixed_t_gradient(y, 4.0, 1.5, generator, is_fresh=False)
        path = iterates(gradient, 2.0 * (4.0 * math.exp(-1.5)) ** 2, 20, in_weight)
        found.append(tail_mean(path, 200, 1))
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("case", "d", "t"), [(300, 256, 1.0), (301, 64, 1.0), (302, 16, 0.1)])
def test_descent_at_one_t_fails_where_m_t_is_large(case: int, d: int, t: float) -> None:
    m, n, generator = math.sqrt(d), 200, numpy_generator(0, "test_failure", case)
    y = draw_projected(W, m, (500, n), generator)
    mean, error = mean_and_error(n * (descend_fixed_t(y, m, t, 200, 1, generator) - W) ** 2)
    assert mean - 4 * error > n * published_bound(W, m * math.exp(-t), d, n)
    if (d, t) == (256, 1.0):
        assert abs(mean - 8.0) <= 0.2


def test_a_longer_step_mends_the_failure_that_is_the_optimisers() -> None:
    n, generator = 200, numpy_generator(0, "test_longer")
    y = draw_projected(W, 8.0, (300, n), generator)
    gradient, steepest = fixed_t_gradient(y, 8.0, 1.0, generator), 2.0 * (8.0 / math.e) ** 2
    path = iterates(gradient, steepest / 4.0, 300, is_damped=False)
    mean, error = mean_and_error(n * (tail_mean(path, 200, 20) - W) ** 2)
    assert mean + 4 * error < n * published_bound(W, 8.0 / math.e, 64, n)


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


@pytest.mark.parametrize(("case", "m_t"), [(400, 0.5), (401, 1.0)])
def test_data_converge_by_the_linear_factor(case: int, m_t: float) -> None:
    generator = numpy_generator(0, "test_rate", case)
    y = draw_projected(W, 8.0, (60, 3000), generator)
    gradient = fixed_t_gradient(y, 8.0, time_of(m_t, 8.0), generator, is_fresh=False)
    path = iterates(gradient, 2.0 * m_t**2, 60)
    w = torch.cat(list(islice(path, 200)), 1)
    left = (w - w[:, -1:]).abs()
    ratio = [row[1:][near] / row[:-1][near] for row, near in zip(left, _near(left), strict=True)]
    mean, error = mean_and_error(torch.stack([r.mean() for r in ratio]))
    assert abs(mean - (1.0 - rate(W, m_t))) <= 4 * error


def _near(left: torch.Tensor) -> torch.Tensor:
    return (left[:, 1:] > 1e-9) & (left[:, :-1] < 1e-4)


def test_descent_is_stuck_from_m_t_of_3_on() -> None:
    gaps = {m_t: abs(expected_path(W, m_t, 200)[-1] - W) / 0.2 for m_t in (2.0, 3.0, 4.0, 6.0)}
    assert gaps[2.0] < 0.01
    assert gaps[3.0] > 0.5
    assert gaps[4.0] > 0.95
    assert gaps[6.0] > 0.999


@pytest.mark.parametrize("w", [0.0, 0.02, 0.98, 1.0])
@pytest.mark.parametrize("in_weight", [False, True])
@pytest.mark.parametrize("is_damped", [False, True])
def test_weights_near_the_ends_stay_inside(w: float, in_weight: bool, is_damped: bool) -> None:
    for m, t in ((1.0, 0.3), (4.0, 1.5), (32.0, 0.01)):
        generator = numpy_generator(0, "test_ends", int(100 * w), int(m))
        y = draw_projected(w, m, (20, 100), generator)
        descents = (
            (fixed_t_gradient(y, m, t, generator), 2.0 * (m * math.exp(-t)) ** 2),
            (all_t_gradient(y, m, generator), 1.0),
        )
        paths = [iterates(*one, 20, in_weight, is_damped) for one in descents]
        for found in (*(tail_mean(path, 100, 100) for path in paths), maximum_likelihood(y, m)):
            assert bool(((found >= 0.0) & (found <= 1.0)).all())


@pytest.mark.parametrize("w", [0.02, 0.98])
def test_the_full_step_in_w_oscillates_and_the_damped_one_does_not(w: float) -> None:
    y = draw_projected(w, 4.0, (100, 200), numpy_generator(0, "test_swing", int(100 * w)))
    swings, errors = {}, {}
    for is_damped in (True, False):
        generator = numpy_generator(0, "test_swing_noise", int(100 * w))
        gradient = fixed_t_gradient(y, 4.0, time_of(0.75, 4.0), generator, is_fresh=False)
        path = iterates(gradient, 2 * 0.75**2, 100, True, is_damped)
        last = torch.cat(list(islice(path, 150, 200)), 1)
        swings[is_damped] = float(last.diff(dim=1).abs().mean())
        errors[is_damped] = float(((last.mean(1) - w) ** 2).mean())
    assert swings[False] > 0.01
    assert swings[True] < 1e-9
    assert errors[True] < errors[False]
