"""Two Gaussians: gradients against autograd in d dimensions, exact errors, and the bridge."""

import math

import pytest
import torch

from spire_core.mixture.estimators import maximum_likelihood, moment
from spire_core.mixture.expected_loss import (
    cramer_rao,
    likelihood_gradient,
    moment_error,
    published_bound,
)
from spire_core.mixture.two_components import (
    ddpm_loss,
    draw_projected,
    grad_h,
    log_odds,
    normals,
    odds_slope,
    score,
    signal_and_noise,
    time_of,
)
from spire_core.rng import numpy_generator, torch_generator

W = 0.3


def assert_within(values: torch.Tensor, expected: float) -> None:
    """The mean of independent values is within 4 of its standard errors of what is expected."""
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) <= 4.0 * error


def random_case(case: int, d: int):
    generator = torch_generator(0, "test_gmm", case)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    w = torch.rand(1, generator=generator, dtype=torch.float64)
    t = 0.05 + 2.0 * float(torch.rand(1, generator=generator, dtype=torch.float64))
    return draw(d), draw(50, d) * 2.0, draw(50, d), w, t


@pytest.mark.parametrize(("case", "d"), [(0, 1), (3, 16)])
def test_gradients_in_h_and_in_w_are_those_of_autograd_in_d_dimensions(case: int, d: int) -> None:
    mu, x0, z, w, t = random_case(case, d)
    m = float(mu.norm())
    h = log_odds(w)
    found, _ = grad_h((x0 @ mu / m)[None], (z @ mu / m)[None], h, m, t)

    h.requires_grad_()
    (in_h,) = torch.autograd.grad(ddpm_loss(x0, z, h, mu, t), h)
    torch.testing.assert_close(found[0], in_h, rtol=1e-10, atol=1e-10)

    w.requires_grad_()
    (in_w,) = torch.autograd.grad(ddpm_loss(x0, z, log_odds(w), mu, t), w)
    in_w_here = (found * odds_slope(w.detach()))[0]
    torch.testing.assert_close(in_w_here, in_w, rtol=1e-10, atol=1e-10)


def test_the_score_is_the_gradient_of_the_log_density() -> None:
    mu, x0, _, w, t = random_case(20, 4)
    x = x0.requires_grad_()
    mu_t = math.exp(-t) * mu
    parts = [torch.log(w) - 0.5 * (x - mu_t).square().sum(-1)]
    parts.append(torch.log(1 - w) - 0.5 * (x + mu_t).square().sum(-1))
    (expected,) = torch.autograd.grad(torch.logsumexp(torch.stack(parts), 0).sum(), x)
    torch.testing.assert_close(score(x.detach(), log_odds(w), mu, t), expected)


def test_the_bound_on_the_curvature_is_a_gauss_newton_part_and_the_rest() -> None:
    mu, x0, z, w, t = random_case(21, 3)
    m, h = float(mu.norm()), log_odds(w)
    signal, sigma = signal_and_noise(t)
    jacobian = torch.autograd.functional.jacobian(
        lambda at: score(signal * x0 + sigma * z, at, mu, t), h
    )
    gauss_newton = 2.0 * jacobian.square().sum((1, 2)).mean()
    hessian = torch.autograd.functional.hessian(lambda at: ddpm_loss(x0, z, at, mu, t), h)
    _, found = grad_h((x0 @ mu / m)[None], (z @ mu / m)[None], h, m, t)
    expected = gauss_newton + (hessian.squeeze() - gauss_newton).abs()
    torch.testing.assert_close(found.squeeze(), expected)


def test_the_likelihood_gradient_is_that_of_autograd() -> None:
    y = torch.linspace(-4, 4, 9, dtype=torch.float64)
    w = torch.linspace(0.1, 0.9, 9, dtype=torch.float64).requires_grad_()
    q = w * torch.exp(-0.5 * (y - 1.5) ** 2) + (1 - w) * torch.exp(-0.5 * (y + 1.5) ** 2)
    (expected,) = torch.autograd.grad(-q.log().sum(), w)
    torch.testing.assert_close(likelihood_gradient(y, w.detach(), 1.5), expected)


@pytest.mark.parametrize("d", [2, 1024])
def test_the_moments_error_is_exact(d: int) -> None:
    m, n, generator = math.sqrt(d), 50, numpy_generator(0, "test_moment", d)
    m_t = 0.8
    signal, sigma = signal_and_noise(time_of(m_t, m))
    y = draw_projected(W, m, (4000, n), generator)
    noised = signal * y + sigma * normals(generator, 4000, n)
    assert_within(n * (moment(noised, m_t) - W) ** 2, W * (1 - W) + 1 / (4 * m_t**2))
    assert_within((moment(y, m) - W) ** 2, moment_error(W, m, n))


@pytest.mark.parametrize("d", [1, 256])
def test_the_moment_of_one_noised_axis_meets_the_published_bound_with_equality(d: int) -> None:
    c, t, n, generator = 1.0, 0.4, 30, numpy_generator(0, "test_axis", d)
    signal, sigma = signal_and_noise(t)
    axis = signal * draw_projected(W, c, (4000, n), generator)
    axis += sigma * normals(generator, 4000, n)
    bound = published_bound(W, signal * c * math.sqrt(d), d, n)
    assert_within((moment(axis, signal * c) - W) ** 2, bound)


@pytest.mark.parametrize("m", [1.0, 2.0, 16.0])
def test_maximum_likelihood_reaches_cramer_rao(m: float) -> None:
    n, generator = 1000, numpy_generator(0, "test_likelihood", int(m))
    y = draw_projected(W, m, (1500, n), generator)
    assert_within((maximum_likelihood(y, m) - W) ** 2, cramer_rao(W, m, n))
