"""K components: gradients against autograd, closed forms, two components, identification."""

import math

import pytest
import torch

from pipeline.theory.components import means_of
from spire_core.mixture.expected_loss import cramer_rao
from spire_core.mixture.k_components import (
    descend_logits_all_t,
    draw,
    drawn_information,
    likelihood_weights,
    logit_gradient,
    reduced_means,
    simplex_cramer_rao,
)
from spire_core.mixture.two_components import ddpm_loss, grad_h, normals, signal_and_noise
from spire_core.rng import numpy_generator


def weights_of(k: int) -> torch.Tensor:
    return torch.from_numpy(numpy_generator(0, "test_weights", k).dirichlet([4.0] * k))


def least_error(weights: torch.Tensor, means: torch.Tensor) -> float:
    """The Cramer-Rao bound of n * MSE."""
    generator = numpy_generator(0, "test_information")
    return simplex_cramer_rao(drawn_information(weights, means, generator), 1)


def loss_in_d(x0, z, logits, means, t: float) -> torch.Tensor:
    """The definition, in d dimensions and with no reduction: x0, z (n, d), means (K, d)."""
    signal, sigma = signal_and_noise(t)
    xt, mu_t = signal * x0 + sigma * z, signal * means
    energy = -0.5 * (xt[:, None] - mu_t).square().sum(-1)
    r = torch.softmax(logits + energy, -1)
    return (r @ mu_t - xt + z / sigma).square().sum(-1).mean()


@pytest.mark.parametrize(("k", "d"), [(2, 1), (5, 2), (10, 16)])
def test_the_gradient_in_logits_is_that_of_autograd_in_d_dimensions(k: int, d: int) -> None:
    generator = numpy_generator(0, "test_logits", k, d)
    means, x0, z = (
        normals(generator, k, d),
        2.0 * normals(generator, 40, d),
        normals(generator, 40, d),
    )
    logits, t = normals(generator, k), float(generator.uniform(0.1, 2.0))
    signal, sigma = (torch.tensor(v, dtype=torch.float64) for v in signal_and_noise(t))
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(loss_in_d(x0, z, logits, means, t), logits)
    logits = logits.detach()[:, None]

    found = logit_gradient(x0.T[:, None], z.T[:, None], logits, means, signal, sigma)
    found = (signal / sigma * found.mean(-1)).squeeze(1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)

    # The same in the reduced coordinates: centred, and rotated onto the span of the means.
    reduced, middle = reduced_means(means), means.mean(0)
    onto = torch.linalg.pinv(means - middle) @ reduced
    x, noise = ((x0 - middle) @ onto).T[:, None], (z @ onto).T[:, None]
    found = logit_gradient(x, noise, logits, reduced, signal, sigma)
    found = (signal / sigma * found.mean(-1)).squeeze(1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_two_components_are_the_case_of_one_weight() -> None:
    generator = numpy_generator(0, "test_two")
    y, z, h = normals(generator, 1, 30), normals(generator, 1, 30), normals(generator, 1, 1)
    m, t = 1.3, 0.6
    signal, sigma = (torch.tensor(v, dtype=torch.float64) for v in signal_and_noise(t))
    means = torch.tensor([[m], [-m]], dtype=torch.float64)
    found = logit_gradient(y[None], z[None], torch.cat([h, -h]), means, signal, sigma)
    found = signal / sigma * found.mean(-1)
    expected, _ = grad_h(y, z, h, m, t)
    torch.testing.assert_close(found[0] - found[1], expected[0])
    along = torch.full((1,), m, dtype=torch.float64)
    loss = ddpm_loss(y.T, z.T, h, along, t)
    torch.testing.assert_close(loss_in_d(y.T, z.T, torch.cat([h, -h]).squeeze(1), means, t), loss)


def test_reduced_means_keep_all_distances() -> None:
    for shape, k, rank in (("general", 5, 4), ("orthogonal", 3, 2), ("circle", 8, 2)):
        means = means_of(shape, k, numpy_generator(0, "test_means", k))
        reduced = reduced_means(means)
        assert reduced.shape == (k, rank)
        torch.testing.assert_close(torch.cdist(reduced, reduced), torch.cdist(means, means))


def test_two_components_have_twice_the_bound_of_one_weight() -> None:
    means = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    assert least_error(weights, means) == pytest.approx(2.0 * cramer_rao(0.3, 1.0, 1), rel=0.01)


@pytest.mark.parametrize(
    ("case", "shape", "k"),
    [(1, "general", 5), (3, "orthogonal", 5), (5, "circle", 8)],
)
@pytest.mark.slow
def test_descent_over_all_t_is_within_a_fifth_of_cramer_rao(case: int, shape: str, k: int) -> None:
    means, weights, n = (
        reduced_means(means_of(shape, k, numpy_generator(0, "test_means", k))),
        weights_of(k),
        500,
    )
    generator = numpy_generator(0, "test_components", case)
    found = []
    for _ in range(6):
        x = draw(weights, means, (12, n), generator)[0]
        pi = descend_logits_all_t(x, means, 220, 150, generator)
        torch.testing.assert_close(pi.sum(0), torch.ones(12, dtype=torch.float64))
        assert bool((pi >= 0).all())
        found.append(n * (pi - weights[:, None]).square().sum(0))
    errors = torch.cat(found)
    least = least_error(weights, means)
    margin = 4 * float(errors.std()) / math.sqrt(len(errors))
    assert float(errors.mean()) <= 1.2 * least + margin


def test_counts_are_as_good_as_samples_that_occur_as_often() -> None:
    generator = numpy_generator(0, "test_counts")
    densities = torch.from_numpy(generator.random((3, 2, 4)))
    counts = torch.tensor([[1, 2, 3, 2], [5, 1, 1, 1]])
    repeated = [densities[:, r].repeat_interleave(counts[r], 1) for r in range(2)]
    expected = likelihood_weights(torch.stack(repeated, 1), 50)
    torch.testing.assert_close(likelihood_weights(densities, 50, counts / 2.0), expected)
