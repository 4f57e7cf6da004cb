"""A new client on means that are not exact: what theory expects, and what EM learns."""

import math

import pytest
import torch

from spire_core.mixture.estimators import maximum_likelihood
from spire_core.mixture.expected_loss import cramer_rao
from spire_core.mixture.inexact_means import (
    believed_error,
    draw_on_line,
    learn_means,
    line_of,
    perturbed,
)
from spire_core.mixture.two_components import normals
from spire_core.rng import numpy_generator

W, N = 0.3, 200


def true_mean(d: int, m: float) -> torch.Tensor:
    return torch.full((d,), m / math.sqrt(d), dtype=torch.float64)


def test_exact_means_leave_the_line_and_the_bound_as_they_are() -> None:
    mu = true_mean(8, 2.0)
    line = line_of(mu[None], -mu[None], mu)
    assert [float(v) for v in line] == pytest.approx([2.0, 2.0, -2.0])
    assert float(believed_error(W, line, N)) == pytest.approx(cramer_rao(W, 2.0, N), rel=1e-6)


@pytest.mark.parametrize(("case", "kind"), list(enumerate(["isotropic", "scale", "shift"])))
def test_the_error_on_wrong_means_is_what_theory_expects(case: int, kind: str) -> None:
    mu, generator = true_mean(16, 2.0), numpy_generator(0, "test_wrong", case)
    plus, minus = perturbed(mu, kind, 1.0, 600, generator)
    for means, true in ((plus, mu), (minus, -mu)):
        off = (means - true).norm(dim=-1)
        torch.testing.assert_close(off, torch.ones(600, dtype=torch.float64))
    line = line_of(plus, minus, mu)
    y = draw_on_line(W, line, 1000, generator)
    off = (maximum_likelihood(y, line.m) - W) ** 2 - believed_error(W, line, 1000)
    assert abs(float(off.mean())) <= 4 * float(off.std()) / math.sqrt(600)


def test_a_limit_that_is_pinned_at_an_end_leaves_its_distance_alone() -> None:
    """Both assumed means are beyond those of the data, on either side."""
    mu = true_mean(16, 2.0)
    for shift, end in ((6.0, 0.0), (-6.0, 1.0)):
        plus, minus = perturbed(mu, "shift", shift, 2, numpy_generator(0, "test_pinned"))
        found = believed_error(W, line_of(plus, minus, mu), N)
        assert found.tolist() == pytest.approx([(end - W) ** 2] * 2, abs=1e-6)


def test_more_pre_training_clients_learn_better_means() -> None:
    mu, generator = true_mean(32, 2.0), numpy_generator(0, "test_learned")
    errors, off = [], []
    for num_clients in (1, 4, 16):
        w = torch.from_numpy(generator.beta(0.5, 0.5, (20, num_clients, 1)))
        is_first = torch.from_numpy(generator.random((20, num_clients, 100))) < w
        x = normals(generator, 20, num_clients, 100, 32)
        plus, minus = learn_means(x + torch.where(is_first[..., None], mu, -mu), mu)
        off.append(float(((plus - mu).norm(dim=-1) + (minus + mu).norm(dim=-1)).mean()) / 2)
        errors.append(_expected(mu, plus, minus))
    assert off == sorted(off, reverse=True)
    assert off[-1] == pytest.approx(math.sqrt(32 / 800), rel=0.3)  # 1600 samples, half each
    assert errors[-1] == pytest.approx(cramer_rao(W, 2.0, N), rel=0.05)
    assert errors[0] > 1.2 * errors[-1]


def _expected(mu: torch.Tensor, plus: torch.Tensor, minus: torch.Tensor) -> float:
    return float(believed_error(W, line_of(plus, minus, mu), N).mean())
