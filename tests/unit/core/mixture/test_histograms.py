"""Components of any shape: diffused scores, the loss over all t as a divergence, descent."""

import math

import pytest
import torch

from spire_core.mixture.histograms import (
    Histograms,
    denoising_gap,
    descend_all_t,
    diffused_nodes,
    divergence,
    likelihood_gradient_in_logits,
    logit_gradient_all_t,
    rate_of_descent,
)

SHAPES = torch.tensor([[5.0, 1.0, 1.0], [1.0, 4.0, 2.0], [1.0, 1.0, 6.0]], dtype=torch.float64)
SKEWED = Histograms.of(SHAPES, -1.0, 2.0)
NODES = diffused_nodes(SKEWED)
TARGET = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def test_the_diffused_density_is_the_mean_of_bells_around_signal_times_data() -> None:
    signal, sigma, width = 0.8, 0.6, 0.001
    data = torch.arange(-1.0 + width / 2, 2.0, width, dtype=torch.float64)
    heights = SKEWED.heights[1, torch.searchsorted(SKEWED.edges, data) - 1]
    bells = torch.exp(-0.5 * ((0.4 - signal * data) / sigma) ** 2)
    expected = (heights * bells).sum() * width / (sigma * math.sqrt(2 * math.pi))
    found, _ = SKEWED.diffused(torch.tensor([0.4], dtype=torch.float64), signal, sigma)
    assert float(found[1, 0]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("pi", [[0.2, 0.5, 0.3], [0.9, 0.05, 0.05], [0.01, 0.01, 0.98]])
def test_the_loss_over_all_t_is_the_divergence_and_so_are_gradients(pi: list[float]) -> None:
    weights = torch.tensor(pi, dtype=torch.float64)
    kl = divergence(SKEWED, weights, TARGET)
    torch.testing.assert_close(denoising_gap(NODES, weights, TARGET), kl, rtol=1e-5, atol=0.0)
    found = logit_gradient_all_t(NODES, weights, TARGET)
    expected = likelihood_gradient_in_logits(SKEWED, weights, TARGET)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


def test_the_likelihood_gradient_is_that_of_autograd() -> None:
    logits = torch.tensor([0.3, -1.0, 0.2], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(divergence(SKEWED, torch.softmax(logits, 0), TARGET), logits)
    found = likelihood_gradient_in_logits(SKEWED, torch.softmax(logits.detach(), 0), TARGET)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("corner", [0, 2])
def test_descent_finds_the_weights_from_a_corner_at_the_predicted_rate(corner: int) -> None:
    start = 3.0 * torch.eye(3, dtype=torch.float64)[corner]
    path = torch.softmax(descend_all_t(NODES, TARGET, start, 250), 1)
    errors = (path - TARGET).abs().amax(1)
    assert float(errors[-1]) < 1e-5
    near = (errors < 1e-3) & (errors > 1e-4)
    measured = (errors[1:] / errors[:-1])[near[:-1]]
    assert float(measured[-1]) == pytest.approx(rate_of_descent(SKEWED, TARGET), abs=0.01)


def test_dependent_components_do_not_tell_the_weights() -> None:
    rising, falling = [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]
    shapes = torch.tensor([rising, falling, [1.0] * 3], dtype=torch.float64)
    start = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
    path = descend_all_t(diffused_nodes(Histograms.of(shapes)), TARGET, start, 400)
    end = torch.softmax(path[-1], 0)
    assert float(divergence(Histograms.of(shapes), end, TARGET)) < 1e-6
    assert float((end - TARGET).abs().max()) > 0.05
    assert rate_of_descent(Histograms.of(shapes), TARGET) == pytest.approx(1.0)
