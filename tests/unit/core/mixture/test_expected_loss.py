"""The expected loss in h, and its minimiser on finite data: against other quadratures."""

import math

import numpy as np
import pytest
import torch

from spire_core.mixture.estimators import averaged_minimiser
from spire_core.mixture.expected_loss import (
    CURVATURES,
    at_one_t,
    likelihood_gradient,
    over_all_t,
    resolved_share,
)
from spire_core.mixture.two_components import (
    draw_projected,
    grad_h,
    log_odds,
    normals,
    odds_slope,
    weight,
)
from spire_core.rng import numpy_generator

W = 0.3
PLACES = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64)
CASES = [(w, m_t) for w in (0.001, 0.3, 0.5) for m_t in (0.1, 1.0, 3.0)]


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("w", "m_t"), CASES)
def test_the_curvature_is_the_derivative_of_the_gradient(w: float, m_t: float) -> None:
    step = 1e-5
    up, down = (at_one_t(w, m_t, PLACES + s)[0] for s in (step, -step))
    torch.testing.assert_close(
        at_one_t(w, m_t, PLACES)[1], (up - down) / (2 * step), rtol=1e-6, atol=1e-9
    )


def test_the_expected_gradient_is_that_of_data_on_average() -> None:
    generator, m, t = numpy_generator(0, "test_expected"), 2.0, math.log(2.0)
    y, z = draw_projected(W, m, (4000, 100), generator), normals(generator, 4000, 100)
    h = numbers(0.7)
    found = grad_h(y, z, h, m, t)[0].squeeze(-1) / 2.0
    error = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) - float(at_one_t(W, 1.0, h)[0])) <= 4.0 * error


def test_the_bounds_of_the_curvature_are_those_of_its_integrand_and_are_nearly_reached() -> None:
    a, b = np.meshgrid(np.linspace(-1, 1, 2001), [-1.0, 1.0])  # linear in b: the ends suffice
    integrand = (1 - a**2) * (1 - a**2 - 2 * a * (a - b))
    assert integrand.min() == pytest.approx(CURVATURES[0], abs=1e-4)
    assert integrand.max() == pytest.approx(CURVATURES[1], abs=1e-4)
    assert CURVATURES[0] <= integrand.min()
    assert integrand.max() <= CURVATURES[1]
    assert float(at_one_t(1e-4, 0.02, PLACES)[1].max()) > 1.2


@pytest.mark.parametrize("m", [0.5, 2.0, 8.0])
def test_the_gradient_over_all_t_is_that_of_the_likelihood_and_twice_a_resolved_share(m) -> None:
    h = numbers(-1.0, 0.2, 1.5)
    w_h = weight(h)
    y, step = torch.arange(-m - 9, m + 9, 0.01, dtype=torch.float64), 0.01
    bells = [torch.exp(-0.5 * (y - s * m) ** 2) / math.sqrt(2 * math.pi) for s in (1, -1)]
    share = step * (W * bells[0] + (1 - W) * bells[1])
    found = over_all_t(W, m, h)
    for i in range(3):
        likelihood = (share * likelihood_gradient(y, w_h[i].expand(len(y)), m)).sum()
        assert float(found[i]) == pytest.approx(float(likelihood / odds_slope(w_h[i])), abs=1e-9)
        expected = 2 * (float(w_h[i]) - W) * resolved_share(float(w_h[i]), m)
        assert float(found[i]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("m", "t"), [(2.0, 0.7), (4.0, 0.1), (8.0, 1.0)])
def test_the_minimiser_has_the_least_loss_of_all_weights(m: float, t: float) -> None:
    """Against the loss by another quadrature, in the noise of each sample, on a fine grid of w."""
    signal, sigma = math.exp(-t), math.sqrt(-math.expm1(-2 * t))
    y = draw_projected(W, m, (3, 40), numpy_generator(0, "test_minimiser", int(m)))
    z = torch.arange(-8.0, 8.0, 0.02, dtype=torch.float64)
    of_z = torch.exp(-0.5 * z.square()) * 0.02 / math.sqrt(2 * math.pi)
    y_t, m_t = signal * y[..., None] + sigma * z, signal * m

    def loss(h: torch.Tensor) -> torch.Tensor:
        tanh = torch.tanh(m_t * y_t + h[:, None, None])
        return ((m_t**2 * (1 - tanh**2) * 2 + (m_t * tanh - y_t) ** 2) @ of_z).mean(1)

    found = averaged_minimiser(y, m, t)
    least = loss(log_odds(found.clamp(1e-12, 1 - 1e-12)))
    for w in np.linspace(0.005, 0.995, 100):
        assert bool(
            (least <= loss(log_odds(torch.full((3,), w, dtype=torch.float64))) + 1e-9).all()
        )
